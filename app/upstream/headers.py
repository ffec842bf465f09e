"""Which headers of a client's request go up to Claude, and which of Claude's answer come down. Pure.

Up goes what is addressed to Claude: by prefix, so that a header that Claude learns tomorrow passes today. What a browser,
a proxy or the page's own site adds is addressed to the service. Down comes everything but what is said of one connection,
or of Claude's own host, or by the service itself; in all no more than a proxy before the service takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Addressed to Claude, whatever protocol the client speaks with us.
_TO_CLAUDE = ("anthropic-*", "x-anthropic-*", "x-claude-*", "idempotency-key", "x-app", "x-client-request-id")
# What is said of a body that passes unread, and of the answer to it.
_OF_A_BODY = (
    "content-length", "content-encoding", "range", "if-range", "if-match", "if-none-match", "if-modified-since",
    "if-unmodified-since",
)  # fmt: skip
# How the client describes itself and its body: on the Messages API, where the request is the client's own.
_OF_THE_CLIENT = ("accept", "content-type", "user-agent", "x-stainless-*")

_ONE_CONNECTION = "it is said of one connection (RFC 9110, 7.6.1)"
_THE_SERVICES_KEY = "the caller's key is ours; Claude is shown the service's own"
HOP_BY_HOP = dict.fromkeys(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    ),
    _ONE_CONNECTION,
)  # fmt: skip
# Each request's own, whoever asks: how it is framed, and to whom it goes.
FRAMING = frozenset({*HOP_BY_HOP, "host", "expect", "content-length", "content-encoding"})
# Never goes up, whatever a setting names.
HELD_BACK_UP: Mapping[str, str] = HOP_BY_HOP | {
    "authorization": _THE_SERVICES_KEY,
    "x-api-key": _THE_SERVICES_KEY,
    "cookie": "it holds the sessions of the site that the service stands on",
    "x-stop-token": "whoever has it may stop the stream: it is between the service and the page",
    "host": "it names the service",
    "expect": "the service has answered it",
    "content-length": "it is counted anew",
    "content-encoding": "no compressed body is taken",
    "accept-encoding": "the service reads the answer as it passes",
    "x-stainless-raw-response": "it is how the SDK hands a response to the service",
}
# Never comes down.
HELD_BACK_DOWN: Mapping[str, str] = HOP_BY_HOP | {
    "content-length": "it is counted anew",
    "content-encoding": "the service has read the answer",
    "set-cookie": "it is for Claude's host, and would be kept for the service's",
    "strict-transport-security": "it would bind the service's host to TLS",
    "alt-svc": "it tells where else Claude's host is found",
    "clear-site-data": "it would clear what the service's own site keeps",
    "nel": "browsers would report on the service's host",
    "report-to": "browsers would report on the service's host",
    "reporting-endpoints": "browsers would report on the service's host",
    **dict.fromkeys(
        (
            "access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-headers",
            "access-control-allow-methods", "access-control-expose-headers", "access-control-max-age",
        ),
        "whose pages may call is the service's own setting",
    ),
    "x-accel-*": "nginx before the service would obey it: another answer, or buffers, in place of the paid one",
    **dict.fromkeys(
        ("x-stream-id", "x-stop-token", "x-resumable"), "the service says it of its own stream: another's would mislead"
    ),
}  # fmt: skip
# All that comes down together, in bytes. A proxy before the service takes a response's head only as a whole and within a
# buffer (nginx's `proxy_buffer_size`); above it the answer, which was paid, is lost for a 502. Claude's heads have 1 to 3
# kB, and the service's own lines below 2 kB, so that they fit the 6 kB of `config/nginx.conf`.
MOST_BYTES_DOWN = 4096
# What clients act on, so that it has its place before the rest.
_FIRST_DOWN = ("content-type", "request-id", "retry-after", "retry-after-ms", "x-should-retry", "anthropic-*")


class HeadersUp:
    """Chooses what goes up.

    Args:
        also: further names, in any case; one that ends in `*` stands for all that begin so.
    """

    def __init__(self, also: Iterable[str] = ()) -> None:
        self._to_claude = _Names((*_TO_CLAUDE, *also))
        self._all = _Names((*_TO_CLAUDE, *_OF_THE_CLIENT, *also))
        self._unread = _Names((*_TO_CLAUDE, *_OF_THE_CLIENT, *_OF_A_BODY, *also))

    def of(self, headers: Iterable[tuple[str, str]], *, as_client: bool, with_body: bool = False) -> dict[str, str]:
        """The headers to Claude, by names in lower case; repeated ones are joined with commas (RFC 9110, 5.3).

        Args:
            headers: the client's, as pairs.
            as_client: the request is the client's own, and so are the words in which it describes itself.
            with_body: its body passes unread, and so do the words in which that is described.
        """
        names = self._unread if with_body else self._all if as_client else self._to_claude
        pairs = [(name.lower(), value) for name, value in headers]
        dropped = _named_by_connection(pairs)
        up: dict[str, str] = {}
        for name, value in pairs:
            held_back = name in HELD_BACK_UP and not (with_body and name in _OF_A_BODY)
            if name in names and not held_back and name not in dropped:
                up[name] = ", ".join(filter(None, (up.get(name), _sendable(value))))
        return up


def headers_down(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of Claude's answer that come down, in their order.

    A line that no longer fits `MOST_BYTES_DOWN` is left out; those that clients act on are counted first.
    """
    pairs = list(headers)
    dropped = _named_by_connection((name.lower(), value) for name, value in pairs)
    down = [
        (name, _sendable(value))
        for name, value in pairs
        if name.lower() not in _NEVER_DOWN and name.lower() not in dropped
    ]
    left_bytes = MOST_BYTES_DOWN
    fitting: set[int] = set()
    for at in sorted(range(len(down)), key=lambda at: down[at][0].lower() not in _BEFORE_OTHERS):
        name, value = down[at]
        size_bytes = len(f"{name}: {value}\r\n".encode())
        if size_bytes <= left_bytes:
            left_bytes -= size_bytes
            fitting.add(at)
    return [pair for at, pair in enumerate(down) if at in fitting]


class _Names:
    """A set of header names, some of them by their beginning."""

    def __init__(self, names: Iterable[str]) -> None:
        lower = [name.lower() for name in names]
        self._whole = frozenset(name for name in lower if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in lower if name.endswith("*"))

    def __contains__(self, name: str) -> bool:
        return name in self._whole or name.startswith(self._prefixes)


_NEVER_DOWN = _Names(HELD_BACK_DOWN)
_BEFORE_OTHERS = _Names(_FIRST_DOWN)


def _named_by_connection(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """What `Connection` says is meant for this connection only."""
    return {part.strip().lower() for name, value in pairs if name == "connection" for part in value.split(",")}


def _sendable(value: str) -> str:
    """The value as it can be sent on: aiohttp hands on bytes that are no UTF-8 as surrogates; they are Latin-1 then."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value
