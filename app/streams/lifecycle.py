"""The life of a stream as a table: one small machine for the reader's side, one for Claude's, and what joins them.

An illegal event raises and changes nothing. `python -m app.lifecycle` prints the diagram that the README shows.
"""

from __future__ import annotations

from enum import Enum


class ReaderState(Enum):
    """The reader's side."""

    ATTACHED = "attached"  # someone is connected
    LOST = "lost"  # no one is, but someone may come back
    SERVED = "served"  # the last event was written
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
    LOSE = "lose"
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
    CANCEL_GRACE = "cancel the grace period"
    TELL_END = "write the typed last event"
    CLOSE_UPSTREAM = "close the connection to Claude"


class Happening(Enum):
    """What happens to a stream, as (the reader's event, Claude's event)."""

    BEGAN = (None, UpstreamEvent.BEGIN)  # Claude's first event came
    ANSWERED = (None, UpstreamEvent.END)  # Claude's last event came, or its error
    CAME = (ReaderEvent.ATTACH, None)  # a reader came back, or a second one takes over
    LOST = (ReaderEvent.LOSE, None)  # the reader is gone, and the policy waits for it
    LEFT = (ReaderEvent.LEAVE, UpstreamEvent.ABORT)  # the reader is gone, and the policy does not wait
    EXPIRED = (ReaderEvent.EXPIRE, UpstreamEvent.ABORT)  # the grace period is over
    ENDED = (ReaderEvent.END, UpstreamEvent.ABORT)  # stopped, shut down, out of budget
    SERVED = (ReaderEvent.SERVE, None)  # all was handed over, or there is no one to hand it to


_R, _RE, _U, _UE = ReaderState, ReaderEvent, UpstreamState, UpstreamEvent

READER: dict[tuple[ReaderState, ReaderEvent], tuple[ReaderState, Action | None]] = {
    (_R.ATTACHED, _RE.ATTACH): (_R.ATTACHED, Action.TAKE_OVER),
    (_R.ATTACHED, _RE.LOSE): (_R.LOST, Action.START_GRACE),
    (_R.ATTACHED, _RE.LEAVE): (_R.GONE, None),
    (_R.ATTACHED, _RE.END): (_R.ATTACHED, Action.TELL_END),
    (_R.ATTACHED, _RE.SERVE): (_R.SERVED, None),
    (_R.LOST, _RE.ATTACH): (_R.ATTACHED, Action.CANCEL_GRACE),
    (_R.LOST, _RE.EXPIRE): (_R.GONE, None),
    (_R.LOST, _RE.END): (_R.GONE, Action.CANCEL_GRACE),
    (_R.LOST, _RE.SERVE): (_R.GONE, Action.CANCEL_GRACE),
}

UPSTREAM: dict[tuple[UpstreamState, UpstreamEvent], tuple[UpstreamState, Action | None]] = {
    (_U.ASKING, _UE.BEGIN): (_U.ANSWERING, None),
    (_U.ASKING, _UE.END): (_U.ENDED, None),
    (_U.ASKING, _UE.ABORT): (_U.ABORTED, Action.CLOSE_UPSTREAM),
    (_U.ANSWERING, _UE.END): (_U.ENDED, None),
    (_U.ANSWERING, _UE.ABORT): (_U.ABORTED, Action.CLOSE_UPSTREAM),
    (_U.ENDED, _UE.ABORT): (_U.ENDED, None),
    (_U.ABORTED, _UE.ABORT): (_U.ABORTED, None),
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

    def happen(self, happening: Happening) -> list[Action]:
        """Moves both sides and returns what is to be done, the reader's side first.

        Raises:
            IllegalEvent: one of the sides cannot take it; neither has moved.
        """
        reader_event, upstream_event = happening.value
        try:
            reader, on_reader = READER[self.reader, reader_event] if reader_event else (self.reader, None)
            upstream, on_upstream = UPSTREAM[self.upstream, upstream_event] if upstream_event else (self.upstream, None)
        except KeyError:
            raise IllegalEvent(f"{happening.name} cannot happen to {self!r}") from None
        self.reader, self.upstream = reader, upstream
        return [action for action in (on_reader, on_upstream) if action is not None]

    def __repr__(self) -> str:
        return f"<Lifecycle reader {self.reader.value}, upstream {self.upstream.value}>"


def diagram() -> str:
    """The two machines as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "  direction LR"]
    for title, table, first in (("Reader", READER, _R.ATTACHED), ("Claude", UPSTREAM, _U.ASKING)):
        lines += [f"  state {title} {{", f"    [*] --> {first.value}"]
        for (state, event), (after, action) in table.items():
            done = f" / {action.value}" if action else ""
            lines.append(f"    {state.value} --> {after.value}: {event.value}{done}")
        lines.append("  }")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
