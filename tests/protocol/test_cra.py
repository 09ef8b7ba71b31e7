"""WAMP-CRA's arithmetic: every vector that old clients agree on, and nothing that a peer sends can break it."""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from wampkit.protocol.cra import derive_key, make_challenge, new_salt, read_salting, sign, to_ascii_json, verify

from ..support.tables import rows

VECTORS = json.loads(Path(__file__).with_name("cra_vectors.json").read_text())
CHALLENGE = VECTORS["sign"][0]["challenge"]


# ---- vectors


@rows("vector", VECTORS["derive"])
def test_keys_are_those_of_autobahn(vector: dict[str, Any]) -> None:
    """A password is salted as Autobahn|JS and autobahn-python salt it."""
    assert derive_key(vector["secret"], **({"salt": None} | (vector["authextra"] or {}))) == vector["key"]


@rows("vector", VECTORS["sign"])
def test_signatures_are_those_of_autobahn(vector: dict[str, Any]) -> None:
    """A challenge is signed as they sign it, and the signature is found right."""
    assert sign(vector["challenge"], vector["key"]) == vector["signature"]
    assert verify(vector["challenge"], vector["key"], vector["signature"])


@pytest.mark.parametrize("vector", VECTORS["full"], ids=["unsalted", "salted"])
def test_a_client_answers_challenges_as_autobahn_does(vector: dict[str, Any]) -> None:
    """How to salt is read from the challenge itself."""
    salting = read_salting(vector["challenge"])
    key = vector["secret"] if salting is None else derive_key(vector["secret"], *salting)
    assert sign(vector["challenge"], key) == vector["signature"]


def test_all_vectors_are_here() -> None:
    """16 keys, 10 signatures and 2 whole exchanges."""
    assert [len(VECTORS[part]) for part in ("derive", "sign", "full")] == [16, 10, 2]


# ---- verifying

RIGHT = sign(CHALLENGE, "s3cr3t")
WRONG: dict[str, Any] = {
    "empty": "",
    "another": sign(CHALLENGE, "s3cr3T"),
    "first byte wrong": "L" + RIGHT[1:],
    "last byte wrong": RIGHT[:-2] + "A=",
    "without padding": RIGHT.rstrip("="),
    "with a line end": RIGHT + "\n",
    "twice": RIGHT * 2,
    "not ASCII": "é" * len(RIGHT),
    "half a surrogate pair": "\ud800" * len(RIGHT),
    "NUL": "\0" * len(RIGHT),
    "1 MB": "K" * 1_000_000,
    "null": None,
    "true": True,
    "number": 5,
    "list": [RIGHT],
    "object": {"signature": RIGHT},
    "bytes": RIGHT.encode(),
}


@rows("signature", WRONG.values())
def test_whatever_is_wrong_is_just_wrong(signature: Any) -> None:
    """No signature, of whatever type and length, makes the comparison raise."""
    assert verify(CHALLENGE, "s3cr3t", signature) is False


def test_half_a_surrogate_pair_can_be_signed() -> None:
    """JSON can carry halves of surrogate pairs; challenge, key and password may hold them."""
    half = "\udc80"
    assert verify(half, half, sign(half, half))
    assert derive_key(half, half, 1, 32) != derive_key(half, "x", 1, 32)


# ---- challenges


def made(**changes: Any) -> str:
    parts: dict[str, Any] = {
        "authkey": "alice",
        "session_id": "s",
        "extra": {},
        "permissions": {"rpc": [], "pubsub": []},
    }
    return make_challenge(**parts | changes)


def test_a_challenge_says_what_old_clients_read() -> None:
    """The fields are autobahn-python's, and `authextra` is there only if there is a salt."""
    challenge = json.loads(made(extra={"app": "x"}))
    assert challenge.keys() == {"authid", "authkey", "timestamp", "sessionid", "extra", "permissions"}
    assert challenge["extra"] == {"app": "x"}
    assert json.loads(made(authextra={"salt": "s"}))["authextra"] == {"salt": "s"}


@pytest.mark.parametrize("authkey", ["zoë", "\ud83d", "😀", "\u2028", "\x00"])
def test_a_challenge_is_pure_ascii(authkey: str) -> None:
    """MDWamp takes nothing else; whatever is not ASCII is escaped, and comes back as it was."""
    challenge = made(authkey=authkey)
    assert challenge.isascii()
    assert json.loads(challenge)["authkey"] == authkey


def test_no_challenge_comes_twice() -> None:
    """The nonce of a challenge has 192 random bits, so ten thousand of them differ."""
    nonces = {json.loads(made())["authid"] for _ in range(10_000)}
    assert len(nonces) == 10_000
    assert {len(nonce) for nonce in nonces} == {32}


def test_salts_are_fresh_and_ascii() -> None:
    """`new_salt` gives 128 random bits, in what every old client can read."""
    salts = {new_salt() for _ in range(1000)}
    assert len(salts) == 1000
    assert all(len(bytes.fromhex(salt)) == 16 for salt in salts)


def test_what_json_cannot_carry_is_a_value_error() -> None:
    """Deep nesting and infinities raise what callers expect."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, float("inf"), float("nan"), object()):
        with pytest.raises(ValueError, match="recursion|JSON"):
            to_ascii_json(value)


# ---- what a server may ask of a client


def asking(authextra: Any) -> str:
    return json.dumps({"authid": "x", "authextra": authextra})


@pytest.mark.parametrize("authextra", [None, {}, {"salt": None}, {"salt": ""}, {"salt": "", "iterations": 10**9}])
def test_without_a_salt_nothing_is_derived(authextra: Any) -> None:
    """A missing, null or empty salt means that the secret is the key."""
    assert read_salting(asking(authextra)) is None


@pytest.mark.parametrize(
    ("authextra", "expected"),
    [
        ({"salt": "s"}, ("s", 10_000, 32)),
        ({"salt": "s", "iterations": "1000", "keylen": "48"}, ("s", 1000, 48)),
        ({"salt": "s", "iterations": 1_000_000, "keylen": 64}, ("s", 1_000_000, 64)),
        ({"salt": "s", "iterations": 62_500, "keylen": 1024}, ("s", 62_500, 1024)),
        ({"salt": "s", "iterations": 1, "keylen": 1}, ("s", 1, 1)),
    ],
)
def test_what_honest_servers_ask_for_is_done(authextra: Any, expected: tuple[str, int, int]) -> None:
    """Numbers may be texts, as WampSharp sends them, and may be missing; the bounds themselves are allowed."""
    assert read_salting(asking(authextra)) == expected


@rows(
    ("challenge", "wanted"),
    [
        (None, "no text"),
        (5, "no text"),
        (["{}"], "no text"),
        ("", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ('{"authextra"', "not JSON"),
        ("[]", "no JSON object"),
        ('"x"', "no JSON object"),
        (asking([]), "no JSON object"),
        (asking("salt"), "no JSON object"),
        (" " * 65_537, "longer than 65536"),
        (asking({"salt": 5}), "salt"),
        (asking({"salt": ["s"]}), "salt"),
        (asking({"salt": "s", "iterations": 10**9}), "iterations"),
        (asking({"salt": "s", "iterations": 1_000_001}), "iterations"),
        (asking({"salt": "s", "iterations": "1000001"}), "iterations"),
        (asking({"salt": "s", "iterations": 0}), "iterations"),
        (asking({"salt": "s", "iterations": -1}), "iterations"),
        (asking({"salt": "s", "iterations": True}), "iterations"),
        (asking({"salt": "s", "iterations": 1000.0}), "iterations"),
        (asking({"salt": "s", "iterations": "9" * 5000}), "iterations"),
        (asking({"salt": "s", "iterations": "²"}), "iterations"),
        (asking({"salt": "s", "iterations": None}), "iterations"),
        (asking({"salt": "s", "keylen": 1025}), "keylen"),
        (asking({"salt": "s", "keylen": 0}), "keylen"),
        (asking({"salt": "s", "iterations": 62_501, "keylen": 1024}), "rounds"),
        (asking({"salt": "s", "iterations": 1_000_000, "keylen": 65}), "rounds"),
    ],
)
def test_what_no_honest_server_asks_for_is_refused(challenge: Any, wanted: str) -> None:
    """Absurd amounts of work, and whatever is no challenge, are refused before any work is done, with the reason."""
    with pytest.raises(ValueError, match=wanted):
        read_salting(challenge)


def test_a_random_challenge_never_surprises() -> None:
    """Challenges cut anywhere are refused or read, and never anything else."""
    whole = asking({"salt": secrets.token_hex(4), "iterations": 1000, "keylen": 32})
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="not JSON"):
            read_salting(whole[:end])
