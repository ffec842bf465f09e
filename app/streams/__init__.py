"""One stream and all of them: its life, its frames and its reader, and where streams are found again.

Imports `answer/ flow/ wire/ money/ telemetry/`. Read `session.py` first, then `store.py`. No HTTP here.
"""
