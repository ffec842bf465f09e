"""How many tokens can still come of a stream before a cut works, and how many may have been generated unseen. Pure.

Flowing: what comes at the rate of late in one window and two round trips, or for as long as it was lately left alone
(a busy event loop reads late), and some; at most what the socket's buffer can hold, since that is what is salvaged when
the connection is closed. Held still: what Claude generates into the buffers
meanwhile, which nobody reads and which is paid all the same; they hold at most `RUN_AHEAD_TOKENS`.
"""

from __future__ import annotations

# Held before any token has come: at 100 tokens a second what comes in 0.2 s, and some.
FIRST_TOKENS = 32
# Held beyond what the rate says: a burst of a few deltas, and the rounding of estimates.
SOME_TOKENS = 16
# All that the buffers between Claude and a queue that is full hold: measured up to 1,440.
RUN_AHEAD_TOKENS = 1500
# A close takes in at most twice `receive_buffer_bytes`, and the read before it 2,048; an event has some 110 bytes beside
# its text.
_SOCKET_BYTES, _EVENT_BYTES = 18_432, 110
# A rate is measured over at least this long, in seconds. A lower one than before is believed by this much, a higher one
# at once.
_LEAST_S, _SLOWER = 0.2, 0.3
# Until then it is guessed, as if what came had taken so long at least, in seconds: a first read brings a token or two
# of an ordinary answer, and forty of a fast one that is read late.
_GUESS_S = 0.1
# Of the longest time between two reads so much is still expected after the next.
_GAP_FADES = 0.8
# What did not come in so many seconds after a pause was not generated in it.
_CATCH_UP_S = 0.25
# The rate at which an answer that comes whole is taken to be generated, in tokens a second: nobody sees it grow.
WHOLE_TOKENS_PER_S = 200.0


class Ahead:
    """Follows one stream.

    Args:
        cut_s: how long a cut takes to work, in seconds: a window, and two round trips. None where one does not stop the
            bill: then all of it is held for.
        most: tokens that can run ahead while it is held still, or that the whole of it can have.
        rate: tokens a second, where that is known before any has come.
    """

    __slots__ = (
        "_cut_s",
        "_from",
        "_gap_s",
        "_known",
        "_most",
        "_paused_at",
        "_per_event",
        "_rate",
        "_seen",
        "_seen_at",
        "_since",
    )

    def __init__(self, cut_s: float | None, most: int = RUN_AHEAD_TOKENS, rate: float | None = None) -> None:
        self._cut_s = cut_s
        self._most = most
        self._rate = rate  # None until some of it has come
        self._known = rate is not None
        self._seen = 0.0  # tokens, all
        self._seen_at: float | None = None  # None before the first
        self._gap_s = 0.0  # the longest time between two reads of late
        self._since: float | None = None  # from when the rate is measured; None before the first token
        self._from = 0.0  # the tokens from which it is: those of the buffers, after a pause, do not count
        self._per_event = 1.0
        self._paused_at: float | None = None

    def seen(self, tokens: float, events: int, chars: int, now: float) -> None:
        """So many tokens, deltas and characters have come of it, in all.

        Args:
            now: seconds, on the clock of `pause`.
        """
        self._resume(now)
        self._seen = tokens
        if self._seen_at is not None:
            self._gap_s = max(now - self._seen_at, self._gap_s * _GAP_FADES)
        self._seen_at = now if tokens else None
        if events:
            self._per_event = tokens / (_EVENT_BYTES * events + chars)
        if self._since is None:
            if tokens:
                self._since, self._from = now, tokens
                if not self._known:
                    self._rate = tokens / _GUESS_S
            return
        passed_s = now - self._since
        if passed_s < _LEAST_S:
            if not self._known:  # a first guess: a fast answer must not wait to be known as one
                self._rate = max(self._rate or 0.0, (tokens - self._from) / max(passed_s, _GUESS_S))
            return
        self._known = True
        if tokens >= self._from:
            rate = (tokens - self._from) / passed_s
            if self._rate is None or rate > self._rate:
                self._rate = rate
            else:
                self._rate += _SLOWER * (rate - self._rate)
        elif passed_s < _CATCH_UP_S:
            return
        self._since, self._from = now, tokens

    def pause(self, now: float) -> None:
        """Nobody reads it. Idempotent."""
        if self._paused_at is None:
            self._paused_at = now

    def unseen(self, now: float) -> int:
        """Tokens that were generated while nobody read, and have not come yet."""
        behind = max(0.0, self._from - self._seen)
        if self._paused_at is not None:
            behind += (self._rate or 0.0) * (now - self._paused_at)
        return int(min(behind, self._most))

    def tokens(self, now: float) -> int:
        """Tokens to hold for: those that nobody saw, and those that come before a cut works."""
        if self._cut_s is None:
            return SOME_TOKENS + max(0, self._most - int(self._seen))
        if self._rate is None:
            return FIRST_TOKENS
        least = SOME_TOKENS if self._known else FIRST_TOKENS
        alone_s = self._gap_s
        if self._seen_at is not None and self._paused_at is None:
            alone_s = max(alone_s, now - self._seen_at)
        in_socket = self._per_event * _SOCKET_BYTES
        coming = int(min(self._rate * max(self._cut_s, alone_s), in_socket))
        return max(least, SOME_TOKENS + coming) + self.unseen(now)

    def _resume(self, now: float) -> None:
        if self._paused_at is not None:
            self._from = self._seen + self.unseen(now)
            self._since, self._seen_at, self._paused_at = now, now, None
