"""What a worker and its parent tell each other, also where they are of different versions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from app.fleet.spec import Listening, Wants, WorkerSpec


def test_it_is_read_as_it_was_written_and_what_another_version_adds_is_left_out() -> None:
    spec = WorkerSpec(1, 2, "some/folder", older=("/run/s.sock.o1234",), place=1, public=2, listening={"port": 8080})
    wants = Wants(Listening("localhost", 8080), workers=2, simulate=True)
    assert WorkerSpec.parse(json.loads(json.dumps(asdict(spec) | {"newer": 1}))) == spec
    told = asdict(wants) | {"newer": 1}
    told["listening"] |= {"newer": 1}
    assert Wants.parse(json.loads(json.dumps(told))) == wants
    assert WorkerSpec.parse({"number": 3}) == WorkerSpec(3)


def test_others_are_those_whose_sockets_are_there(tmp_path: Path) -> None:
    for name in ("0.sock", "11.sock", "2.sock", "2.sock.n12ab", "0-2-77.admin", "tables"):
        (tmp_path / name).touch()
    assert WorkerSpec(2, 1, str(tmp_path)).others() == [0, 11]
    assert WorkerSpec().others() == []
