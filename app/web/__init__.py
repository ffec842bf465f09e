"""The service as HTTP sees it: one way in, the routes of three protocols, the pages, and the reader's connection.

From the bottom up: `http/` (bodies, paths, headers), `entrance/` (who may come in), `readers/` (their connections, and how a
stream is opened for one), `elsewhere/` (streams of other processes), `routes/`. What stands beside them puts them together:
`compose.py` the service, `runner.py` its listening, draining and end, `process.py` a worker's process. Imports every folder but
`tools/`. Read `compose.py` first, then `entrance/way_in.py`, which lets requests in, and `readers/opening.py`.
"""
