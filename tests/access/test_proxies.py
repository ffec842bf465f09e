"""Whose connection it is: only proxies that are trusted are believed about their clients."""

from __future__ import annotations

import pytest

from app.access.proxies import Proxies, client_of


@pytest.mark.parametrize(
    ("trusted", "address", "forwarded_for", "client"),
    [
        ((), "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", ["198.51.100.7"], "198.51.100.7"),
        (("192.0.2.0/24",), "192.0.2.1", ["1.1.1.1, 198.51.100.7, 192.0.2.9"], "198.51.100.7"),
        (("192.0.2.1",), "192.0.2.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        (("192.0.2.1",), "192.0.2.1", [], "192.0.2.1"),
        (("unix",), "", ["198.51.100.7"], "198.51.100.7"),
        ((), "", ["198.51.100.7"], ""),
        (("::1",), "::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (("127.0.0.1",), "::ffff:127.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        (("unix",), "", ["x" * 9000], "x" * 80),
        (("0.0.0.0/0",), "192.0.2.1", ["192.0.2.2"], "192.0.2.2"),
    ],
)
def test_the_client_is_the_last_one_named_that_is_no_trusted_proxy(
    trusted: tuple[str, ...], address: str, forwarded_for: list[str], client: str
) -> None:
    assert Proxies(trusted).client_of(address, forwarded_for) == client


def test_one_subscribers_network_is_one_client() -> None:
    assert client_of("2001:db8:1:2::1") == client_of("2001:db8:1:2:ffff::") != client_of("2001:db8:1:3::1")


@pytest.mark.parametrize("name", ["nginx", "10.0.0.1/8", "", "10.0.0"])
def test_what_is_neither_address_nor_network_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear|has host bits"):
        Proxies([name])
