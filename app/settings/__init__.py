"""Every setting, with unit, bound and default: its default here, then a TOML file, `SLUICEWAY_…`, the command line.

Users know flat names, such as `window_s`; the code knows the sections of `sections.py`. A key that is not there is refused
by name, wherever it comes from.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ..settings_error import SettingsError as SettingsError
from .budgets import BudgetRules
from .connections import ConnectionBounds
from .fleet import FleetOptions
from .sections import (
    AdmissionLimits,
    BodyLimits,
    Callers,
    Costs,
    Defaults,
    Listening,
    Logs,
    PassedOn,
    ReaderBounds,
    ReplayBounds,
    StreamBounds,
    UpstreamOptions,
)

ENV_PREFIX = "SLUICEWAY_"


# Kubernetes, "Discovering services": `…_SERVICE_HOST`, `…_SERVICE_PORT_NAME`, `…_PORT=tcp://…`, `…_PORT_80_TCP_ADDR`.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINK_SCHEMES = ("tcp://", "udp://", "sctp://")


class Settings(BaseModel):
    """What the service is run with. Read once, frozen; each section is handed to its part of the service as it is.

    `Settings.model_validate()` takes the flat names, as users give them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    listening: Listening = Listening()
    connections: ConnectionBounds = ConnectionBounds()
    callers: Callers = Callers()
    budgets: BudgetRules = BudgetRules()
    admission: AdmissionLimits = AdmissionLimits()
    questions: Defaults = Defaults()
    bodies: BodyLimits = BodyLimits()
    passing: PassedOn = PassedOn()
    streams: StreamBounds = StreamBounds()
    readers: ReaderBounds = ReaderBounds()
    replay: ReplayBounds = ReplayBounds()
    claude: UpstreamOptions = UpstreamOptions()
    costs: Costs = Costs()
    fleet: FleetOptions = FleetOptions()
    logs: Logs = Logs()

    @model_validator(mode="before")
    @classmethod
    def _into_sections(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in flat.items():
            if name in FIELDS:
                given.setdefault(_SECTIONS[name], {})[name] = value
            else:
                given[name] = value
        return given

    def flat(self) -> dict[str, Any]:
        """Every setting by the name that users know."""
        return {name: getattr(getattr(self, section), name) for name, section in _SECTIONS.items()}


# The settings by name, with default, bounds and description; and the section of each. What a section holds beside them
# is a constant, and cannot be set.
FIELDS: dict[str, FieldInfo] = {}
_SECTIONS: dict[str, str] = {}
for _section, _class in get_type_hints(Settings).items():
    if _section in Settings.model_fields:
        _hints = get_type_hints(_class, include_extras=True)
        for _setting in fields(_class):
            _info = FieldInfo.from_annotated_attribute(_hints[_setting.name], _setting.default)
            if _info.description is not None:
                FIELDS[_setting.name], _SECTIONS[_setting.name] = _info, _section


def load(
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Reads the settings: file, then environment, then overrides; a later one wins.

    Args:
        config: the TOML file; None for none.
        environ: the environment; None for the process's own. Only `SLUICEWAY_…` counts.
        overrides: from the command line; None values are left out.

    Raises:
        SettingsError: naming the setting and its bound.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(source: str, given: Mapping[str, Any], shown: Mapping[str, str]) -> Settings:
        for key, value in given.items():
            if key not in FIELDS:
                near = difflib.get_close_matches(key, FIELDS, n=1)
                hint = f"; did you mean {_as_in(source, near[0])}?" if near else ""
                raise SettingsError(f"{source}: unknown setting {shown[key]}{hint}")
            if isinstance(value, bool):  # which would pass for 1 or 0
                raise SettingsError(f"{source}: {shown[key]}: no setting is true or false")
            values[key] = value
            sources[key] = f"{source}: {shown[key]}"
        try:
            return Settings.model_validate(values)  # after each: what a later one replaces is wrong still
        except ValidationError as error:
            raise SettingsError("; ".join(_told(problem, sources) for problem in error.errors())) from None

    if config is not None:
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:  # not there, not UTF-8, not TOML
            reason = error.strerror if isinstance(error, OSError) else None
            raise SettingsError(f"config {config}: {reason or error}") from error
        take(config.name, table, {key: key for key in table})
    names = {name: name.removeprefix(ENV_PREFIX).lower() for name in environ if _is_ours(name, environ[name])}
    take("environment", {key: environ[name] for name, key in names.items()}, {key: name for name, key in names.items()})
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    return take("command line", given, {key: f"--{key.replace('_', '-')}" for key in given})


def _is_ours(name: str, value: str) -> bool:
    """Whether an environment variable is a setting, and not what Kubernetes tells every pod of a Service `sluiceway`."""
    if not name.startswith(ENV_PREFIX):
        return False
    return not _SERVICE_LINK.fullmatch(name) and not (name.endswith("PORT") and value.startswith(_LINK_SCHEMES))


def _as_in(source: str, key: str) -> str:
    return ENV_PREFIX + key.upper() if source == "environment" else key


def _told(problem: Any, sources: Mapping[str, str]) -> str:
    key = str(problem["loc"][1])  # below its section
    # The message alone: the value may be a key.
    return f"{sources.get(key, key)}: {problem['msg']}"
