"""The reader's connection, the only writer to it, and how a stream is opened for a reader or one comes back to it.

Imports `http/ entrance/`. Read `opening.py` first, then `sse_connection.py`.
"""
