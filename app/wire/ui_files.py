"""A file that a page attached, as a block that Claude reads: a picture, a PDF, or text. Pure.

What a file is, its first bytes say. What a browser calls it comes from its name alone: `README.md` has no type, a
photograph saved as `.png` may be a JPEG, which Claude would refuse (Messages API, vision; PDF support; documents).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from typing import Any

from ..errors import BadRequest

Block = dict[str, Any]

_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_HEAD_CHARS = 64  # of base64, for the first bytes of a file
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"%PDF-": "application/pdf",
}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def file_block(part: dict[str, Any], field: str) -> Block:
    """The block that a `file` part stands for (AI SDK, `FileUIPart`).

    Args:
        part: the part, as the page sent it.
        field: where it stands in the request, for the error.

    Raises:
        BadRequest: it cannot be read, or not by Claude.
    """
    media_type, url = part.get("mediaType"), part.get("url")
    media_type = media_type.partition(";")[0].strip().lower() if isinstance(media_type, str) else ""
    name = part.get("filename")
    titled = {"title": name} if isinstance(name, str) and name else {}
    uploaded = part.get("providerReference")
    if isinstance(uploaded, dict) and isinstance(uploaded.get("anthropic"), str):
        source = {"type": "file", "file_id": uploaded["anthropic"]}
        return _picture(source) if media_type.startswith("image") else {"type": "document", "source": source, **titled}
    if not isinstance(url, str):
        raise BadRequest(f"{field}.url must be a data: or http(s): address", field=f"{field}.url")
    if url[:5].lower() != "data:":
        return _linked(media_type, url, titled, field)
    found = _DATA_URL.fullmatch(url)
    if "/" not in media_type or media_type.endswith("/*"):
        media_type = found[1].lower() if found is not None else ""
    # Browsers write an empty file as "data:" alone.
    raw = _unescaped(found[3].encode("utf-8", "replace")) if found is not None else b""
    encoded = found is not None and ";base64" in found[2].lower()
    return _attached(raw if encoded else base64.b64encode(raw), media_type, titled, field)


def _linked(media_type: str, url: str, titled: Block, field: str) -> Block:
    """A file that Claude fetches by itself: it does so for pictures and PDF."""
    if not url.startswith(("https://", "http://")):
        raise BadRequest(f"{field}.url must be a data: or http(s): address", field=f"{field}.url")
    source = {"type": "url", "url": url}
    if media_type.startswith("image"):
        return _picture(source)
    if media_type != "application/pdf":
        told = (
            f"{field}: by its address Claude reads images and PDF, not {media_type[:80]}; send text as a data: address"
        )
        raise BadRequest(told, field=field)
    return {"type": "document", "source": source, **titled}


def _attached(encoded: bytes, media_type: str, titled: Block, field: str) -> Block:
    """A file in base64; pictures and PDF stay in it, since they are large and nobody here need read them."""
    if len(encoded) % 4 or not _BASE64.fullmatch(encoded):
        raise BadRequest(f"{field}.url is no valid base64", field=f"{field}.url")
    media_type = _type_of(base64.b64decode(encoded[:_HEAD_CHARS]), media_type)
    source = {"type": "base64", "media_type": media_type, "data": encoded.decode("ascii")}
    if media_type.startswith("image/") and not media_type.endswith("+xml"):
        return _picture(source)  # if Claude does not read this kind, its own error says so
    if media_type == "application/pdf":
        return {"type": "document", "source": source, **titled}
    return _text_block(base64.b64decode(encoded), media_type, titled, field)


def _text_block(data: bytes, media_type: str, titled: Block, field: str) -> Block:
    text = _text_of(data, media_type)
    if text is None:
        raise BadRequest(f"{field}: Claude reads images, PDF and text, not {media_type[:80]}", field=field)
    if not text.strip():  # Claude refuses blank text
        return {"type": "text", "text": f"[{titled.get('title', 'The attached file')} is empty]"}
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}, **titled}


def _picture(source: Block) -> Block:
    return {"type": "image", "source": source}


def _type_of(data: bytes, media_type: str) -> str:
    for signature, of_signature in _SIGNATURES.items():
        if data.startswith(signature):
            return of_signature
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return media_type


def _text_of(data: bytes, media_type: str) -> str | None:
    """A file's text; None where it is none."""
    encoding = "utf-16" if data.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # Of the older encodings only the commonest is tried, because a text does not say which one it is in.
        return data.decode("cp1252", "replace") if media_type.startswith("text/") else None
    return None if "\0" in text else text


def _unescaped(raw: bytes) -> bytes:
    """Percent-decoded (RFC 3986, section 2.1); as it is where a sign stands that escapes nothing, as in "50% off"."""
    if b"%" not in raw:
        return raw
    # It is decoded as quoted-printable, which differs in the sign alone, because that is done in C: `unquote_to_bytes`
    # takes a microsecond an escape, ten seconds for a large body. An escape is two bytes longer than what it stands
    # for.
    data = binascii.a2b_qp(raw.replace(b"=", b"=3D").replace(b"%", b"="))
    broken = len(raw) - len(data) != 2 * raw.count(b"%") or b"%\n" in raw or b"%\r" in raw
    return raw if broken else data
