"""What one stream was asked for with, and the names by which it is found again."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from enum import Enum

from ..access.callers import Caller
from ..telemetry.trace_parent import TraceParent

# Bytes of chance in an id or a token, 144 bits: nobody guesses one, and no two streams ever meet.
_CHANCE_BYTES = 18


class Policy(Enum):
    """What happens to a stream whose reader is lost."""

    ABORT = "abort"  # both tasks are cancelled, the connection to Claude is closed at once
    GRACE = "grace"  # it is held still, and can be resumed, for the grace period
    DRAIN = "drain"  # it goes on to its end without a reader, and stays replayable


@dataclass(frozen=True, slots=True)
class Terms:
    """What one stream was asked for with.

    Attributes:
        stream_id: unguessable, told to the reader; empty for an answer that comes whole.
        caller: who asked, as a name that gives no key away; only the same caller may come back.
        model: the model asked for.
        policy: what happens when the reader is lost.
        grace_s: the grace period in seconds, for that policy.
        stop_token: whoever has it may stop the stream.
        name: the caller's own name for it, by which it is found again; empty for none.
        subject: whom it is for, of the caller's own users; empty for the caller itself.
        token_id: of the browser token that it was asked for with; empty for none.
        request_id: our own, of the request that asked; empty where none did.
        parent: the caller's span that the request was made in; None for none.
        commits_early: silence before Claude's first event is broken by a sign of life, which commits the status.
    """

    stream_id: str
    caller: str
    model: str
    policy: Policy = Policy.ABORT
    grace_s: float = 0.0
    stop_token: str = ""
    name: str = ""
    subject: str = ""
    token_id: str = ""
    request_id: str = ""
    parent: TraceParent | None = None
    commits_early: bool = True


def is_of(caller: Caller, terms: Terms, *, runs: bool) -> bool:
    """Whether a stream is its caller's to read and to steer.

    A key has all streams of its caller. A browser token has those of its subject, and once it has expired only those that
    it began itself, while they run.

    Args:
        caller: who asks.
        terms: of the stream.
        runs: it has not ended.
    """
    if not same(terms.caller, caller.name):
        return False
    token = caller.token
    if token is None:
        return True
    if token.expired:
        return runs and terms.token_id == token.token_id
    return terms.subject == token.subject


def owner(caller: Caller) -> tuple[str, str]:
    """To whom a caller's names for streams belong: users of one caller may call their chats the same."""
    return caller.name, caller.token.subject if caller.token is not None else ""


def same(secret: str, given: str) -> bool:
    """Whether two texts are the same, in constant time; one from outside may hold any characters."""
    return hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), given.encode("utf-8", "surrogatepass"))


def new_stream_id(prefix: str = "st0_") -> str:
    """An id that nobody can guess, after what tells which process has the stream."""
    return prefix + secrets.token_urlsafe(_CHANCE_BYTES)


def new_stop_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(_CHANCE_BYTES)
