"""What was found on the way: each finding with its figures, what it costs, and the line that mends it. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

# A token takes some 22 bytes on its way to a reader.
TOKEN_BYTES = 22
# Readers that stall may hold this much on the way. The shipped configuration holds a third of it; more is no backpressure.
SWALLOW_BYTES = 196_608


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on the way that breaks or weakens streaming.

    Attributes:
        check: its name, one of few.
        severity: `error` where streams suffer now, `warning` where they do under some condition, which the evidence names.
        evidence: what was measured, and what it costs.
        mend: the line of configuration that mends it, first, and where it goes.
    """

    check: str
    severity: str
    evidence: str
    mend: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def size(size_bytes: int) -> str:
    """A size in words, such as `4 kB`; a kB is 1,024 bytes, as proxies count."""
    for unit, name in ((1 << 20, "MB"), (1 << 10, "kB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.3g} {name}"
    return f"{size_bytes} bytes"


@dataclass(frozen=True, slots=True)
class Held:
    """How events were held back on the way.

    Attributes:
        events, groups: so many that were sent one by one came in so many groups; 0 groups: one by one.
        first_s: how long the first one was held, in seconds.
        group_bytes: the size of a group; 0: all came at the end.
        swallowed_bytes: what the way took for a reader that read nothing, where that was everything; else 0.
    """

    events: int = 0
    groups: int = 0
    first_s: float = 0.0
    group_bytes: int = 0
    swallowed_bytes: int = 0

    @property
    def told(self) -> str:
        """In words, with what it costs."""
        parts = []
        if self.groups:
            groups = f"{self.groups} groups" if self.groups > 1 else "one group"
            parts.append(
                f"{self.events} events that were sent one by one came in {groups}, the first held for {self.first_s * 1000:,.0f} ms"
            )
            if self.group_bytes:
                parts.append(
                    f"a buffer lets go of some {size(self.group_bytes)} at a time, {self.group_bytes // TOKEN_BYTES:,} tokens"
                )
        if self.swallowed_bytes:
            parts.append(
                f"for a reader that reads nothing it took all there was, {size(self.swallowed_bytes)}, more than sockets hold: whole "
                "answers are generated, and paid, that nobody has read"
            )
        return "; ".join(parts)


def buffering(held: Held, *, told_not_to: bool) -> Finding:
    """Something on the way takes answers into a buffer of its own.

    Args:
        held: how that showed.
        told_not_to: although the response said `X-Accel-Buffering: no`, as every answer's does.
    """
    if told_not_to:
        mend = (
            "proxy_buffering off; in the location that leads here, and no proxy_ignore_headers X-Accel-Buffering beside it "
            "(proxies that are not nginx: switch response buffering off)"
        )
        return Finding("buffering", "error", held.told, mend)
    evidence = (
        f"without X-Accel-Buffering: no, {held.told}. Answers that say it pass; what does not, such as a path passed through to "
        "Claude, is held"
    )
    return Finding("buffering", "warning", evidence, "proxy_buffering off; in the location that leads here")


def accel_eaten(proxies: int, *, held: bool) -> Finding:
    """The header that tells proxies not to buffer does not reach the reader."""
    consequence = (
        "a proxy beyond it buffers, as above"
        if held
        else "a proxy beyond it would buffer, and hold the first token back"
    )
    behind = f" (X-Forwarded-For names {proxies} on the way)" if proxies else ""
    evidence = f"the service says X-Accel-Buffering: no, a proxy{behind} takes it out: {consequence}"
    return Finding(
        "accel-eaten",
        "error" if held else "warning",
        evidence,
        "proxy_pass_header X-Accel-Buffering; in each inner nginx",
    )


def compressed(encoding: str, came_bytes: int, sent_bytes: int = 0) -> Finding:
    """The stream is compressed on the way.

    Args:
        encoding: as its head says.
        came_bytes, sent_bytes: of the body; 0 sent: it is not known.
    """
    sent = f" of {sent_bytes:,} that were sent" if sent_bytes else ""
    evidence = (
        f"a stream came with Content-Encoding: {encoding}, {came_bytes:,} bytes{sent}: each token is compressed and flushed on its "
        "own, or held until a block is full"
    )
    mend = "gzip off; in the location that leads here (or gzip_types without text/event-stream)"
    return Finding("compressed", "error", evidence, mend)


def http_1_0(seen: str, *, cut_looks_whole: bool) -> Finding:
    """Answers travel without chunks, so that a cut one looks complete."""
    told = f"the service was asked in HTTP/{seen}" if seen else "the answer ends only with its connection"
    if cut_looks_whole:
        told += "; a stream that was broken off on purpose arrived as a whole one: readers take half an answer for all of it"
    mend = 'proxy_http_version 1.1; and proxy_set_header Connection ""; (or close;) in the location that leads here'
    return Finding("http-1.0", "error", told, mend)


def cut_hidden() -> Finding:
    """A broken answer looks whole although it is asked for in HTTP/1.1."""
    evidence = (
        "a stream that was broken off on purpose arrived as a whole one: readers take half an answer for all of it"
    )
    return Finding(
        "cut-hidden", "error", evidence, "proxy_http_version 1.1; in every proxy on the way, or none that mends ends"
    )


def leave_unheard(quiet_s: float, flowing: str) -> Finding:
    """The reader's leaving does not reach the service.

    Args:
        quiet_s: for so long the service was silent after it, in seconds, and did not hear.
        flowing: what came of one who left while events flowed.
    """
    evidence = (
        f"the reader left, and {quiet_s:g} s later the service had not heard of it; while events flowed, {flowing}: what nobody reads "
        "is generated, and paid"
    )
    mend = "proxy_ignore_client_abort off; in the location that leads here"
    return Finding("leave-unheard", "error", evidence, mend)


def swallow(swallowed_bytes: int) -> Finding:
    """A reader that stalls is felt late."""
    evidence = (
        f"for a reader that reads nothing the way took {size(swallowed_bytes)}, {swallowed_bytes // TOKEN_BYTES:,} tokens that are "
        f"generated, and paid, ahead of it; up to {size(SWALLOW_BYTES)} is usual"
    )
    mend = (
        "listen 80 sndbuf=16k; towards the reader, proxy_buffer_size 6k; and a unix socket to the service "
        "(server unix:/run/sluiceway/sluiceway.sock;), or proxy_socket_rcvbuf 16k; over TCP"
    )
    return Finding("swallow", "error", evidence, mend)


def idle_limit(cut_s: float, silence_s: float, heartbeat_s: float) -> Finding:
    """Silence ends the stream."""
    evidence = f"a stream that was silent was cut after {cut_s:.1f} s of {silence_s:g}"
    if cut_s > heartbeat_s:
        evidence += (
            f"; the service's heartbeat comes every {heartbeat_s:g} s, so answers live, but with little to spare"
        )
        return Finding("idle-limit", "warning", evidence, f"proxy_read_timeout {max(75, round(3 * heartbeat_s))}s;")
    evidence += f"; the service's heartbeat comes every {heartbeat_s:g} s, too late: whoever waits for Claude to think is cut off"
    mend = f"proxy_read_timeout {max(75, round(3 * heartbeat_s))}s; (or heartbeat_s = {max(0.5, cut_s / 3):.1f} in the service's settings)"
    return Finding("idle-limit", "error", evidence, mend)


def resume_header(arrived: str) -> Finding:
    """`Last-Event-ID` does not arrive as it was sent."""
    evidence = (
        f"Last-Event-ID: 7 was sent, and {f'{arrived!r} arrived' if arrived else 'none arrived'}: who comes back to a stream is "
        "sent all of it again"
    )
    mend = 'no proxy_set_header Last-Event-ID ""; (nginx passes it by itself; a firewall must allow it)'
    return Finding("resume-header", "error", evidence, mend)


def post_retried(how: str) -> Finding:
    """A POST that failed was sent again."""
    evidence = (
        f"one POST whose first attempt {how} was tried again on the way: the same question is asked, and paid, twice"
    )
    return Finding("post-retried", "error", evidence, "proxy_next_upstream off; in the location that leads here")


def body_limit(refused_bytes: int, passed_bytes: int, wanted_bytes: int, who: str) -> Finding:
    """A body that the service takes is refused before it."""
    passed = f"one of {size(passed_bytes)} passed" if passed_bytes else "none that was tried passed"
    evidence = (
        f"a body of {size(refused_bytes)} was refused with 413 by {who}, {passed}; the service takes {size(wanted_bytes)}: "
        "longer conversations, images and documents never arrive"
    )
    mend = "client_max_body_size 520m; in the server that leads here (or what the service takes: max_messages_bytes)"
    return Finding("body-limit", "error" if refused_bytes <= 1_048_576 else "warning", evidence, mend)


@dataclass(frozen=True, slots=True)
class Repeated:
    """What came twice with the same bytes, and whether the query makes no difference to that."""

    what: str
    whatever_is_asked: bool


def cached(repeated: Repeated) -> Finding:
    """What must never be kept was answered from a cache."""
    evidence = (
        f"2 requests for {repeated.what} were answered with the same bytes, although each answer is made anew: one reader gets "
        "another one's"
    )
    if repeated.whatever_is_asked:
        evidence += "; the query is ignored, so nothing else can be looked at behind this cache"
    return Finding(
        "cached",
        "error",
        evidence,
        "proxy_cache off; in the location that leads here (and no proxy_ignore_headers Cache-Control)",
    )


def filled_cache(quiet_s: float) -> Finding:
    """A cache reads on for itself when the reader has left."""
    evidence = (
        f"a reader who had asked by POST left, and the service heard of it; one who had come back by GET left, and {quiet_s:g} s "
        "later the service had not heard: a cache reads the rest for itself, and the service takes it for the reader"
    )
    mend = "proxy_cache off; in the location that leads here (and no proxy_store)"
    return Finding("cached", "error", evidence, mend)


def streams_lost(unknown: int, asked: int, instances: int) -> Finding:
    """A stream is not found by every process behind the address."""
    told = f", of {instances} processes that answered" if instances > 1 else ""
    evidence = (
        f"{unknown} of {asked} requests for one stream met a process that does not know it{told}: who comes back, stops or "
        "steers a stream meets the wrong one every so often"
    )
    mend = (
        "hash $remote_addr consistent; in the upstream block (or one server there: python -m app serve --workers N has "
        "processes that find each other)"
    )
    return Finding("streams-lost", "error", evidence, mend)


def rewritten() -> Finding:
    """The bytes of events are changed on the way."""
    evidence = "the events that came are not byte for byte those that were sent: something on the way writes into them"
    return Finding(
        "rewritten", "error", evidence, "sub_filter_types text/html; or no filter in the location that leads here"
    )


def cors_opened(allowed: str, origin: str) -> Finding:
    """Other sites' pages may read what the service lets nobody's page read."""
    evidence = (
        f"the service lets no other site's page call, and a page of {origin} was told that it may: 1 Access-Control-Allow-Origin, "
        f"{allowed!r}, was added on the way"
    )
    mend = (
        "no add_header Access-Control-Allow-Origin in the location that leads here (the sites that may: cors_origins)"
    )
    return Finding("cors", "warning", evidence, mend)


def cors_origin_lost(origin: str, seen: str) -> Finding:
    """The service does not learn which site's page asks."""
    arrived = f"{seen!r} arrived" if seen else "0 such headers arrived"
    evidence = f"Origin: {origin} was sent, and {arrived}: the service cannot let that site's pages call"
    return Finding("cors", "error", evidence, 'no proxy_set_header Origin ""; in the location that leads here')


def cors_changed(origin: str, wanted: str, allowed: str, exposed: bool) -> Finding:
    """What lets a page read does not arrive as it was sent.

    Args:
        origin: of the page.
        wanted: what the service says.
        allowed: what arrived.
        exposed: the page may see the stream's id.
    """
    if allowed == wanted and not exposed:
        evidence = "X-Stream-Id is 0 times among what Access-Control-Expose-Headers names: a page cannot come back to its stream"
    else:
        count = len([part for part in allowed.split(",") if part.strip()])
        evidence = (
            f"{count} values of Access-Control-Allow-Origin arrived ({allowed!r}), where the service sends 1 ({wanted!r}): a "
            f"browser lets a page of {origin} read nothing of it"
        )
    mend = "no add_header and no proxy_hide_header Access-Control-… in the location that leads here: the service says it itself"
    return Finding("cors", "error", evidence, mend)


def cors_preflight(origin: str, status: int, server: str) -> Finding:
    """A browser asks first, and is not let."""
    evidence = f"a preflight of a page of {origin} was answered with {status} by {server}: its browser sends no question after that"
    mend = "no limit_except, auth_… or if ($request_method = OPTIONS) in the location that leads here: preflights carry no key"
    return Finding("cors", "error", evidence, mend)


def redis_forgets(policy: str) -> Finding:
    """The fleet's Redis makes room by forgetting what it was told to keep."""
    evidence = (
        f"the fleet's Redis has maxmemory-policy {policy}: 1 full Redis, and it forgets streams that readers come back to, and what "
        "callers have spent"
    )
    return Finding(
        "redis-forgets", "error", evidence, "maxmemory-policy noeviction in redis.conf (or the service's plan)"
    )
