"""The path of a unix socket: what is replaced, what never is, and how it changes hands."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.fleet.unix_path import LONGEST_BYTES, UnixPath, folder_of_sockets
from app.settings import SettingsError

pytestmark = pytest.mark.real

OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


def bound(path: str, *, take_over: bool = False) -> UnixPath:
    at = UnixPath.bind(path, take_over=take_over)
    OPEN.append(at.sock)
    return at


def serving(path: str, *, take_over: bool = False) -> UnixPath:
    at = bound(path, take_over=take_over)
    at.publish()
    return at


def reaches(path: str, at: UnixPath) -> bool:
    """Whether who connects to the path meets this socket."""
    at.sock.setblocking(False)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
        try:
            at.sock.accept()[0].close()
        except BlockingIOError:
            return False
    return True


def test_the_path_appears_only_when_it_is_published(path: str) -> None:
    at = bound(path)
    assert not Path(path).exists()
    at.publish()
    assert reaches(path, at)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_nothing_is_left_in_the_folder(path: str) -> None:
    serving(path).withdraw()
    bound(path).withdraw()
    assert not list(Path(path).parent.iterdir())


def test_withdrawing_again_changes_nothing(path: str) -> None:
    at = serving(path)
    at.withdraw()
    at.withdraw()


def test_a_dead_socket_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(path)
        crashed.listen()
    assert reaches(path, serving(path))


def something(path: Path, kind: str) -> None:
    match kind:
        case "a plain file":
            path.write_text("precious", "utf-8")
        case "a directory":
            path.mkdir()
        case "a symbolic link":
            path.symlink_to("elsewhere")
        case "a named pipe":
            os.mkfifo(path)
        case "a socket of another kind":
            OPEN.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            OPEN[-1].bind(str(path))


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize(
    "kind", ["a plain file", "a directory", "a symbolic link", "a named pipe", "a socket of another kind"]
)
def test_what_is_no_socket_of_a_service_is_refused_by_name_and_stays(kind: str, take_over: bool, path: str) -> None:
    something(Path(path), kind)
    before = os.lstat(path)
    with pytest.raises(SettingsError) as caught:
        UnixPath.bind(path, take_over=take_over)
    assert str(caught.value) == f"unix {path}: {kind} is there, and is not replaced"
    assert os.lstat(path).st_ino == before.st_ino
    assert os.listdir(Path(path).parent) == ["s.sock"]


def test_a_live_socket_is_refused_by_name_and_stays(path: str) -> None:
    first = serving(path)
    with pytest.raises(SettingsError, match=f"^unix {path}: a live service listens there; --take-over restarts it$"):
        UnixPath.bind(path)
    first.sock.accept()[0].close()  # that it lives was seen by connecting
    assert reaches(path, first)
    assert os.listdir(Path(path).parent) == ["s.sock"]


def test_a_live_socket_whose_queue_is_full_is_live(path: str) -> None:
    full = socket.socket(socket.AF_UNIX)
    OPEN.append(full)
    full.bind(path)
    full.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    OPEN.append(waiting)
    waiting.connect(path)
    with pytest.raises(SettingsError, match="a live service"):
        UnixPath.bind(path)


def test_a_restart_takes_the_path_and_keeps_the_way_to_the_old_one(path: str) -> None:
    old = serving(path)
    new = bound(path, take_over=True)
    OPEN.append(old.sock.accept()[0])
    assert reaches(path, old), "until it is published"
    new.publish()
    assert reaches(path, new)
    (way,) = new.older
    assert reaches(way, old)


def test_the_old_one_leaves_the_path_to_its_successor(path: str) -> None:
    old = serving(path)
    new = serving(path, take_over=True)
    old.withdraw()
    old.sock.close()
    assert reaches(path, new)
    assert os.listdir(Path(path).parent) == ["s.sock"], "its second name goes with it"


def test_a_third_one_reaches_both_who_still_drain_the_newer_first(path: str) -> None:
    first = serving(path)
    second = serving(path, take_over=True)
    third = serving(path, take_over=True)
    OPEN.extend(at.sock.accept()[0] for at in (first, second, first))
    newer, older = third.older
    assert reaches(newer, second)
    assert reaches(older, first)


def test_what_a_crash_left_beside_the_path_is_removed_at_the_next_start(path: str) -> None:
    old = serving(path)
    new = serving(path, take_over=True)
    for crashed in (old, new, bound(path, take_over=True)):
        crashed.sock.close()
    assert len(os.listdir(Path(path).parent)) == 4
    serving(path)
    assert os.listdir(Path(path).parent) == ["s.sock"]


@pytest.mark.parametrize("withdrawn", [True, False])
def test_the_old_one_may_end_before_it_is_replaced(withdrawn: bool, path: str) -> None:
    old = serving(path)
    new = bound(path, take_over=True)
    if withdrawn:
        old.withdraw()
    old.sock.close()
    new.publish()
    assert reaches(path, new)


def test_who_was_overtaken_before_it_was_published_says_so(path: str) -> None:
    serving(path)
    late = bound(path, take_over=True)
    serving(path, take_over=True)
    with pytest.raises(SettingsError, match=f"^unix {path}: another process has taken it meanwhile$"):
        late.publish()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/nowhere/s.sock", "unix '/nowhere/s.sock': no such file or directory"),
        ("/dev/null/s.sock", "unix '/dev/null/s.sock': not a directory"),
        ("/proc/s.sock", "unix '/proc/s.sock': "),
        ("/tmp/a\0b", "unix '/tmp/a\\x00b': "),
        (f"/tmp/{'ä' * 50}", f"unix /tmp/{'ä' * 50}: longer than 101 bytes"),
    ],
)
def test_a_path_that_cannot_be_is_told_by_name(path: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        UnixPath.bind(path)
    assert str(caught.value).startswith(told)


def test_the_longest_path_that_is_taken_works_through_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "a" * LONGEST_BYTES
    old = serving(path)
    new = serving(path, take_over=True)
    OPEN.append(old.sock.accept()[0])
    assert reaches(path, new)
    assert reaches(new.older[0], old)


@pytest.mark.parametrize(
    ("place", "chosen"), [("short", "short"), ("l" * 60, "/tmp"), ("nowhere", "/tmp"), (None, "/tmp")]
)
def test_workers_find_each_other_in_a_folder_whose_path_is_short(
    place: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        if place is None:
            monkeypatch.delenv("TMPDIR", raising=False)
        else:
            monkeypatch.setenv("TMPDIR", f"{root}/{place}")
            if place != "nowhere":
                os.mkdir(f"{root}/{place}")
        with folder_of_sockets() as folder:
            assert os.path.dirname(folder) == os.path.join(root, chosen)
            serving(f"{folder}/12345-12345-1234567890.admin")
