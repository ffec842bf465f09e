"""Sluiceway: streams Claude to the browser with backpressure that is real from end to end.

A delta's way, from left to right; nothing on it calls back:

    Claude ─▶ upstream/resting_socket ─▶ upstream/exchange ─▶ upstream/answer ─▶ flow/relay: produce() ─▶ flow/channel
              small, read in rests       HTTP                 decoded events                              bounded queue

    flow/channel ─▶ flow/relay: consume() ─▶ streams/delivery ─▶ wire/ ─▶ streams/replay ─▶ web/readers ─▶ the reader
                    batches                  one writer          frames   kept, numbered    small socket, drained

Against it travel only pressure (a full queue, a socket that is not read) and cancellation.

Start at `flow/relay.py`: the heart is one bounded queue (`flow/channel.py`) and two tasks. `streams/session.py` owns the
tasks and moves each stream through `streams/lifecycle.py`. `streams/registry.py` knows the streams that run,
`streams/archive.py` those that can be read again. `money/ledger.py` settles them. `web/compose.py` puts all of it together;
`fleet/` and `web/fleet.py` make several processes one.

Where to look first:

- Where is it decided that a lost reader is waited for? `Session.lost` in `streams/session.py`.
- What bounds the memory of a stream? `settings/sections.py`: each buffer with its unit and the reason for its size.
- Who closes the connection to Claude? `produce()` in `flow/relay.py`, in its `finally`, whatever ended the stream.
- Where is a new protocol added? A format in `wire/`, a file of routes beside `web/routes/plain_api.py`, a line in `web/compose.py`.

A folder imports only those before it: answer, flow, wire, money, telemetry, access, streams, upstream, fleet, web, tools.
`errors.py` and `settings/` stand beside them. How to run the tests, and where a change belongs, is in `tests/README.md`.
"""

__version__ = "0.1.0"
