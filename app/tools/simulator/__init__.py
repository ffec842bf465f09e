"""The simulated Claude: `python -m app simulate`. Shares no code with the service that it tests. Read `server.py` first."""
