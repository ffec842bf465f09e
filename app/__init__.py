"""Sluiceway: streams Claude to the browser with backpressure that is real from end to end.

    Claude ─▶ claude.py ─▶ produce() ─▶ Channel ─▶ consume() ─▶ wire/ ─▶ web/writer.py ─▶ the reader

Start at `relay.py`: the heart is one bounded queue and two tasks. `batching.py` decides when a batch goes out,
`sessions.py` owns the tasks, `claude.py` and `web/` are the edges. Rules (`batching`, `sse`, `tally`) are pure.
"""

__version__ = "0.1.0"
