"""Who may call, and how much: callers, their keys, and which sites' pages may.

Imports `errors` alone. Read `callers.py` first.
"""
