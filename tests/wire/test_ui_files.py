"""Attached files: what each is by its bytes, and what Claude is given."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.wire.ui_files import file_block

PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n....", b"\xff\xd8\xff....", b"GIF89a...."
WEBP, PDF = b"RIFF\x24\0\0\0WEBPVP8 ", b"%PDF-1.7\n\xe2\xe3"
BINARY = b"PK\x03\x04\x14\0\x06\0\x08"


def attached(media_type: str, data: bytes, url_type: str | None = None, **more: Any) -> dict[str, Any]:
    """As a browser's FileReader writes it."""
    encoded = base64.b64encode(data).decode()
    url = f"data:{media_type if url_type is None else url_type};base64,{encoded}"
    return {"type": "file", "mediaType": media_type, "url": url} | more


def block(part: dict[str, Any]) -> dict[str, Any]:
    return file_block(part, "f")


def text(data: str, **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": data}} | more


def encoded(media_type: str, data: bytes) -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "text/csv", "text/markdown", "TEXT/HTML; charset=utf-8", "application/json", "application/xml",
     "application/x-yaml", "application/javascript", "application/x-sh", "application/toml", "application/ld+json",
     "image/svg+xml", "application/octet-stream", "model/vnd.collada+xml", "video/mp2t", "", "text", "text/*"],
)  # fmt: skip
def test_what_is_text_goes_up_as_text_whatever_it_is_called(media_type: str) -> None:
    """A browser has no type for `.md`, `.py` or `.toml`, and takes `.ts` for a film."""
    data = '{"größe": "1 & 2"}\n'
    part = attached(media_type, data.encode(), "" if "/" not in media_type else None, filename="a.b")

    assert block(part) == text(data, title="a.b")
    plain = {"type": "file", "mediaType": media_type, "url": f"data:{media_type},{quote(data)}"}
    assert block(plain) == text(data)


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ("\ufeffä".encode(), "ä"),
        ("ä\r\n".encode("utf-16"), "ä\r\n"),
        ("\ufeffä".encode("utf-16-be"), "ä"),
        ("Größe 5 €".encode("cp1252"), "Größe 5 €"),
    ],
)
def test_text_is_read_in_the_encodings_that_editors_write(data: bytes, meant: str) -> None:
    assert block(attached("text/plain", data)) == text(meant)


@pytest.mark.parametrize("url", ["data:", "data:;base64,", "data:text/plain;base64,", "data:application/json,%20"])
def test_an_empty_file_is_told_in_words(url: str) -> None:
    """Claude refuses blank text, and would for as long as it stands in the history."""
    part = {"type": "file", "mediaType": "text/plain", "url": url}

    assert block(part) == {"type": "text", "text": "[The attached file is empty]"}
    assert block(part | {"filename": "a.txt"}) == {"type": "text", "text": "[a.txt is empty]"}


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp"), (PDF, "application/pdf")],
)
@pytest.mark.parametrize("called", ["image/png", "image/*", "image", "", "application/octet-stream", "text/plain"])
def test_pictures_and_pdf_are_known_by_their_first_bytes(data: bytes, media_type: str, called: str) -> None:
    kind = "document" if media_type == "application/pdf" else "image"

    assert block(attached(called, data)) == {"type": kind, "source": encoded(media_type, data)}
    escaped = {"type": "file", "mediaType": called, "url": f"data:{called},{quote(data)}"}
    assert block(escaped) == block(attached(called, data))


def test_a_picture_of_a_kind_unknown_here_is_left_to_claude() -> None:
    assert block(attached("image/avif", b"\0\0\0 ftypavif"))["source"]["media_type"] == "image/avif"
    part = {"type": "file", "mediaType": "image", "url": "data:image/avif;base64,AAAA"}
    assert block(part)["source"]["media_type"] == "image/avif"


def test_a_file_that_was_uploaded_before_is_named_by_its_id() -> None:
    part: dict[str, Any] = {"type": "file", "mediaType": "application/pdf", "url": "", "filename": "a.pdf"}
    part |= {"providerReference": {"openai": "x", "anthropic": "file_1"}}
    source = {"type": "file", "file_id": "file_1"}

    assert block(part) == {"type": "document", "source": source, "title": "a.pdf"}
    assert block(part | {"mediaType": "image/png"}) == {"type": "image", "source": source}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (attached("application/zip", BINARY), "not application/zip"),
        (attached("audio/mpeg", b"ID3\x03\0"), "not audio/mpeg"),
        ({"mediaType": "text/csv", "url": "https://a.example/x"}, "send text as a data: address"),
        ({"mediaType": "image/png", "url": "blob:https://a.example/1"}, "must be a data: or http"),
        ({"mediaType": "image/png", "url": "data:image/png;base64,!"}, "no valid base64"),
        ({"mediaType": "image/png"}, "must be a data: or http"),
        ({}, "must be a data: or http"),
    ],
)
def test_what_claude_cannot_read_is_refused_by_name(part: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as raised:
        block(part)

    assert raised.value.field is not None
    assert raised.value.field.startswith("f")


_PIECES = st.sampled_from(["%41", "%fF", "%", "=", "=3D", "%3d", "\n", "%\n", "%\r\n", " ", "é", "a", "4", "+"])


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_percent_signs_escape_or_stand_for_themselves(escaped: str) -> None:
    raw = escaped.encode()
    meant = raw if re.search(rb"%(?![0-9a-fA-F]{2})", raw) else unquote_to_bytes(raw)
    made = block({"mediaType": "text/plain", "url": f"data:text/plain,{escaped}"})
    if made["type"] == "text":
        assert not meant.strip()
        return

    assert made == text(meant.decode("utf-8") if _is_utf_8(meant) else meant.decode("cp1252", "replace"))


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
