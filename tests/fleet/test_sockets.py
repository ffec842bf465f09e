"""What a service listens on: opened once, or not at all, and an admin port that is taken over later."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from app.fleet.sockets import Sockets, changed
from app.fleet.spec import Listening, Wants
from app.settings import SettingsError
from tests.support.nginx import free_port

pytestmark = pytest.mark.real


def test_the_admin_port_of_the_service_that_is_replaced_is_taken_over_once_that_has_left_it(tmp_path: Path) -> None:
    unix, port = str(tmp_path / "s.sock"), free_port()
    at = Listening(unix=unix, admin_host="127.0.0.1", admin_port=port)
    old = Sockets(Wants(at))
    old.publish()
    with pytest.raises(SettingsError, match="a live service listens there"):
        Sockets(Wants(at))
    new = Sockets(Wants(at, take_over=True))
    assert (new.has_admin, new.admin(0)) == (False, [])
    assert not new.follow_admin()
    new.publish()
    old.close()
    assert new.follow_admin()
    assert new.admin(0)[0].getsockname() == ("127.0.0.1", port)
    new.close()
    assert not list(tmp_path.iterdir())


def test_what_cannot_all_be_opened_is_closed_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = Listening("localhost", free_port(), admin_host="127.0.0.1", admin_port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match=r"^admin_port "):
            Sockets(Wants(at))
    both = Sockets(Wants(at, workers=1))  # the first port was let go of
    assert {sock.getsockname()[1] for sock in both.public(0)} == {at.port}
    both.close()


def test_what_is_to_be_elsewhere_by_now_is_named() -> None:
    old = Wants(Listening("localhost", 8080, admin_port=9464))
    assert changed(old, Wants(Listening("localhost", 8081, unix="/s", admin_port=9464), workers=2)) == ["port", "unix"]
    assert changed(old, old) == []
