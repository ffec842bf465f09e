"""Counts an aborted answer's text anew, by the free `count_tokens` call. Off unless given a rate.

Anthropic calls its result an estimate, and so does the ledger; hidden thinking stays unknown.
"""

from __future__ import annotations

import asyncio
import json
import logging

from ..answer.lenient_json import read_json
from ..answer.transcript import Transcript
from ..answer.usage import count
from ..errors import UpstreamError
from ..money.entry import Entry, ReconcileLimit
from .claude import Claude

log = logging.getLogger(__name__)

# What the call may take, in seconds; after that the estimate stands.
_TIMEOUT_S = 5.0


class Reconciler:
    """Asks `count_tokens` about aborted answers, within a rate.

    Args:
        claude: the way to the Messages API.
        limit: how often.
    """

    def __init__(self, claude: Claude, limit: ReconcileLimit) -> None:
        self._claude = claude
        self._limit = limit
        self._frames: dict[str, int] = {}  # what a message costs beyond its text, by model

    async def reconcile(self, entry: Entry, transcript: Transcript) -> Entry:
        """The entry with its answer counted anew; as it was, where that is not worth a call, or the call fails.

        Cancelling is safe: the entry as it was can then be booked.
        """
        text = transcript.text
        if text is None or not self._limit.allows(entry, asyncio.get_running_loop().time()):
            return entry
        model = entry.served_model or entry.model
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if model not in self._frames:
                    self._frames[model] = await self._count(model, "a") - 1
                return entry.reconciled(max(0, await self._count(model, text) - self._frames[model]))
        except (UpstreamError, TimeoutError, ValueError) as error:
            log.info("an aborted answer of %s was not counted anew: %s", model, type(error).__name__)
            return entry

    async def _count(self, model: str, text: str) -> int:
        # As a user's message: a conversation may not end with the assistant's.
        asked = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        answer = await self._claude.fetch("/v1/messages/count_tokens", self._claude.own_headers, asked)
        counted = read_json(answer.content)
        tokens = count(counted.get("input_tokens")) if isinstance(counted, dict) else None
        if tokens is None:
            raise ValueError("count_tokens answered with no count")
        return tokens
