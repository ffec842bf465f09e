"""TCP sockets to listen on, and what is told where they cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.fleet.tcp import PortTaken, tcp_sockets, url_of
from app.settings import SettingsError

pytestmark = pytest.mark.real


@contextmanager
def listening(*given: object) -> Iterator[list[list[socket.socket]]]:
    sockets = tcp_sockets(*given)  # type: ignore[arg-type]
    try:
        yield sockets
    finally:
        for sock in (sock for of_one in sockets for sock in of_one):
            sock.close()


def test_each_worker_has_a_socket_of_its_own_on_the_one_port() -> None:
    with listening("127.0.0.1", 0, 3) as sockets:
        assert len(sockets) == 3
        assert len({sock.getsockname() for (sock,) in sockets}) == 1
        assert len({sock.fileno() for (sock,) in sockets}) == 3


def test_connections_meet_every_worker() -> None:
    with listening("127.0.0.1", 0, 2) as sockets:
        for (sock,) in sockets:
            sock.setblocking(False)
        address = sockets[0][0].getsockname()
        met: set[int] = set()
        while len(met) < 2:
            with socket.create_connection(address):
                for number, (sock,) in enumerate(sockets):
                    try:
                        sock.accept()[0].close()
                    except BlockingIOError:
                        continue
                    met.add(number)


def test_every_address_of_a_name_is_listened_on_under_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_how: found)
    with listening("service.test", 0, 2) as sockets:
        names = [[sock.getsockname() for sock in of_one] for of_one in sockets]
        port = names[0][0][1]
        assert names == [[("127.0.0.1", port), ("127.0.0.2", port)]] * 2


def test_an_address_that_this_machine_lacks_is_left_out_while_another_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_how: found)
    with listening("service.test", 0) as sockets:
        assert [sock.getsockname()[0] for sock in sockets[0]] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("192.0.2.1", 8080, "port 8080 on host 192.0.2.1: cannot assign requested address"),
        ("127.0.0.1", 65536, "port 65536 on host 127.0.0.1: bind(): port must be 0-65535."),
        ("nowhere.invalid", 80, "host 'nowhere.invalid': "),
        ("", 80, "host '': "),
        ("a\0b", 80, "host 'a\\x00b': "),
        (f"{'a' * 70}.test", 80, "host 'aaaa"),
    ],
)
def test_what_cannot_be_listened_on_is_told_by_the_settings_names(host: str, port: int, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tcp_sockets(host, port)
    assert str(caught.value).startswith(told)
    assert not isinstance(caught.value, PortTaken)


@pytest.mark.parametrize("ours", [1, 2])
@pytest.mark.parametrize("theirs", [1, 2])
def test_a_port_is_not_shared_with_another_service_however_many_workers_either_has(ours: int, theirs: int) -> None:
    with listening("127.0.0.1", 0, theirs) as sockets:
        port = sockets[0][0].getsockname()[1]
        with pytest.raises(PortTaken, match=f"^admin_port {port} on admin_host 127.0.0.1: address already in use$"):
            tcp_sockets("127.0.0.1", port, ours, ("admin_host", "admin_port"))


def test_a_url_names_the_host_as_it_was_given() -> None:
    with listening("127.0.0.1", 0) as ((sock,),):
        port = sock.getsockname()[1]
        assert url_of("localhost", sock) == f"http://localhost:{port}"
        assert url_of("::1", sock) == f"http://[::1]:{port}"
