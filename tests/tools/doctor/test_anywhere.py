"""What a stream of events tells that is not ours."""

from __future__ import annotations

import pytest

from app.tools.doctor.anywhere import Seen, judged

CHUNKED = {"transfer-encoding": "chunked"}


def seen(pieces: list[tuple[float, int, int]], *, waited_s: float = 0.1, whole: bool = True) -> Seen:
    return Seen(waited_s, pieces, pieces[-1][0] + 6 if not whole else pieces[-1][0], whole)


SPACED = seen([(number / 10, 90, 1) for number in range(20)])
AT_THE_END = seen([(5.0, 1800, 20)], waited_s=5.0)
IN_GROUPS = seen([(float(number), 4096, 40) for number in range(5)] + [(5.0, 700, 7)])


@pytest.mark.parametrize(
    ("headers", "version", "encoding", "stream", "checks"),
    [
        (CHUNKED, "1.1", "", SPACED, []),
        ({"content-length": "1800"}, "1.1", "", SPACED, []),
        (CHUNKED, "1.1", "gzip", SPACED, ["compressed"]),
        ({}, "1.0", "", SPACED, ["http-1.0"]),
        ({}, "1.1", "", SPACED, ["http-1.0"]),
        (CHUNKED | {"x-cache": "HIT from edge"}, "1.1", "", SPACED, ["cached"]),
        (CHUNKED | {"x-cache": "MISS", "age": "0"}, "1.1", "", SPACED, []),
        (CHUNKED | {"age": "31"}, "1.1", "", SPACED, ["cached"]),
        (CHUNKED, "1.1", "", AT_THE_END, ["buffering"]),
        (CHUNKED, "1.1", "", IN_GROUPS, ["buffering"]),
        (CHUNKED, "1.1", "", seen([(0.1, 1800, 20)]), []),  # a quick service, not a buffer
        (CHUNKED, "1.1", "", seen([(0.0, 4096, 1), (1.0, 4096, 1), (2.0, 4096, 1), (3.0, 10, 1)]), []),  # large events
        (CHUNKED, "1.1", "", seen([(0.0, 50, 1)], whole=False), ["idle-limit"]),
    ],
)
def test_each_trait_has_its_finding(
    headers: dict[str, str], version: str, encoding: str, stream: Seen, checks: list[str]
) -> None:
    assert [one.check for one in judged(headers, version, (encoding, 900), stream)] == checks


def test_a_buffer_is_named_by_its_size() -> None:
    (found,) = judged(CHUNKED, "1.1", ("", 0), IN_GROUPS)
    assert "147 events" not in found.evidence
    assert "groups of 4 kB" in found.evidence
