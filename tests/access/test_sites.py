"""Whose page a request comes from: no other site's page may spend, nor stop."""

from __future__ import annotations

import pytest

from app.access.sites import check_content_type, check_host, check_site
from app.errors import Forbidden, WrongMediaType


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        " application/json ;x",
        "application/x+json",
        "application/json, application/json",
        "application/json,application/json; charset=utf-8",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "cross-site", "none"])
def test_json_is_taken_from_anywhere(content_type: str, site: str | None) -> None:
    check_content_type({"Content-Type": content_type} | ({"Sec-Fetch-Site": site} if site else {}))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/html",
        "application/jsonp",
        "json",
        "text/plainer",
        "application/x-www-form-urlencoded, application/json",
        "application/json, application/x-www-form-urlencoded",
        "application/json,",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin"])
def test_another_content_type_is_refused_by_its_name(content_type: str, site: str | None) -> None:
    with pytest.raises(WrongMediaType, match="application/json") as refused:
        check_content_type({"Content-Type": content_type} | ({"Sec-Fetch-Site": site} if site else {}))
    assert refused.value.status == 415
    assert content_type.partition(";")[0] in str(refused.value)


def test_a_content_type_of_any_length_is_told_shortened() -> None:
    with pytest.raises(WrongMediaType) as refused:
        check_content_type({"Content-Type": "x" * 10_000})
    assert len(str(refused.value)) < 200


HOST = {"Host": "here.example:8080"}


@pytest.mark.parametrize("content_type", [{}, {"Content-Type": ""}, {"Content-Type": "text/plain;charset=UTF-8"}])
@pytest.mark.parametrize(
    ("headers", "may"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": ""}, False),
        ({"Sec-Fetch-Site": "brand-new"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://here.example:8080"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://elsewhere.example"}, True),
        ({}, True),  # not a browser
        ({"Origin": "http://here.example:8080"}, True),
        ({"Origin": "https://here.example:8080"}, True),  # TLS ends at the proxy
        ({"Origin": "http://here.example"}, False),
        ({"Origin": "http://here.example:8081"}, False),
        ({"Origin": "http://elsewhere.example"}, False),
        ({"Origin": "http://here.example:8080.elsewhere.example"}, False),
        ({"Origin": "http://elsewhere.example/here.example:8080"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://["}, False),
    ],
)
def test_without_json_as_its_type_a_body_is_taken_from_our_own_pages_only(
    headers: dict[str, str], may: bool, content_type: dict[str, str]
) -> None:
    if may:
        check_content_type(HOST | headers | content_type)
        return
    with pytest.raises(Forbidden, match="application/json") as refused:
        check_content_type(HOST | headers | content_type)
    assert refused.value.status == 403


def test_an_origin_without_a_host_to_compare_is_another_site() -> None:
    for origin in ("null", "http://here.example"):
        with pytest.raises(Forbidden):
            check_content_type({"Origin": origin})


@pytest.mark.parametrize("content_type", ["text/plain, application/json", "text/plain;a=b, application/json"])
def test_a_type_that_any_page_may_send_is_not_made_json_by_another_beside_it(content_type: str) -> None:
    with pytest.raises((Forbidden, WrongMediaType)):
        check_content_type({"Content-Type": content_type, "Sec-Fetch-Site": "cross-site"})


@pytest.mark.parametrize(
    ("headers", "may"),
    [
        ({}, True),  # not a browser
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://here.example:8080"}, True),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, True),  # the browser has asked us
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://elsewhere.example"}, False),
        ({"Content-Type": "text/plain", "Sec-Fetch-Site": "same-site"}, False),
        ({"Content-Type": "multipart/form-data; boundary=x", "Origin": "null"}, False),
    ],
)
def test_what_another_sites_page_can_send_unasked_changes_nothing(headers: dict[str, str], may: bool) -> None:
    if may:
        check_site(HOST | headers)
        return
    with pytest.raises(Forbidden, match="X-Stop-Token"):
        check_site(HOST | headers)


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1:8080", True),
        ("127.9.9.9", False),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("localhost:8080", True),
        ("LocalHost", True),
        ("localhost.:8080", True),
        ("chat.localhost:8080", False),
        ("::1", True),
        ("known.example:8080", True),
        ("Known.Example", True),
        ("", True),  # not a browser
        ("evil.example:8080", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil-localhost", False),
        ("x.known.example", False),
        ("evil.example:8080@localhost", True),  # no browser sends this, and it names this machine
        ("localhost@evil.example", False),
        ("10.0.0.1:8080", False),
        ("0.0.0.0:8080", False),
        ("[::1", False),
        ("[", False),
        (":8080", False),
        ("/localhost", False),
    ],
)
def test_without_keys_only_known_names_are_answered_to(host: str, may: bool) -> None:
    known = {"localhost", "127.0.0.1", "::1", "known.example"}
    if may:
        check_host(host, known)
        return
    with pytest.raises(Forbidden, match=r"api_keys.*allowed_hosts.*cors_origins.*auth") as refused:
        check_host(host, known)
    assert refused.value.status == 403
