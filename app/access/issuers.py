"""Who may make browser tokens: the team's own back ends, as the callers file names them. Pure.

[issuers."https://team.example"]
caller = "acme"                    # whose tokens they are; a token's claims only narrow what that caller may
audience = "sluiceway"             # each token's `aud`
algorithm = "ES256"                # or RS256, HS256: one an issuer, so that no key is taken for another kind
jwks_url = "https://team.example/.well-known/jwks.json"    # or `key`: PEM, or the secret of HS256
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from .sites import is_loopback

# A secret below the digest's own length is weaker than the digest (RFC 7518, 3.2).
_SHORTEST_SECRET = 32

Algorithm = Literal["HS256", "RS256", "ES256"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Someone whose tokens are taken.

    Attributes:
        name: each token's `iss`.
        caller: whose tokens they are, by name.
        audience: each token's `aud`.
        algorithm: that each is signed with.
        key: PEM, or the secret of HS256; empty where `jwks_url` has the keys.
        jwks_url: where the keys are published.
    """

    name: str
    caller: str
    audience: str
    algorithm: Algorithm
    key: str = field(default="", repr=False)
    jwks_url: str = ""


class IssuerTable(BaseModel):
    """An issuer as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    caller: Annotated[str, Field(min_length=1, max_length=64)]
    audience: Annotated[str, Field(min_length=1, max_length=200)]
    algorithm: Algorithm
    key: Annotated[str, Field(max_length=10_000)] = ""
    jwks_url: Annotated[str, Field(max_length=2000)] = ""

    def issuer(self, name: str, callers: Collection[str]) -> Issuer:
        """What it stands for. Raises ValueError: its parts do not go together."""
        if self.caller not in callers:
            raise ValueError(f"caller: there is no table [callers.{self.caller}]")
        if bool(self.key) == bool(self.jwks_url):
            raise ValueError("key: either key or jwks_url is needed, and not both")
        if self.jwks_url:
            self._check_url()
        else:
            self._check_key()
        return Issuer(name, self.caller, self.audience, self.algorithm, self.key, self.jwks_url)

    def _check_url(self) -> None:
        if self.algorithm == "HS256":
            raise ValueError("jwks_url: the secret of HS256 is nobody else's to read; give it as key")
        try:
            parts = urlsplit(self.jwks_url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        # What comes over the network unprotected could be anyone's keys.
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
            raise ValueError("jwks_url: it must begin with https://; http:// is for this machine alone")

    def _check_key(self) -> None:
        is_pem = self.key.lstrip().startswith("-----BEGIN")
        if self.algorithm != "HS256":
            if not is_pem or "PRIVATE KEY" in self.key:
                raise ValueError(f"key: {self.algorithm} needs a public key in PEM")
        elif is_pem or len(self.key.encode()) < _SHORTEST_SECRET:
            raise ValueError(f"key: HS256 needs a secret of {_SHORTEST_SECRET} bytes or more, which is no PEM")
