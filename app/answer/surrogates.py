"""Halves of surrogate pairs: JSON's escapes can carry one alone, and a model's answer may be cut between two. Pure."""

from __future__ import annotations


def paired(text: str) -> str:
    """The same text with halves that belong together as one character; a half without its partner stays as it is."""
    if not has_halves(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def mended(text: str) -> str:
    """The same text as any encoding can carry it: a half without its partner becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def ends_in_half(text: str) -> bool:
    """Whether the last character is the first half of a pair, whose other half may still come."""
    return "\ud800" <= text[-1:] <= "\udbff"


def has_halves(text: str) -> bool:
    """Whether there is any half in it: rare, and found quickly, since no encoding takes one."""
    if text.isascii():  # a flag of the string, not a scan
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
