"""Sluiceway: streams Claude to the browser with backpressure that is real from end to end.

    Claude ─▶ claude.py ─▶ produce() ─▶ Channel ─▶ consume() ─▶ wire/ ─▶ delivery.py ─▶ web/writer.py ─▶ the reader

Start at `relay.py`: the heart is one bounded queue (`channel.py`) and two tasks. `sessions.py` owns the tasks and moves
each stream through `lifecycle.py`; `store.py` finds streams again; `ledger.py` settles them. Rules are pure and say so;
`claude.py` and `web/` are the edges; `tools/` are programs that nothing imports.
"""

__version__ = "0.1.0"
