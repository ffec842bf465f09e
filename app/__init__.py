"""Sluiceway: streams Claude to the browser with backpressure that is real from end to end.

    Claude ─▶ upstream/claude ─▶ flow/: produce() ─▶ Channel ─▶ consume() ─▶ wire/ ─▶ streams/delivery ─▶ web/readers ─▶ the reader

Start at `flow/relay.py`: the heart is one bounded queue (`flow/channel.py`) and two tasks. `streams/session.py` owns the
tasks and moves each stream through `streams/lifecycle.py`; `streams/store.py` finds streams again; `money/ledger.py`
settles them. A folder imports only those before it: answer, flow, wire, money, telemetry, access, streams, upstream,
fleet, web, tools.
"""

__version__ = "0.1.0"
