"""What Claude's side says where it does not answer: its words as typed errors, bounded and in one line. Pure.

All of it comes from outside, and goes into errors and logs: so no control characters, no secrets, no pages of HTML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..errors import UpstreamError, UpstreamGarbled, UpstreamRefused

# At most this much of an error's body is taken in. Claude's own have some hundred bytes, a proxy's page some thousand.
MOST_BODY_BYTES = 65_536
# Someone else's words are cut to this many characters, so that an error or a log line of ours stays one line.
MOST_WORDS = 500

# The status that belongs to a code in mid-stream, where all came with 200 (Messages API, Errors).
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TYPE_OF_STATUS = {status: type for type, status in STATUS_OF_TYPE.items()}
# The request itself was wrong. Of a 404 only Claude's own word counts: another's is a wrong base URL. 401, 402 and 403
# are the operator's key, 429 and 529 are Claude's (Messages API, Errors).
_CALLERS_STATUSES = frozenset({400, 413, 422, 431})
_CALLERS_TYPES = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
RETRYABLE_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
# An error that only money helps: trying again is never of use, and no caller can mend it (Messages API, Rate limits).
_SPENT = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})

_KEY = re.compile(rb"(sk-ant-)[\w-]+|(\bBearer +)[\w.~+/=-]{8,}")
_LEAST_SECRET_BYTES = 8  # a shorter one is no real key, and would be found in many a word
_MARKUP = re.compile(r"<(script|style)\b.*?</\1[^>]*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def without_secrets(said: bytes, secrets: Iterable[bytes] = ()) -> bytes:
    """The same without keys of the API, bearer tokens, and the secrets given; untouched where it holds none."""
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET_BYTES:
            said = said.replace(secret, b"[key]")
    return _KEY.sub(lambda found: (found[1] or found[2]) + b"[key]", said)


def told(words: str) -> str:
    """Someone else's words as one bounded line: spaces as one, other characters that do not print as escapes."""
    line = " ".join(words[: 4 * MOST_WORDS].split())
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"


def words_of(body: bytes, media_type: str = "") -> str:
    """What a body says to a person: an error's message, a page without its markup, anything else as it is."""
    message = _message(_parsed(body))
    if message is not None:
        return told(message)
    text = body[: 16 * MOST_WORDS].decode("utf-8", "replace")
    if "html" in media_type or text.lstrip()[:1] == "<":
        text = _MARKUP.sub(" ", text)
    return told(text)


def is_error(data: Mapping[str, Any]) -> bool:
    """Whether an object is an error in the Messages API's shape, or near it."""
    kind = data.get("type")
    return kind == "error" or (not isinstance(kind, str) and isinstance(data.get("error"), dict | str))


def reads_as_error(data: Mapping[str, Any]) -> bool:
    """Whether what is called an error by its event's name alone has what an error says; one without a type has."""
    kind = data.get("type")
    return not isinstance(kind, str) or kind.endswith("error") or not data.keys().isdisjoint({"error", "message"})


def refusal(said: bytes, status: int | None = None, headers: Mapping[str, str] | None = None) -> UpstreamRefused:
    """What Claude's side refused with, as a typed error.

    Args:
        said: `{"type": "error", "error": {"type", "message", …}}`, as an event's data or as a body; or whatever stood
            in its place.
        status: the HTTP status it came with; None in mid-stream, where it follows from the code.
        headers: the response's, by names in lower case; none in mid-stream.
    """
    headers = headers or {}
    body = _parsed(said)
    error = body.get("error")
    if not isinstance(error, dict):
        # A bare message, or the error's fields without the object around them.
        error = {"message": error} if isinstance(error, str) else body if body.get("type") != "error" else {}
    said_type = error.get("type")
    said_type = told(said_type)[:100] if isinstance(said_type, str) else ""
    kind = said_type or _TYPE_OF_STATUS.get(status or 0, "api_error")
    details = error.get("details")
    spent = isinstance(details, dict) and details.get("error_code") in _SPENT
    # In mid-stream there is no status, so an unknown code does not tell whether trying again may help.
    told_status = status or STATUS_OF_TYPE.get(said_type)
    known_status = told_status or 500
    retryable = told_status in RETRYABLE_STATUSES and not spent
    callers = known_status in _CALLERS_STATUSES or (known_status == 404 and said_type in _CALLERS_TYPES)
    request_id = headers.get("request-id") or body.get("request_id")
    return UpstreamRefused(
        _told_by(said, body, status, headers),
        type=kind,
        status=known_status,
        # Claude's own header decides if it is there, because the SDKs obey it too.
        retryable={"true": True, "false": False}.get(headers.get("x-should-retry", ""), retryable),
        callers_fault=callers and not spent,
        retry_after_s=_retry_after_s(headers),
        request_id=request_id if isinstance(request_id, str) else None,
        said=said,
    )


def no_stream(
    said: bytes, status: int, headers: Mapping[str, str], location: str = "", wanted: str = "a stream of events"
) -> UpstreamError:
    """What came with a status that is no error's, and is not what was asked for either: an error all the same.

    Args:
        said: the beginning of its body.
        status: its HTTP status.
        headers: by names in lower case.
        location: where it redirects to, if it does.
        wanted: what was asked for.
    """
    if is_error(_parsed(said)):
        return refusal(said)
    if 300 <= status < 400:
        return UpstreamGarbled(f"Claude's side answered {status}, a redirect to {_address(location)}")
    media_type = told(headers.get("content-type", "")) or "no content type"
    words = words_of(said, media_type) if _parsed(said).get("type") != "message" else ""
    told_words = f": {words}" if words else ""
    return UpstreamGarbled(f"Claude's side answered {status} with {media_type}, not with {wanted}{told_words}")


def came_with(error: UpstreamError, headers: Mapping[str, str]) -> None:
    """Gives an error what the head of the good response said that it came with; what it says itself stands.

    Args:
        error: what the response turned out to be.
        headers: the response's, by names in lower case.
    """
    error.headers = tuple(headers.items())
    if error.retry_after_s is None:
        error.retry_after_s = _retry_after_s(headers)
    if isinstance(error, UpstreamRefused) and error.request_id is None:
        error.request_id = headers.get("request-id")


def _parsed(said: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _message(body: Mapping[str, Any]) -> str | None:
    error = body.get("error")
    for holder in (error if isinstance(error, dict) else {}, body):
        for name in ("message", "detail", "error", "error_description"):
            if isinstance(message := holder.get(name), str) and message.strip():
                return message
    return None


def _told_by(said: bytes, body: Mapping[str, Any], status: int | None, headers: Mapping[str, str]) -> str:
    if (message := _message(body)) is not None:
        return told(message)
    words = words_of(said, headers.get("content-type", ""))
    if status is None:
        return f"Claude reported an error without a message: {words}"
    media_type = told(headers.get("content-type", "")) or "no content type"
    return f"Claude's side answered {status} with {media_type}" + (f": {words}" if words else "")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds by `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3); a date counts from the response's own."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        at: list[datetime] = [parsedate_to_datetime(headers[name]) for name in ("retry-after", "date")]
        return max(0.0, (at[0] - at[1]).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _address(location: str) -> str:
    """An address without what may be secret in it: user, query and fragment."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "no address"
    return told(f"{parts.scheme}://{host}{parts.path}" if host else parts.path) or "no address"
