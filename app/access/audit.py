"""What the log tells of keys: added, ended, used. By their ids, which give nothing away. Pure but for the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from .key_ring import KeyRecord, KeyRing

log = logging.getLogger(__name__)


class KeyAudit:
    """Tells of each change of the keys, and of each key's use now and then. It remembers no more than there are keys."""

    # A key in use is told of this often, in seconds: a line a request would be a flood.
    QUIET_S = 3600.0

    def __init__(self) -> None:
        self._used_at: dict[str, float] = {}  # by the key's id, seconds since 1970
        self._told_at: dict[str, float] = {}

    def used(self, record: KeyRecord, now: float) -> None:
        """A key was taken, at `now`, seconds since 1970."""
        self._used_at[record.key_id] = now
        if now - self._told_at.get(record.key_id, -self.QUIET_S) >= self.QUIET_S:
            self._told_at[record.key_id] = now
            log.info("key %s of caller %s is used", record.key_id, record.caller)

    def changed(self, before: KeyRing, after: KeyRing) -> None:
        """The keys were read again."""
        for key_id, record in after.records.items():
            old = before.records.get(key_id)
            if old is None:
                log.info("key %s of caller %s was added and ends %s", key_id, record.caller, as_time(record.expires_at))
            elif old.revoked_at != record.revoked_at:
                log.info("key %s of caller %s was revoked; %s", key_id, record.caller, self._last_use(key_id))
            elif old.expires_at != record.expires_at:
                log.info("key %s of caller %s now ends %s", key_id, record.caller, as_time(record.expires_at))
        for key_id in before.records.keys() - after.records.keys():
            log.info(
                "key %s of caller %s was removed; %s", key_id, before.records[key_id].caller, self._last_use(key_id)
            )
            self._used_at.pop(key_id, None)
            self._told_at.pop(key_id, None)

    def _last_use(self, key_id: str) -> str:
        at = self._used_at.get(key_id)
        return "not used here since the start" if at is None else f"last used here {as_time(at)}"


def as_time(at: float | None) -> str:
    """A time in UTC, to the second; `never` for none."""
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
