"""What the log tells of keys: each change, each key's use now and then, and no key."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from app.access.audit import KeyAudit
from app.access.key_ring import KeyRecord, KeyRing

RECORD = KeyRecord("abcdefgh", "acme", b"d" * 32, created_at=0)


def ring(*records: KeyRecord) -> KeyRing:
    return KeyRing.of(records, b"")


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.access.audit")


def test_a_keys_use_is_told_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    audit = KeyAudit()
    for now in (0, 1, 3599, 3600, 3601):
        audit.used(RECORD, now)
    assert caplog.messages == ["key abcdefgh of caller acme is used"] * 2


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [RECORD], "key abcdefgh of caller acme was added and ends never"),
        ([], [replace(RECORD, expires_at=60)], "key abcdefgh of caller acme was added and ends 1970-01-01T00:01:00Z"),
        ([RECORD], [replace(RECORD, revoked_at=9)], "key abcdefgh of caller acme was revoked; last used here 1970-01-01T00:00:07Z"),
        ([RECORD], [replace(RECORD, expires_at=60)], "key abcdefgh of caller acme now ends 1970-01-01T00:01:00Z"),
        ([RECORD], [], "key abcdefgh of caller acme was removed; last used here 1970-01-01T00:00:07Z"),
    ],
)  # fmt: skip
def test_each_change_is_told(
    before: list[KeyRecord], after: list[KeyRecord], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    audit = KeyAudit()
    if before:
        audit.used(RECORD, 7.9)
    caplog.clear()
    audit.changed(ring(*before), ring(*after))
    audit.changed(ring(*after), ring(*after))
    assert caplog.messages == [told]


def test_a_key_that_was_never_used_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    KeyAudit().changed(ring(RECORD), ring(replace(RECORD, revoked_at=9)))
    assert caplog.messages == ["key abcdefgh of caller acme was revoked; not used here since the start"]
