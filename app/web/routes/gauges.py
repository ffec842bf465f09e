"""`GET /api/stream/{id}/gauges`: how one running stream stands, for the page that reads it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from ...errors import WorkerLost
from ...streams.registry import Streams
from ...streams.session import Session
from ...streams.terms import is_of
from ..entrance.way_in import CALLER, ID, Route
from ..http.operation import Answer, Operation

_TOLD = Operation(
    "See how a running stream stands",
    answers={200: Answer("Its gauges", schema="Gauges"), 204: Answer("No stream of this id is running", "")},
    errors=(WorkerLost,),
)


def gauge_routes(streams: Streams) -> list[Route]:
    """The path of the gauges; 204 where the caller has no running stream of this id."""

    async def gauges(request: web.Request) -> web.Response:
        session = streams.live.get(request.match_info["id"])
        if session is None or not is_of(request[CALLER], session.terms, runs=True):
            # The same for another caller's stream, so that nobody learns that it exists.
            return web.Response(status=204)
        return web.json_response(_gauges(session))

    return [Route("GET", f"/api/stream/{ID}/gauges", gauges, told=_TOLD, of_a_stream=True)]


def _gauges(session: Session) -> dict[str, Any]:
    """The figures, as of now; tokens are exact or estimated as `basis` says, dollars null where no price is known."""
    queue = session.channel.statistics()
    connection = session.delivery.connection
    credits = connection.credits if connection is not None else None
    entry = session.page.account.so_far(asyncio.get_running_loop().time())
    return {
        "reader": session.lifecycle.reader.value,
        "queue_items": queue.items,
        "queue_bytes": queue.size_bytes,
        "queue_max_bytes": session.channel.max_bytes,
        "unshown_bytes": credits.out_bytes if credits else None,
        "credit_bytes": credits.window_bytes if credits else None,
        "paused": session.channel.paused,
        "paused_s": round(queue.paused_s, 3),
        "generated_tokens": entry.generated,
        "generated_chars": dict(session.page.account.tally.chars),
        "delivered_tokens": entry.delivered,
        "basis": entry.basis,
        "cost_usd": entry.spent_usd.total if entry.priced else None,
        # With the answer's own count at its end, what the answer cost, without asking again.
        "output_usd_per_token": entry.output_usd_per_token if entry.priced else None,
        # None: too few answers have finished to expect anything.
        "saved_usd": entry.saved_usd if entry.priced and entry.avoided.enough else None,
        "saved_usd_upper": entry.saved_upper_usd if entry.priced else None,
    }
