"""A whole look at the way to a Sluiceway: what is measured when, and which findings follow from which figures."""

from __future__ import annotations

import asyncio

from ..load.connection import Target
from .exchange import NoAnswer
from .findings import (
    SWALLOW_BYTES,
    Finding,
    Held,
    Repeated,
    accel_eaten,
    body_limit,
    buffering,
    cached,
    compressed,
    cors_changed,
    cors_opened,
    cors_origin_lost,
    cors_preflight,
    cut_hidden,
    filled_cache,
    http_1_0,
    idle_limit,
    leave_unheard,
    post_retried,
    redis_forgets,
    resume_header,
    rewritten,
    streams_lost,
    swallow,
)
from .spacing import Spacing
from .way import MEETINGS, CouldNotRun, Knock, Way

# Longer than the heartbeat, in seconds and as a share of it: what cuts a stream in that time, cuts it before its sign of life.
_LONGER_S, _LONGER_SHARE = 0.5, 0.1
# The sizes of bodies that are announced after the largest one, as long as they are refused, and of those that are really
# sent, since not every proxy goes by what is announced.
_ANNOUNCED_BYTES = (8_388_608, 4_194_304, 1_048_576, 262_144, 65_536, 16_384, 4096, 1024, 256)
_SENT_BYTES = (60_000, 16_384, 4096, 1024, 256)
# Whose page is tried where any site's may call, or none's: a name that nobody has (RFC 2606).
_ANY_SITE = "https://page.example"
# Where events come together a second look must agree; and if too little could be judged, there is another one.
_LOOKS = 4


async def check_up(target: Target, key: str | None, idle_s: float | None = None) -> list[Finding]:
    """All that is found on the way to a Sluiceway.

    Args:
        target: where the way begins.
        key: a caller's; None for none.
        idle_s: the silence that the way must bear, in seconds; None for a little more than the heartbeat.

    Raises:
        CouldNotRun: nothing could be measured. Cancelling closes all connections.
    """
    way = Way(target, key)
    knock = await way.knock()
    heartbeat_s = float(knock.told["heartbeat_s"])
    silence_s = idle_s or heartbeat_s * (1 + _LONGER_SHARE) + _LONGER_S
    repeated = await _repeated(way)
    if repeated is not None and repeated.whatever_is_asked:
        return [cached(repeated)]
    try:
        async with asyncio.TaskGroup() as group:
            silent = group.create_task(way.silence(silence_s))
            found = group.create_task(_beside_the_silence(way, knock))
    except* (CouldNotRun, NoAnswer) as errors:
        raise CouldNotRun(f"it broke off in the middle: {errors.exceptions[0]}") from None
    cut_s = silent.result()
    last = [idle_limit(cut_s, silence_s, heartbeat_s)] if cut_s is not None else []
    if repeated is None:
        return [*found.result(), *last]
    beside = [one for one in found.result() if one.check != "cached"]  # the same cache, by its other trace
    return [cached(repeated), *beside, *last]


async def _repeated(way: Way) -> Repeated | None:
    try:
        return await way.repeats()
    except NoAnswer as error:
        raise CouldNotRun(f"it broke off in the middle: {error}") from None


async def _beside_the_silence(way: Way, knock: Knock) -> list[Finding]:
    # What is failed on purpose comes last: nginx leaves a server alone for some seconds after a failure, where it has others.
    return [
        *await _of_requests(way, knock),
        *await _of_responses(way, knock),
        *await _of_reading(way, knock),
        *await _of_leaving(way, knock),
        *await _of_failing(way, knock),
    ]


async def _of_requests(way: Way, knock: Knock) -> list[Finding]:
    """What becomes of requests."""
    found = []
    if (arrived := str(knock.told["seen"]["last_event_id"])) != "7":
        found.append(resume_header(arrived))
    if policy := str(knock.told.get("redis_forgets", "")):
        found.append(redis_forgets(policy))
    limit = await _body_limit(way, int(knock.told["max_messages_bytes"]))
    if limit is not None:
        found.append(limit)
    return [*found, *await of_pages(way, str(knock.told.get("cors_origin", "")))]


async def of_pages(way: Way, allowed: str) -> list[Finding]:
    """What becomes of requests that other sites' pages make; `allowed` is a site whose pages may, `*` for any."""
    origin = allowed if allowed not in ("", "*") else _ANY_SITE
    seen, headers = await way.as_page(origin)
    came = headers.get("access-control-allow-origin", "")
    if not allowed:
        return [cors_opened(came, origin)] if came else []
    if seen != origin:
        return [cors_origin_lost(origin, seen)]
    exposed = "x-stream-id" in headers.get("access-control-expose-headers", "").lower()
    if came != allowed or not exposed:
        return [cors_changed(origin, allowed, came, exposed)]
    status, headers = await way.preflight(origin)
    if not 200 <= status < 300 or headers.get("access-control-allow-origin") != allowed:
        return [cors_preflight(origin, status, headers.get("server", "a proxy"))]
    return []


async def _of_failing(way: Way, knock: Knock) -> list[Finding]:
    """What becomes of a POST whose first attempt fails. The one that does the least harm comes first, and is enough."""
    for how, told in (("503", "was answered with 503"), ("cut", "was cut off")):
        if await way.is_retried(str(knock.told["instance"]), how):
            return [post_retried(told)]
    return []


async def _body_limit(way: Way, wanted_bytes: int) -> Finding | None:
    announced = (wanted_bytes, *(size for size in _ANNOUNCED_BYTES if size < wanted_bytes))
    for sizes, sent in ((announced, False), (_SENT_BYTES, True)):
        refused_bytes, by = 0, ""
        for size_bytes in sizes:
            who = await way.refusal_of(size_bytes, sent=sent)
            if who is None:
                break
            refused_bytes, by = size_bytes, who
        if refused_bytes:
            return body_limit(refused_bytes, size_bytes if who is None else 0, wanted_bytes, by)
    return None


async def _of_responses(way: Way, knock: Knock) -> list[Finding]:
    """What becomes of an answer's head and of its end."""
    found = []
    encoding, came_bytes, sent_bytes = await way.compression()
    if encoding:
        found.append(compressed(encoding, came_bytes, sent_bytes))
    looks_whole = await way.cut_looks_whole()
    seen = str(knock.told["seen"]["http"])
    if seen.startswith("1.0"):
        found.append(http_1_0(seen, cut_looks_whole=looks_whole))
    elif looks_whole:
        found.append(cut_hidden())
    return found


async def _of_reading(way: Way, knock: Knock) -> list[Finding]:
    """What the way holds back, and what it takes for a reader that stalls."""
    held, taken_bytes, same = await _held(way, accel=True)
    found = []
    if held is not None:
        found.append(buffering(held, told_not_to=True))
    elif (otherwise := (await _held(way, accel=False))[0]) is not None:
        found.append(buffering(otherwise, told_not_to=False))
    if knock.headers.get("x-accel-buffering", "").lower() != "no":
        found.append(accel_eaten(int(knock.told["seen"]["proxies"]), held=held is not None))
    # Who buffers swallows, too: then that is the cause.
    if held is None and taken_bytes > SWALLOW_BYTES:
        found.append(swallow(taken_bytes))
    if same is False:
        found.append(rewritten())
    return found


async def _held(way: Way, *, accel: bool) -> tuple[Held | None, int, bool | None]:
    """How the way holds events back, if it does; what it takes for a reader that stalls; and whether it changes nothing."""
    spacing, same = await _spacing(way, accel=accel)
    if spacing.is_clumped and not accel:
        taken_bytes, whole = 0, False  # it is known already
    else:
        taken_bytes, whole = await way.swallowed(accel=accel) or (0, False)
    if not spacing.is_clumped:
        return (Held(swallowed_bytes=taken_bytes) if whole else None), taken_bytes, same
    sized, _ = await way.spacing(accel=accel, events=60, every_ms=10, size=1500)
    held = Held(spacing.events, spacing.clumps, spacing.held_s, sized.clump_bytes, taken_bytes if whole else 0)
    return held, taken_bytes, same


async def _spacing(way: Way, *, accel: bool) -> tuple[Spacing, bool | None]:
    """A spacing that a second look has confirmed, where it tells of a buffer."""
    looks = [await way.spacing(accel=accel)]
    while len(looks) < _LOOKS and not looks[-1][0].is_judged:
        looks.append(await way.spacing(accel=accel))
    if looks[-1][0].is_clumped:
        looks.append(await way.spacing(accel=accel))
    return looks[-1]


async def _of_leaving(way: Way, knock: Knock) -> list[Finding]:
    """Whether the service hears of a reader's leaving, and whether a reader finds its stream again."""
    found = []
    asked_anew = await way.leave("POST", quiet=True)
    if asked_anew is not None and not asked_anew.heard:
        flowing = await way.leave("POST", quiet=False)
        told = (
            f"it was let send {flowing.sent} of {flowing.events} on" if flowing is not None else "nobody could be asked"
        )
        found.append(leave_unheard(asked_anew.whole_s, told))
    elif (come_back := await way.leave("GET", quiet=True)) is not None and not come_back.heard:
        found.append(filled_cache(come_back.whole_s))
    asked = [await way.ask_once(str(knock.told["probe"])) for _ in range(MEETINGS)]
    if unknown := sum(status == 404 for status, _ in asked):
        instances = {told["instance"] for status, told in asked if status == 200}
        found.append(streams_lost(unknown, len(asked), len(instances)))
    return found
