"""The ways to Claude: the request by the official SDK, the answer's bytes at our own pace.

Imports `answer/`, and `money/` for recounting. Read `answer.py` first; `transport.py` is what lies below the SDK.
"""
