"""Several processes that serve as one: the parent that starts and replaces workers.

Imports `settings` and `telemetry` alone. Read `supervisor.py` first.
"""
