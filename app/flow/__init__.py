"""The heart: one bounded queue and the two tasks at its ends. Start here, with `relay.py`.

Imports `answer/` and `errors`. asyncio is all it knows of the world: no HTTP, no SDK, no metrics.
"""
