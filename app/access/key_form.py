"""What a caller's key looks like: `slw_`, 8 characters of its id, `_`, 30 of chance, and 6 of a checksum. Pure.

All are of base 62, so that a double click takes the whole key. The checksum tells a typing error, and whatever else is no
key, from an unknown key without a digest being made; a scanner for leaked secrets that computes it has no false alarms.
Thirty characters are 178 bits: nobody guesses one, so a key needs no slow digest, which would be a gift to whoever floods.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CHECK = 8, 30, 6
_FORM = re.compile(rf"(slw_([0-9A-Za-z]{{{_ID}}})_[0-9A-Za-z]{{{_SECRET}}})([0-9A-Za-z]{{{_CHECK}}})")


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's key.

    Attributes:
        key_id: tells it from others, and gives nothing away.
        text: the key itself, which no log and no error ever holds.
    """

    key_id: str
    text: str = field(repr=False)


def new_key() -> Key:
    """A key that nobody has had."""
    key_id, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (_ID, _SECRET))
    begins = f"slw_{key_id}_{secret}"
    return Key(key_id, begins + _checksum(begins))


def parse_key(text: str) -> Key | None:
    """The key that a text is; None where it is none, or was mistyped."""
    found = _FORM.fullmatch(text)
    if found is None or _checksum(found[1]) != found[3]:
        return None
    return Key(found[2], text)


def _checksum(begins: str) -> str:
    number, digits = zlib.crc32(begins.encode("ascii")), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
