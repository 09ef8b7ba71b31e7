"""WAMP-CRA without I/O: challenges, signatures, and permissions as they travel.

WAMP-CRA without a network: keys, signatures and challenges, for the server and for the client.

`docs/protocol.md` tells the exchange. Both sides hold a secret; the server sends a text that nobody has seen before,
the challenge, and the client proves the secret by signing it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "AUTH",
    "AUTHREQ",
    "ERROR",
    "ITERATIONS",
    "KEYLEN",
    "MAX_ITERATIONS",
    "MAX_KEYLEN",
    "Permissions",
    "ProcedurePermission",
    "TopicPermission",
    "derive_key",
    "make_challenge",
    "new_salt",
    "salting_of",
    "sign",
    "verify",
    "written",
]

AUTHREQ = "http://api.wamp.ws/procedure#authreq"

AUTH = "http://api.wamp.ws/procedure#auth"

ERROR = "http://api.wamp.ws/error#"
"""What the error URIs of WAMP-CRA begin with."""

ITERATIONS = 10_000

KEYLEN = 32
"""What a salted challenge means that does not say."""

MAX_ITERATIONS = 1_000_000

MAX_KEYLEN = 1024

MAX_ROUNDS = 2_000_000
"""Iterations times blocks of 32 bytes: a second or two of work."""

MAX_CHALLENGE = 65_536


def _bytes(text: str) -> bytes:
    # JSON can carry halves of surrogate pairs, which UTF-8 cannot.
    return text.encode("utf-8", "surrogatepass")


# ---- keys and signatures


def new_salt() -> str:
    """A fresh random salt of 32 hexadecimal digits, for `derive_key`."""
    return secrets.token_hex(16)


def derive_key(secret: str, salt: str | None, iterations: int | str = ITERATIONS, keylen: int | str = KEYLEN) -> str:
    """The key to which a password is salted: what a server stores in place of the password, as base64 text.

    It is PBKDF2-HMAC-SHA256 and takes its time: some 0.3 us an iteration. Keep it off the event loop.

    Args:
        secret: The password.
        salt: The salt; without one, None or empty, the key is the secret itself.
        iterations: How often it is hashed.
        keylen: Bytes of the key before base64.

    Raises:
        ValueError: A number is none, or below 1.
    """
    if not salt:
        return secret
    derived = hashlib.pbkdf2_hmac("sha256", _bytes(secret), _bytes(salt), int(iterations), int(keylen))
    return base64.b64encode(derived).decode("ascii")


def sign(challenge: str, key: str) -> str:
    """The signature of a challenge: base64 of its HMAC-SHA256 under the key, each as UTF-8."""
    return base64.b64encode(hmac.digest(_bytes(key), _bytes(challenge), "sha256")).decode("ascii")


def verify(challenge: str, key: str, signature: object) -> bool:
    """Whether a signature is right; takes the same time wherever it is wrong, and whatever it is never raises."""
    expected = sign(challenge, key).encode("ascii")
    fits = isinstance(signature, str) and len(signature) == len(expected)
    given = signature.encode("utf-8", "replace") if isinstance(signature, str) and fits else b""
    return hmac.compare_digest(given, expected)


# ---- challenges


def written(value: Any) -> str:
    """A value as JSON in pure ASCII: MDWamp knows nothing else, and lone surrogates survive.

    Raises:
        ValueError: JSON cannot carry it.
    """
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def make_challenge(
    *,
    authkey: str,
    session: str,
    extra: Mapping[str, Any],
    permissions: Mapping[str, Any],
    authextra: Mapping[str, Any] | None = None,
) -> str:
    """A challenge that has never been there before.

    Args:
        authkey: Who wants to log in.
        session: The session id of WELCOME.
        extra: What the client sent along.
        permissions: What it will be told that it may do.
        authextra: How its password is salted, or None for not at all.

    Raises:
        ValueError: JSON cannot carry `extra`.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    challenge: dict[str, Any] = {
        "authid": secrets.token_urlsafe(24),
        "authkey": authkey,
        "timestamp": now.replace("+00:00", "Z"),
        "sessionid": session,
        "extra": extra,
        "permissions": permissions,
    }
    if authextra is not None:
        challenge["authextra"] = authextra
    return written(challenge)


class Salting(NamedTuple):
    """How a challenge wants the password salted; the arguments of `derive_key` after the secret."""

    salt: str
    iterations: int
    keylen: int


def salting_of(challenge: object) -> Salting | None:
    """How a server wants the password salted, or None for not at all.

    Raises:
        ValueError: It is no challenge, or the server asks for more work than any honest one; says which.
    """
    if not isinstance(challenge, str):
        raise ValueError("the challenge is no text")
    if len(challenge) > MAX_CHALLENGE:
        raise ValueError(f"the challenge is longer than {MAX_CHALLENGE} characters")
    try:
        parsed = json.loads(challenge)
    except (ValueError, RecursionError):
        raise ValueError("the challenge is not JSON") from None
    authextra = parsed.get("authextra") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or not isinstance(authextra, dict | None):
        raise ValueError("the challenge is no JSON object with an object `authextra`")
    salt = (authextra or {}).get("salt")
    if authextra is None or salt is None or salt == "":
        return None
    if not isinstance(salt, str):
        raise ValueError("the salt of the challenge is no text")
    iterations = _number(authextra, "iterations", ITERATIONS, MAX_ITERATIONS)
    keylen = _number(authextra, "keylen", KEYLEN, MAX_KEYLEN)
    if iterations * -(-keylen // 32) > MAX_ROUNDS:
        raise ValueError(f"{iterations} iterations for {keylen} bytes are more than {MAX_ROUNDS} rounds of hashing")
    return Salting(salt, iterations, keylen)


def _number(authextra: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = authextra.get(name, default)
    # WampSharp sends texts.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"the challenge's {name} must be a whole number from 1 to {most}")
    return value


class ProcedurePermission(msgspec.Struct, frozen=True):
    """A rule about one procedure.

    Attributes:
        uri: The full URI; what it grants holds for exactly this one.
        call: Whether it may be called.
    """

    uri: str
    call: bool = True


class TopicPermission(msgspec.Struct, frozen=True, kw_only=True):
    """A rule about a topic, or about all whose URIs begin alike.

    Attributes:
        uri: The full URI.
        prefix: Whether every URI that begins with it is meant.
        pub: Whether clients may publish.
        sub: Whether clients may subscribe.
    """

    uri: str
    prefix: bool = False
    pub: bool = False
    sub: bool = False


class Permissions(msgspec.Struct, frozen=True):
    """What a client may do; whatever is not granted is refused.

    The first topic rule that fits decides, in the order of the list, as in WampSharp.

    Attributes:
        rpc: The rules about procedures.
        pubsub: The rules about topics.
    """

    rpc: tuple[ProcedurePermission, ...] = ()
    pubsub: tuple[TopicPermission, ...] = ()

    def may_call(self, uri: str) -> bool:
        """Whether the procedure with this full URI may be called."""
        return any(rule.call for rule in self.rpc if rule.uri == uri)

    def may_publish(self, uri: str) -> bool:
        """Whether clients may publish to the topic with this full URI."""
        rule = self._rule(uri)
        return rule is not None and rule.pub

    def may_subscribe(self, uri: str) -> bool:
        """Whether clients may subscribe to the topic with this full URI."""
        rule = self._rule(uri)
        return rule is not None and rule.sub

    def _rule(self, uri: str) -> TopicPermission | None:
        for rule in self.pubsub:
            if uri.startswith(rule.uri) if rule.prefix else uri == rule.uri:
                return rule
        return None

    def as_json(self) -> dict[str, Any]:
        """The object that clients receive: `{"rpc": [...], "pubsub": [...]}`."""
        return {
            "rpc": [msgspec.to_builtins(rule) for rule in self.rpc],
            "pubsub": [msgspec.to_builtins(rule) for rule in self.pubsub],
        }
