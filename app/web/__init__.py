"""The service as HTTP sees it: one way in, the routes of three protocols, the pages, and the reader's connection.

Imports every folder but `tools/`. Read `compose.py` first, which puts the parts together, then `entrance.py`, which lets
requests in, and `opening.py`, which opens a stream for one.
"""
