"""Streams that another process has: another worker of this machine, the service this one replaces, another machine.

`forwarding.py` looks on this machine and `finding.py` on the others; `carrying.py` takes a request there and brings the answer
back, as long as the other end is there (`ways.py`), and `copies.py` answers from Redis where nobody can be reached. Imports
`http/ entrance/ readers/`. Read `forwarding.py` first.
"""
