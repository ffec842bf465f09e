"""What one of the mirror's pipelines carries: of which streams, and which step of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..streams.delivery import Frames
from ..streams.terms import Terms
from ..wire.ui_stream import UiFormat
from .log_commands import About, Command
from .mirror_rules import Ending, Memory, Standing, Step
from .names import StreamKeys, digest


@dataclass(slots=True)
class Shadowed:
    """One stream and its log.

    Attributes:
        ending: how it ended; None while it runs.
    """

    terms: Terms
    frames: Frames
    keys: StreamKeys
    standing: Standing = field(default_factory=Standing)
    ending: Ending | None = None

    @property
    def stream_id(self) -> str:
        """Its id."""
        return self.terms.stream_id

    @property
    def memory(self) -> Memory:
        """What is there to be written."""
        replay = self.frames.replay
        ending = Ending.ENDED if replay.ended else self.ending
        return Memory(replay.first_id, replay.last_id, ending)

    @property
    def about(self) -> About:
        """What others must know of it."""
        terms = self.terms
        return About(terms.caller, terms.subject, terms.token_id, digest(terms.stop_token), wire_of(self.frames))


@dataclass(slots=True)
class Job:
    """A step of one stream, as it is sent.

    Attributes:
        last_id: the newest frame that it writes.
        size_bytes: of the frames.
    """

    shadowed: Shadowed
    step: Step
    memory: Memory
    commands: list[Command]
    last_id: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Batch:
    """What goes in one pipeline.

    Attributes:
        going_on: streams of which what is new is appended and nothing else is to be done, as most in most rounds; each with
            the newest frame that is written, and whether more wait.
        appends: their commands.
        jobs: everything else.
    """

    going_on: list[tuple[Shadowed, int, bool]] = field(default_factory=list)
    appends: list[Command] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def commands(self) -> list[Command]:
        """Of all of them, in this order."""
        return [*self.appends, *(command for job in self.jobs for command in job.commands)]


def wire_of(frames: Frames) -> str:
    """The name of a stream's format."""
    return "ui" if isinstance(frames.wire, UiFormat) else "plain"
