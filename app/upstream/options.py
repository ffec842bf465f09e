"""How Claude is reached."""

from __future__ import annotations

from dataclasses import dataclass

from .retry import RetryRule


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """How Claude is reached; `settings.py` says what each means, in which unit and why."""

    api_key: str | None
    base_url: str | None
    window_s: float
    receive_buffer_bytes: int
    connect_timeout_s: float
    idle_timeout_s: float
    progress_timeout_s: float
    retry: RetryRule
