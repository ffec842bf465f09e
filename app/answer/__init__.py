"""What Claude says, as values, without I/O: events, SSE decoding, the running tally, the transcript, the outcome.

Imports nothing but `errors`. Read `events.py` first.
"""
