"""One stream and all of them: its life, its frames and its reader, and where streams are found again.

Imports `answer/ flow/ wire/ money/ telemetry/`. Read `session.py` first, then `registry.py`. No HTTP here.
"""
