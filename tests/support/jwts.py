"""Browser tokens as a team's back end makes them: good ones, and what an attacker would try."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

ISSUER = "https://team.example"
SECRET = "a secret of the team's back end, long enough"
RSA, OTHER_RSA = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
EC, OTHER_EC = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
OCT = OctKey.import_key(SECRET)


@dataclass(frozen=True)
class Signer:
    """Signs with one algorithm."""

    algorithm: str
    key: Any
    wrong: Any
    table: str


def table(algorithm: str, key: str) -> str:
    """The issuer's table in the callers file, with its key or its address."""
    return f'[issuers."{ISSUER}"]\ncaller = "acme"\naudience = "here"\nalgorithm = "{algorithm}"\n{key}\n'


def pem(key: Any) -> str:
    return f"key = '''{key.as_pem(private=False).decode()}'''"


SIGNERS = {
    "HS256": Signer("HS256", OCT, OctKey.import_key(SECRET[::-1]), table("HS256", f'key = "{SECRET}"')),
    "RS256": Signer("RS256", RSA, OTHER_RSA, table("RS256", pem(RSA))),
    "ES256": Signer("ES256", EC, OTHER_EC, table("ES256", pem(EC))),
}


def claims(now: float | None = None, **changed: Any) -> dict[str, Any]:
    """Those of a good token, from now on for a minute; a value of None leaves one out."""
    at = int(time.time() if now is None else now)
    told = {"iss": ISSUER, "aud": "here", "iat": at, "exp": at + 60, "sub": "ann"} | changed
    return {name: value for name, value in told.items() if value is not None}


def token(told: dict[str, Any], by: str = "HS256", *, key: Any = None, **head: Any) -> str:
    """A signed token."""
    signer = SIGNERS[by]
    registry = jws.JWSRegistry(algorithms=[signer.algorithm], strict_check_header=False)
    header = {"alg": signer.algorithm} | head
    return jws.serialize_compact(header, json.dumps(told), key or signer.key, registry=registry)


def encoded(told: Any) -> str:
    raw = told if isinstance(told, bytes) else json.dumps(told).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(told: dict[str, Any], **head: Any) -> str:
    """One that says that it needs no signature."""
    return f"{encoded({'alg': 'none'} | head)}.{encoded(told)}."
