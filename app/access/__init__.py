"""Who may call, and how much: callers' keys.

Imports `errors` alone. Read `keys.py` first.
"""
