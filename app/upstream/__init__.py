"""The way to Claude: asked as the official SDK would ask, the answer's bytes read at our own pace.

`identity.py` says where to and with which key, and is all that knows the SDK; `transport.py` carries every request.
Imports `answer/`, and `money/` for recounting. Read `answer.py` first.
"""
