"""The heart: one bounded queue and the two tasks at its ends. Start here, with `relay.py`.

Imports `answer/`, `errors` and `settings`. asyncio is all it knows of the world: no HTTP, no SDK, no metrics.
"""
