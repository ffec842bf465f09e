"""Browser tokens: which are believed, and what they allow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.access.callers import Caller, Roster, parse_callers
from app.access.guard import Known, is_token
from app.access.key_ring import KeyRecord, KeyRing
from app.access.key_sets import KeySets, KeysNeeded
from app.access.keys import Keys
from app.access.tokens import MOST_BYTES, Tokens, import_set, imported, sign
from app.errors import Unauthorized
from tests.support.jwts import (
    EC,
    ISSUER,
    OCT,
    OTHER_RSA,
    RSA,
    SECRET,
    SIGNERS,
    claims,
    encoded,
    pem,
    table,
    token,
    unsigned,
)

NOW = 1_800_000_000.0
CALLERS = '[callers.acme]\nmodels = ["claude-*"]\nmax_tokens = 100\n[callers.other]\n'
ROSTERS = {name: parse_callers(CALLERS + signer.table) for name, signer in SIGNERS.items()}
RING = KeyRing.of([KeyRecord("abcdefgh", "acme", b"", 1)], b"p" * 32)
KEYS = Keys(["somebody:first", "second"])


def caller_of(text: str, roster: Roster = ROSTERS["HS256"], ring: KeyRing = RING, now: float = NOW) -> Caller:
    assert is_token(text) or len(text) < 4
    return Tokens(KeySets()).caller(text, Known(roster, ring), KEYS, now)


def refused(text: str, told: str, roster: Roster = ROSTERS["HS256"], ring: KeyRing = RING, now: float = NOW) -> None:
    with pytest.raises(Unauthorized, match=told) as error:
        caller_of(text, roster, ring, now)
    assert len(text) < 20 or text[10:30] not in str(error.value)


@pytest.mark.parametrize("by", SIGNERS)
def test_a_token_of_the_issuer_is_its_callers_and_narrows_it(by: str) -> None:
    got = caller_of(token(claims(NOW, slw={"models": ["claude-haiku-*"], "max_tokens": 5}), by), ROSTERS[by])
    assert (got.name, got.max_tokens, got.model_lists) == ("acme", 5, [("claude-*",), ("claude-haiku-*",)])
    assert got.token is not None
    assert (got.token.subject, got.token.expired) == (f"{ISSUER}\nann", False)


def test_claims_only_narrow() -> None:
    assert caller_of(token(claims(NOW, slw={"max_tokens": 1000}))).max_tokens == 100
    assert caller_of(token(claims(NOW))).max_tokens == 100


def budget(told: str, now: float = NOW) -> tuple[int | None, str]:
    got = caller_of(told, now=now).token
    assert got is not None
    return got.budget_nano_usd, got.budget_id


def test_it_bounds_its_subjects_streams_and_what_it_may_cost() -> None:
    got = caller_of(token(claims(NOW, slw={"streams": 2, "budget_usd": 0.05})))
    assert got.subject_streams == (f"acme\n{ISSUER}\nann", 2)
    assert got.token is not None
    assert (got.token.budget_nano_usd, got.token.expires_at) == (50_000_000, claims(NOW)["exp"])
    assert caller_of(token(claims(NOW))).subject_streams is None


def test_a_budget_is_its_tokens_by_its_jti_or_else_by_its_subject_and_its_end() -> None:
    spends = {"slw": {"budget_usd": 1}}
    named = [budget(token(claims(NOW, jti="a", iat=NOW - late, **spends))) for late in (0, 1)]
    assert named[0] == named[1]
    assert named[0][1].startswith("2027-01-15 "), "it can be forgotten the day after"
    others = [
        budget(token(claims(NOW, **told, **spends)))
        for told in ({"jti": "b"}, {}, {"sub": "bob"}, {"exp": NOW + 9}, {"sub": None}, {"sub": None, "exp": NOW + 9})
    ]
    assert len({named[0], *others}) == 7
    own = [sign("acme", "abcdefgh", {"exp": NOW + 9, "slw": {"budget_usd": 1}}, RING, NOW) for _ in range(2)]
    assert len(dict.fromkeys(map(budget, own))) == 2


@pytest.mark.parametrize("slw", [{"streams": 0}, {"budget_usd": 0}, {"budget_usd": -1}, {"budget_usd": 1e300}])
def test_a_bound_that_is_none_is_refused(slw: dict[str, Any]) -> None:
    refused(token(claims(NOW, slw=slw)), "claims are wrong")


@pytest.mark.parametrize("by", SIGNERS)
def test_a_forged_one_is_not_believed(by: str) -> None:
    good = token(claims(NOW), by)
    head, payload, signature = good.split(".")
    forged = encoded(claims(NOW, sub="eve"))
    for text in (
        token(claims(NOW), by, key=SIGNERS[by].wrong),
        f"{head}.{forged}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}.{signature[:-4]}",
        f"{head}.{payload}.{'A' * len(signature)}",
    ):
        refused(text, "signature is not its issuer's", ROSTERS[by])


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_one_that_says_it_needs_no_signature_is_refused(alg: str) -> None:
    refused(unsigned(claims(NOW), alg=alg), "issuer signs with HS256")


def test_a_public_key_is_no_secret() -> None:
    """The oldest confusion: the token says HS256, and its signature was made with the public key's bytes."""
    from joserfc.jwk import OctKey

    public = OctKey.import_key(RSA.as_pem(private=False).decode().encode().hex())
    refused(token(claims(NOW), key=public), "issuer signs with RS256", ROSTERS["RS256"])


@pytest.mark.parametrize("by", ["RS256", "ES256"])
def test_another_algorithm_than_the_issuers_is_refused_though_its_key_is_right(by: str) -> None:
    refused(token(claims(NOW), by), "issuer signs with HS256")


def test_what_is_critical_is_refused_and_what_is_unknown_in_the_head_passes() -> None:
    head = encoded({"alg": "HS256", "crit": ["b64"], "b64": False})
    refused(f"{head}.{encoded(claims(NOW))}.AAAA", "names nothing critical")
    assert caller_of(token(claims(NOW), typ="JWT", cat="cl_B7")).name == "acme"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"iss": "https://evil.example"}, "issuer is not known"),
        ({"iss": None}, "no token"),
        ({"iss": 5}, "no token"),
        ({"aud": "elsewhere"}, "another service"),
        ({"aud": ["elsewhere", "there"]}, "another service"),
        ({"aud": None}, "claims are wrong"),
        ({"exp": None}, "claims are wrong"),
        ({"exp": "tomorrow"}, "claims are wrong"),
        ({"exp": NOW + 901}, "lives longer than 900 s"),
        ({"exp": NOW + 931, "iat": None}, "lives longer than 900 s"),
        ({"exp": 1e300, "iat": None}, "lives longer than 900 s"),
        ({"exp": NOW + 10, "iat": NOW - 891}, "lives longer than 900 s"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"sub": 5}, "claims are wrong"),
        ({"sub": ""}, "claims are wrong"),
        ({"sub": "s" * 201}, "claims are wrong"),
        ({"slw": {"max_tokens": 0}}, "claims are wrong"),
        ({"slw": {"max_tokens": "5"}}, "claims are wrong"),
        ({"slw": {"models": []}}, "claims are wrong"),
        ({"slw": {"models": "claude-*"}}, "claims are wrong"),
        ({"slw": {"tools": False}}, "claims are wrong"),
        ({"slw": 5}, "claims are wrong"),
    ],
)
def test_a_claim_that_is_wrong_is_refused(changed: dict[str, Any], told: str) -> None:
    refused(token(claims(NOW, **changed)), told)


@pytest.mark.parametrize(
    "changed",
    [{"aud": ["x", "here"]}, {"exp": NOW + 900}, {"exp": NOW + 930, "iat": None}, {"iat": NOW + 29}, {"nbf": NOW}],
)
def test_one_at_its_bound_is_taken(changed: dict[str, Any]) -> None:
    assert caller_of(token(claims(NOW, **changed))).name == "acme"


@pytest.mark.parametrize(
    "text",
    [
        "eyJ..",
        "eyJhbGciOiJIUzI1NiJ9..",
        f"{encoded(5)}.{encoded(5)}.x".replace(encoded(5), "eyJ", 1),
        f"{encoded({'alg': 5})}.{encoded(claims(NOW))}.x",
        f"{encoded({'alg': 'HS256', 'kid': 5})}.{encoded(claims(NOW))}.x",
        f"{encoded({'alg': 'HS256'})}.{encoded(b'[' * 2500)}.x",
        f"{encoded({'alg': 'HS256'})}.é.x",
        f"{encoded({'alg': 'HS256'})}.{encoded(b'{}')}.x",
        "eyJ\udcff.a.b",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    refused(text, "this is no token")


def test_one_above_4_kb_is_not_looked_at() -> None:
    text = token(claims(NOW, sub="s", pad="x" * MOST_BYTES))
    refused(text, f"above {MOST_BYTES} bytes")


def test_one_that_expired_is_told_so() -> None:
    for exp in (NOW, NOW - 1):
        got = caller_of(token(claims(NOW, exp=exp)))
        assert got.token is not None
        assert got.token.expired


def test_without_a_subject_a_token_is_alone_and_has_the_same_id_whatever_its_signatures_form() -> None:
    alone = [caller_of(token(claims(NOW, sub=None, jti=str(n)))).token for n in range(2)]
    subjects = {one.subject for one in alone if one is not None}
    assert len(subjects) == 2
    first = token(claims(NOW), "ES256")  # an ECDSA signature has a twin, and another one each time
    second = token(claims(NOW), "ES256")
    assert first != second
    ids = {
        one.token.token_id for text in (first, second) if (one := caller_of(text, ROSTERS["ES256"])).token is not None
    }
    assert len(ids) == 1


# --- our own ------------------------------------------------------------------------------------------------------------


def own(key_id: str = "abcdefgh", caller: str = "acme", **told: Any) -> str:
    return sign(caller, key_id, {"exp": int(NOW) + 60, **told}, RING, NOW)


def test_a_token_of_our_own_is_the_callers_that_asked_for_it() -> None:
    got = caller_of(own(slw={"max_tokens": 7}, sub="bob"))
    assert got.token is not None
    assert (got.name, got.max_tokens, got.token.subject) == ("acme", 7, "sluiceway\nbob")
    for key in ("first", "second"):  # of `api_keys`, without a table
        name = KEYS.caller_of(key)
        assert name is not None
        assert caller_of(own(KEYS.id_of(key, RING.pepper) or "", name)).name == name


def test_once_its_key_is_revoked_or_its_caller_gone_so_is_a_token() -> None:
    told = "the key that this token was made with is not taken any more"
    refused(own(), told, ring=KeyRing.of([KeyRecord("abcdefgh", "acme", b"", 1, revoked_at=2)], b"p" * 32))
    refused(own(), told, ring=KeyRing.of([], b"p" * 32))
    refused(own(caller="nobody"), told)
    refused(own(Keys(["somebody:older"]).id_of("older", RING.pepper) or "", "somebody"), told)
    refused(own(KEYS.id_of("first", RING.pepper) or "", "acme"), told)  # its name's alone
    for key_id in ("", "api:", "unknown"):
        refused(own(key_id, "somebody"), told)
        refused(own(key_id), told)


def test_another_pepper_or_the_secret_of_an_issuer_makes_none_of_ours() -> None:
    refused(own(), "signature", ring=KeyRing.of([], b"q" * 32))
    ours = {"iss": "sluiceway", "aud": "sluiceway", "exp": NOW + 60, "caller": "other", "key": ""}
    refused(token(ours), "signature")
    refused(unsigned(ours), "signs with HS256")


def test_an_issuer_speaks_for_its_own_caller_alone() -> None:
    assert caller_of(token(claims(NOW, caller="other", key=""))).name == "acme"


# --- published keys -----------------------------------------------------------------------------------------------------


def published(*keys: Any, **more: Any) -> bytes:
    told = [key.as_dict(private=False) | {"kid": f"k{n}"} | more for n, key in enumerate(keys)]
    return json.dumps({"keys": told}).encode()


def test_a_published_set_is_asked_for_then_kept_and_the_tokens_id_names_the_key() -> None:
    roster = parse_callers(CALLERS + table("ES256", 'jwks_url = "https://team.example/jwks"'))
    key_sets = KeySets()
    tokens = Tokens(key_sets)
    text = token(claims(NOW), "ES256", kid="k0")
    with pytest.raises(KeysNeeded) as needed:
        tokens.caller(text, Known(roster, RING), KEYS, NOW)
    key_sets.fetched(needed.value.url, import_set(published(EC, OTHER_RSA)), None, NOW)
    assert tokens.caller(text, Known(roster, RING), KEYS, NOW).name == "acme"
    for head, told in (
        ({"kid": "k1"}, "signature"),
        ({"kid": "k2"}, "not known to its issuer"),
        ({}, "not known to its"),
    ):
        with pytest.raises(Unauthorized, match=told):
            tokens.caller(token(claims(NOW), "ES256", **head), Known(roster, RING), KEYS, NOW)


def test_of_a_set_only_good_keys_for_signing_are_taken() -> None:
    assert set(import_set(published(EC, RSA))) == {"k0", "k1"}
    assert set(import_set(published(EC))) == {"k0", ""}
    assert import_set(published(EC, use="enc")) == {}
    assert import_set(json.dumps({"keys": [OCT.as_dict(private=True) | {"kid": "k"}]}).encode()) == {}
    assert import_set(json.dumps({"keys": [{"kty": "EC"}, 5, {"kty": "ML-DSA", "kid": "q"}]}).encode()) == {}
    private = import_set(json.dumps({"keys": [EC.as_dict(private=True) | {"kid": "k"}]}).encode())["k"]
    assert not private.is_private


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 5}', b'{"keys": {}}', b"[" * 10_000, b"\xff"])
def test_what_is_no_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match="it is no"):
        import_set(document)


def test_a_set_of_more_than_20_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 20 keys"):
        import_set(published(*[EC] * 21))


def test_an_issuers_key_that_is_none_of_its_algorithms_is_refused() -> None:
    for text in (
        table("RS256", pem(EC)),
        table("ES256", pem(RSA)),
        table("ES256", "key = '''-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----'''"),
    ):
        (issuer,) = parse_callers(CALLERS + text).issuers.values()
        with pytest.raises(ValueError, match=rf'^\[issuers\."{ISSUER}"\] key: '):
            imported(issuer)
    assert SECRET not in repr(ROSTERS["HS256"].issuers)
