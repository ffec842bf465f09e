"""Who may come in: every request passes here before a handler runs, and a route is closed until it says otherwise.

Imports `http/`. Read `way_in.py` first.
"""
