"""Who may call, and how much: callers' keys, and which sites' pages may.

Imports `errors` alone. Read `keys.py` first.
"""
