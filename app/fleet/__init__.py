"""Several processes that serve as one: the parent that starts and replaces workers.

Imports `settings` alone. Read `supervisor.py` first.
"""
