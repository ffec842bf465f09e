"""Who may call: callers' keys, and which site a browser's request comes from. Pure but for the request it reads."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from ..errors import Forbidden, Unauthorized, WrongMediaType


class Keys:
    """The callers' keys, kept as digests. With none, anyone may call.

    Args:
        keys: as configured; never logged, never shown.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        """Takes these instead, from the next request on; streams that run go on."""
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Mapping[str, str]) -> str:
        """The caller, as a name that tells callers apart and gives no key away; empty where no keys are configured.

        Takes `Authorization: Bearer KEY` and `x-api-key: KEY`, since Anthropic's SDKs have sent both.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if not self._digests:
            return ""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise Unauthorized("a key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
        digest = _digest(given)
        # All are compared, each in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise Unauthorized("this key is not known here")
        return digest.hex()[:16]


def _digest(key: str) -> bytes:
    # aiohttp and os.environ hand on bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def check_content_type(headers: Mapping[str, str]) -> None:
    """Whether a body may be taken for JSON.

    `application/json` from anywhere: a browser asks before it sends that to another site, and gets no leave here.
    No content type, or `text/plain`, which `fetch` sends by itself: only from our own pages, because any site's page
    can send those unasked and would spend on our account.

    Raises:
        WrongMediaType: another content type. Forbidden: another site's page.
    """
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return
    if media_type not in ("", "text/plain"):
        raise WrongMediaType(f"the body must be JSON, sent as application/json, not as {media_type[:80]}")
    if not _same_origin(headers):
        raise Forbidden("another site's page may not call this: only application/json is taken from elsewhere")


def _same_origin(headers: Mapping[str, str]) -> bool:
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    # Browsers leave Sec-Fetch-Site out on plain http; every POST of theirs has an Origin. Neither: not a browser.
    origin = headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("Host")
    except ValueError:  # such as an IPv6 address without its closing bracket
        return False
