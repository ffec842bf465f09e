"""The life of a stream as a table: one small machine for the reader's side, one for Claude's, and what joins them.

The table rules: a session does the actions that stand here, and no others, when something happens to it. An illegal
event raises and changes nothing. `python -m app.streams.lifecycle` prints the diagram that the README shows.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar


class ReaderState(Enum):
    """The reader's side."""

    ATTACHED = "attached"  # someone is connected
    HELD = "held"  # no one is; Claude is held still for someone to come back
    DRAINING = "draining"  # no one is; the answer goes on to its end all the same
    ENDING = "ending"  # the last event, which says why, is on its way: to who is connected, or to be kept
    SERVED = "served"  # the last event was written, or is kept
    GONE = "gone"  # no one will come


class UpstreamState(Enum):
    """Claude's side."""

    ASKING = "asking"  # no event has come yet
    ANSWERING = "answering"
    ENDED = "ended"  # whole, or failed by itself
    ABORTED = "aborted"  # by us


class ReaderEvent(Enum):
    """What can happen on the reader's side."""

    ATTACH = "attach"
    HOLD = "lose, to be held"
    DRAIN = "lose, to drain"
    LEAVE = "leave"
    EXPIRE = "expire"
    END = "end"
    SERVE = "serve"


class UpstreamEvent(Enum):
    """What can happen on Claude's side."""

    BEGIN = "begin"
    END = "end"
    ABORT = "abort"


class Action(Enum):
    """What is to be done when a side moves."""

    TAKE_OVER = "tell the first reader"
    START_GRACE = "start the grace period"
    STOP_TIMER = "stop the timer"
    TELL_END = "write the typed last event"
    KEEP_END = "keep what was generated and the typed last event"
    CUT_OFF = "cut the reader off"
    CANCEL = "cancel both tasks"
    CLOSE_UPSTREAM = "close the connection to Claude"


class LifecycleEvent(Enum):
    """What happens to a stream, as (the reader's event, Claude's event)."""

    BEGAN = (None, UpstreamEvent.BEGIN)  # Claude's first event came
    ANSWERED = (None, UpstreamEvent.END)  # Claude's last event came, or its error
    CAME = (ReaderEvent.ATTACH, None)  # a reader came back, or a second one takes over
    LOST = (ReaderEvent.HOLD, None)  # the reader is gone, and the policy waits for it
    LEFT_ALONE = (ReaderEvent.DRAIN, None)  # the reader is gone, and the policy goes on without one
    LEFT = (ReaderEvent.LEAVE, UpstreamEvent.ABORT)  # the reader is gone, and that is the end
    # The grace period, or the time for a farewell, is over; or others have ended it, and keep what they have.
    EXPIRED = (ReaderEvent.EXPIRE, UpstreamEvent.ABORT)
    ENDED = (ReaderEvent.END, UpstreamEvent.ABORT)  # stopped, taken over, shut down, failed
    SERVED = (ReaderEvent.SERVE, None)  # all was handed over, or there is no one to hand it to


_R, _RE, _U, _UE, _A = ReaderState, ReaderEvent, UpstreamState, UpstreamEvent, Action

READER: dict[tuple[ReaderState, ReaderEvent], tuple[ReaderState, tuple[Action, ...]]] = {
    (_R.ATTACHED, _RE.ATTACH): (_R.ATTACHED, (_A.TAKE_OVER,)),
    (_R.ATTACHED, _RE.HOLD): (_R.HELD, (_A.START_GRACE,)),
    (_R.ATTACHED, _RE.DRAIN): (_R.DRAINING, ()),
    (_R.ATTACHED, _RE.LEAVE): (_R.GONE, (_A.CANCEL,)),
    (_R.ATTACHED, _RE.END): (_R.ENDING, (_A.TELL_END,)),
    (_R.ATTACHED, _RE.SERVE): (_R.SERVED, ()),
    (_R.HELD, _RE.ATTACH): (_R.ATTACHED, (_A.STOP_TIMER,)),
    (_R.HELD, _RE.EXPIRE): (_R.GONE, (_A.STOP_TIMER, _A.CANCEL)),
    (_R.HELD, _RE.END): (_R.ENDING, (_A.STOP_TIMER, _A.KEEP_END)),
    (_R.HELD, _RE.SERVE): (_R.GONE, (_A.STOP_TIMER,)),
    (_R.DRAINING, _RE.ATTACH): (_R.ATTACHED, ()),
    (_R.DRAINING, _RE.EXPIRE): (_R.GONE, (_A.CANCEL,)),
    (_R.DRAINING, _RE.END): (_R.ENDING, (_A.KEEP_END,)),
    (_R.DRAINING, _RE.SERVE): (_R.GONE, ()),
    (_R.ENDING, _RE.ATTACH): (_R.ENDING, (_A.TAKE_OVER,)),
    (_R.ENDING, _RE.HOLD): (_R.ENDING, ()),
    (_R.ENDING, _RE.DRAIN): (_R.ENDING, ()),
    (_R.ENDING, _RE.LEAVE): (_R.GONE, (_A.STOP_TIMER, _A.CANCEL)),
    (_R.ENDING, _RE.EXPIRE): (_R.GONE, (_A.CUT_OFF, _A.CANCEL)),
    (_R.ENDING, _RE.SERVE): (_R.SERVED, (_A.STOP_TIMER,)),
}

UPSTREAM: dict[tuple[UpstreamState, UpstreamEvent], tuple[UpstreamState, tuple[Action, ...]]] = {
    (_U.ASKING, _UE.BEGIN): (_U.ANSWERING, ()),
    (_U.ASKING, _UE.END): (_U.ENDED, ()),
    (_U.ASKING, _UE.ABORT): (_U.ABORTED, (_A.CLOSE_UPSTREAM,)),
    (_U.ANSWERING, _UE.END): (_U.ENDED, ()),
    (_U.ANSWERING, _UE.ABORT): (_U.ABORTED, (_A.CLOSE_UPSTREAM,)),
    (_U.ENDED, _UE.ABORT): (_U.ENDED, ()),
    (_U.ABORTED, _UE.ABORT): (_U.ABORTED, ()),
}


class IllegalEvent(RuntimeError):
    """This cannot happen to a stream in this state: a defect of ours."""


class Lifecycle:
    """Where one stream stands.

    Attributes:
        reader: the reader's side; begins attached.
        upstream: Claude's side; begins asking.
    """

    __slots__ = ("reader", "upstream")

    def __init__(self) -> None:
        self.reader = ReaderState.ATTACHED
        self.upstream = UpstreamState.ASKING

    @property
    def over(self) -> bool:
        """Nothing more can happen: the reader was served, or is gone."""
        return self.reader in (ReaderState.SERVED, ReaderState.GONE)

    @property
    def running(self) -> bool:
        """The answer still comes, or is waited for: the upstream's side has not ended."""
        return self.upstream in (UpstreamState.ASKING, UpstreamState.ANSWERING)

    def process(self, event: LifecycleEvent) -> tuple[Action, ...]:
        """Moves both sides and returns what to do, Claude's side first, so that nothing is generated while a reader is told.

        Raises:
            IllegalEvent: one of the sides cannot take it; neither has moved.
        """
        reader_event, upstream_event = event.value
        try:
            reader, on_reader = READER[self.reader, reader_event] if reader_event else (self.reader, ())
            upstream, on_upstream = UPSTREAM[self.upstream, upstream_event] if upstream_event else (self.upstream, ())
        except KeyError:
            raise IllegalEvent(f"{event.name} cannot happen to {self!r}") from None
        self.reader, self.upstream = reader, upstream
        return on_upstream + on_reader

    def __repr__(self) -> str:
        return f"<Lifecycle reader {self.reader.value}, upstream {self.upstream.value}>"


def diagram() -> str:
    """The two machines as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "  direction LR"]
    lines += _side("Reader", READER, _R.ATTACHED) + _side("Claude", UPSTREAM, _U.ASKING)
    return "\n".join(lines)


_S = TypeVar("_S", bound=Enum)
_E = TypeVar("_E", bound=Enum)


def _side(title: str, table: dict[tuple[_S, _E], tuple[_S, tuple[Action, ...]]], first: _S) -> list[str]:
    lines = [f"  state {title} {{", f"    [*] --> {first.value}"]
    for (state, event), (after, actions) in table.items():
        done = f" / {', '.join(action.value for action in actions)}" if actions else ""
        lines.append(f"    {state.value} --> {after.value}: {event.value}{done}")
    return [*lines, "  }"]


if __name__ == "__main__":
    print(diagram())
