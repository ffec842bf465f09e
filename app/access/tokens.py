"""Browser tokens: short-lived, narrower than the key that they stand for, signed by us or by a team's own back end.

A token is a JWT (RFC 7519). The key that signs it is its issuer's, and so is the algorithm: what a token says of itself is
compared, never believed. `aud`, `iss` and `exp` are demanded; claims under `slw` narrow what the issuer's caller may, and one
that is not known is refused, since it was meant to forbid something.

Who begins a stream with a token has it with every token of the same `sub` and issuer; without a `sub` a token is alone. The
caller's key has them all. A token that has expired still finds the stream that it began itself, while that runs: to come
back to it, and to stop it.

Only a service with a callers file imports this module, because the library takes a second.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, RSAKey

from ..errors import Unauthorized
from ..money.allowance import nano, period
from .callers import Caller, Token
from .guard import Known
from .issuers import Issuer
from .key_ring import KeyRing
from .key_sets import KeySets
from .keys import Keys
from .narrowing import LONGEST_S, Narrowing, Subject

# A token goes into a header, which is bounded; what is larger is not looked at.
MOST_BYTES = 4096
# The issuer's clock may differ from ours by so much, in seconds.
_SKEW_S = 30
# The issuer and the audience of the tokens that we sign ourselves.
_OWN = "sluiceway"
_MOST_KEYS = 20
_SHORTEST_RSA_BITS = 2048


class _Claims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    exp: Annotated[float, msgspec.Meta(ge=0)]
    nbf: float = 0.0
    iat: float = 0.0
    sub: Subject | None = None
    jti: Annotated[str, msgspec.Meta(max_length=200)] = ""
    slw: Narrowing = Narrowing()
    # Of our own tokens: whose they are, and which key they were made with.
    caller: str = ""
    key: str = ""


class _Head(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: msgspec.Raw = msgspec.Raw(b"")


class _Issued(msgspec.Struct):
    iss: str


_claims = msgspec.json.Decoder(_Claims).decode
_head = msgspec.json.Decoder(_Head).decode
_issued = msgspec.json.Decoder(_Issued).decode


class Tokens:
    """Knows whose a token is.

    Args:
        key_sets: the published keys of issuers.
    """

    def __init__(self, key_sets: KeySets) -> None:
        self._key_sets = key_sets

    def caller(self, text: str, known: Known, keys: Keys, now: float) -> Caller:
        """Whose a token is, and what it narrows that caller to.

        Args:
            text: the token.
            known: the callers and the issuers; the callers' keys, and the pepper that our own tokens are signed with.
            keys: of `api_keys`.
            now: seconds since 1970.

        Raises:
            Unauthorized: it is not to be believed. KeysNeeded: its issuer's keys are to be asked for first.
            KeysUnreachable: they could not be had.
        """
        if len(text) > MOST_BYTES:
            raise Unauthorized(f"this token is above {MOST_BYTES} bytes")
        head, issuer_name = _unverified(text)
        issuer = _own_issuer(known.ring) if issuer_name == _OWN else known.roster.issuers.get(issuer_name)
        if issuer is None:
            raise Unauthorized("this token's issuer is not known here")
        if head.alg != issuer.algorithm or bytes(head.crit):
            raise Unauthorized(f"this token's issuer signs with {issuer.algorithm}, and names nothing critical")
        key = self._key_sets.key(issuer.jwks_url, head.kid, now) if issuer.jwks_url else imported(issuer)
        claims = _verified(text, key, issuer)
        _check_times(claims, now)
        return _narrowed(_caller_of(claims, issuer, known, keys, now), claims, text, now)


def sign(caller: str, key_id: str, claims: Mapping[str, Any], ring: KeyRing, now: float) -> str:
    """A token of our own.

    Args:
        caller: whose, by name.
        key_id: of the key that asked for it: once that is not taken any more, neither is the token.
        claims: `exp`, and perhaps `sub` and `slw`.
        ring: whose pepper signs it.
        now: seconds since 1970.
    """
    told = {
        "iss": _OWN,
        "aud": _OWN,
        "iat": int(now),
        "jti": secrets.token_urlsafe(12),
        "caller": caller,
        "key": key_id,
        **claims,
    }
    return jws.serialize_compact({"alg": "HS256", "typ": "JWT"}, msgspec.json.encode(told), imported(_own_issuer(ring)))


@lru_cache(maxsize=256)
def imported(issuer: Issuer) -> Any:
    """The key that an issuer's table holds. Raises ValueError: it is none of its algorithm's."""
    try:
        if issuer.algorithm == "HS256":
            return OctKey.import_key(issuer.key)
        key = (RSAKey if issuer.algorithm == "RS256" else ECKey).import_key(issuer.key)
    except (JoseError, ValueError, TypeError):
        raise ValueError(f'[issuers."{issuer.name[:80]}"] key: it is no public key for {issuer.algorithm}') from None
    if not _is_good(key):
        raise ValueError(f'[issuers."{issuer.name[:80]}"] key: RS256 needs 2048 bits or more, ES256 the curve P-256')
    return key


def import_set(document: bytes) -> dict[str, Any]:
    """The keys of a published set by their ids (RFC 7517, 5); the only one of a set also by "". Raises ValueError."""
    try:
        told = msgspec.json.decode(document, type=dict[str, Any])["keys"]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        raise ValueError("it is no set of keys") from None
    if not isinstance(told, list) or len(told) > _MOST_KEYS:
        raise ValueError(f"it is no list of at most {_MOST_KEYS} keys")
    found = {}
    for one in told:
        if not isinstance(one, dict) or one.get("kty") not in ("RSA", "EC") or one.get("use", "sig") != "sig":
            continue  # keys of other kinds and uses are none of ours (RFC 7517, 5)
        public: Any = {name: value for name, value in one.items() if name != "d"}
        try:
            key = RSAKey.import_key(public) if one["kty"] == "RSA" else ECKey.import_key(public)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if _is_good(key):
            found[str(one.get("kid", ""))] = key
    if len(found) == 1:
        found[""] = next(iter(found.values()))
    elif len(found) > 1:
        found.pop("", None)
    return found


def _is_good(key: Any) -> bool:
    if isinstance(key, RSAKey):
        return bool(key.public_key.key_size >= _SHORTEST_RSA_BITS)
    return isinstance(key, ECKey) and key.curve_name == "P-256"


def _own_issuer(ring: KeyRing) -> Issuer:
    secret = hmac.digest(ring.pepper, b"browser tokens", hashlib.sha256).hex()
    return Issuer(_OWN, "", _OWN, "HS256", secret)


def _unverified(text: str) -> tuple[_Head, str]:
    """What a token says of itself: its head, and its issuer."""
    head, payload, _ = text.split(".")
    try:
        return _head(_decoded(head)), _issued(_decoded(payload)).iss
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unauthorized("this is no token: a JWT with alg, iss, aud and exp is") from None


def _decoded(segment: str) -> bytes:
    return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def _verified(text: str, key: Any, issuer: Issuer) -> _Claims:
    registry = jws.JWSRegistry(algorithms=[issuer.algorithm], strict_check_header=False)
    try:
        payload = jws.deserialize_compact(text, key, registry=registry).payload
    except (JoseError, ValueError, TypeError, RecursionError):
        raise Unauthorized("this token's signature is not its issuer's") from None
    try:
        claims = _claims(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        told = error if isinstance(error, msgspec.ValidationError) else "it is no JSON"
        raise Unauthorized(f"this token's claims are wrong: {told}") from None
    if claims.iss != issuer.name or issuer.audience not in (
        [claims.aud] if isinstance(claims.aud, str) else claims.aud
    ):
        raise Unauthorized("this token's aud is another service")
    return claims


def _check_times(claims: _Claims, now: float) -> None:
    longest_s = LONGEST_S + _SKEW_S if not claims.iat else LONGEST_S
    if claims.exp - (claims.iat or now) > longest_s:
        raise Unauthorized(f"this token lives longer than {LONGEST_S} s, counted from its iat or from now")
    if claims.nbf > now + _SKEW_S or claims.iat > now + _SKEW_S:
        raise Unauthorized("this token is not valid yet")


def _caller_of(claims: _Claims, issuer: Issuer, known: Known, keys: Keys, now: float) -> Caller:
    if issuer.name != _OWN:
        return known.roster.callers[issuer.caller]
    record = known.ring.records.get(claims.key)
    stands = record is not None and record.ended_at(now) is None and claims.caller in known.roster.callers
    if not stands and keys.caller_of_id(claims.key, known.ring.pepper) != claims.caller:
        raise Unauthorized("the key that this token was made with is not taken any more")
    return known.roster.caller(claims.caller)


def _narrowed(caller: Caller, claims: _Claims, text: str, now: float) -> Caller:
    token_id = hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest()[:32]
    subject = f"{claims.iss}\n{claims.sub}" if claims.sub is not None else f"\n{token_id}"
    bounds = [most for most in (caller.max_tokens, claims.slw.max_tokens) if most is not None]
    slw = claims.slw
    token = Token(
        token_id, subject, slw.models, slw.streams, nano(slw.budget_usd) if slw.budget_usd is not None else None,
        _budget_id(claims, subject), claims.exp, expired=claims.exp <= now,
    )  # fmt: skip
    return replace(caller, max_tokens=min(bounds, default=None), token=token)


def _budget_id(claims: _Claims, subject: str) -> str:
    """By which a token's budget is counted: its `jti`, or its subject and `exp` where it has none."""
    told = f"{claims.iss}\n{claims.jti}" if claims.jti else f"{subject}\n{claims.exp}\n"
    return f"{period('day', claims.exp)} {hashlib.sha256(told.encode()).hexdigest()[:32]}"
