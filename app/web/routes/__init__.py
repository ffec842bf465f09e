"""The paths: the three protocols, the admin port, the page, the doctor's probes, and what `/openapi.json` says of all of them.

One file a protocol or purpose. Imports `http/ entrance/ readers/ elsewhere/`. Read `plain_api.py`
first.
"""
