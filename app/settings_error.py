"""The one error of settings. It is apart from them because the parent of workers needs no more, and is small by that."""

from __future__ import annotations


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type or out of bounds; the message names it."""
