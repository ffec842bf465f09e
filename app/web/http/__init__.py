"""What is HTTP and nothing more: bodies and what they ask for, paths, headers, and errors as responses.

Imports no other folder of `web/`. Read `bodies.py` first, then `requests.py`.
"""
