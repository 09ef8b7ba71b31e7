"""WAMP-CRA without I/O, for the server and the client: keys, signatures, challenges and permissions.

Both sides hold a secret. The server sends a challenge, a text that is different each time, and the client proves the
secret by signing it; the challenge also carries what the client will be permitted. `docs/protocol.md` has the exchange.
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
    "ERROR_PREFIX",
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
    "read_salting",
    "sign",
    "to_ascii_json",
    "verify",
]

AUTHREQ = "http://api.wamp.ws/procedure#authreq"
"""The procedure that answers an authkey with a challenge."""

AUTH = "http://api.wamp.ws/procedure#auth"
"""The procedure that answers the signature with the permissions."""

ERROR_PREFIX = "http://api.wamp.ws/error#"
"""The beginning of the error URIs of WAMP-CRA."""

ITERATIONS = 10_000
"""The iterations of a salted challenge that names none."""

KEYLEN = 32
"""The bytes of the key of a salted challenge that names none."""

MAX_ITERATIONS = 1_000_000

MAX_KEYLEN = 1024

MAX_ROUNDS = 2_000_000
"""Iterations times blocks of 32 bytes that a client computes for a challenge: a second or two of work."""

MAX_CHALLENGE = 65_536
"""Characters of the longest challenge that a client reads."""


def _bytes(text: str) -> bytes:
    # JSON can carry halves of surrogate pairs, which UTF-8 cannot.
    return text.encode("utf-8", "surrogatepass")


# ---- keys and signatures


def new_salt() -> str:
    """A fresh random salt of 32 hexadecimal digits, for `derive_key`."""
    return secrets.token_hex(16)


def derive_key(secret: str, salt: str | None, iterations: int | str = ITERATIONS, keylen: int | str = KEYLEN) -> str:
    """Derive the key that a server stores in place of a password, as base64 text, by PBKDF2-HMAC-SHA256.

    It takes some 0.3 us an iteration: keep it off the event loop.

    Args:
        secret: The password.
        salt: The salt; without one, None or empty, the key is the secret itself.
        iterations: The rounds of hashing.
        keylen: Bytes of the key before base64.

    Raises:
        ValueError: `iterations` or `keylen` is no number of 1 or more.
    """
    if not salt:
        return secret
    derived = hashlib.pbkdf2_hmac("sha256", _bytes(secret), _bytes(salt), int(iterations), int(keylen))
    return base64.b64encode(derived).decode("ascii")


def sign(challenge: str, key: str) -> str:
    """The signature of a challenge: base64 of its HMAC-SHA256 under the key, each as UTF-8."""
    return base64.b64encode(hmac.digest(_bytes(key), _bytes(challenge), "sha256")).decode("ascii")


def verify(challenge: str, key: str, signature: object) -> bool:
    """Whether a signature is right, in a time that does not depend on where it differs. A wrong type is just wrong."""
    expected = sign(challenge, key).encode("ascii")
    fits = isinstance(signature, str) and len(signature) == len(expected)
    given = signature.encode("utf-8", "replace") if isinstance(signature, str) and fits else b""
    return hmac.compare_digest(given, expected)


# ---- challenges


def to_ascii_json(value: Any) -> str:
    """A value as JSON text in pure ASCII: MDWamp reads nothing else, and lone surrogates survive.

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
    session_id: str,
    extra: Mapping[str, Any],
    permissions: Mapping[str, Any],
    authextra: Mapping[str, Any] | None = None,
) -> str:
    """A new challenge, with a random nonce of 192 bits.

    Args:
        authkey: The authkey of the client.
        session_id: The session id of its connection.
        extra: The object that the client sent with the authkey.
        permissions: The permissions that it will be granted.
        authextra: The salt, iterations and keylen of its password, or None if it is not salted.

    Raises:
        ValueError: JSON cannot carry `extra`.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    challenge: dict[str, Any] = {
        "authid": secrets.token_urlsafe(24),
        "authkey": authkey,
        "timestamp": now.replace("+00:00", "Z"),
        "sessionid": session_id,
        "extra": extra,
        "permissions": permissions,
    }
    if authextra is not None:
        challenge["authextra"] = authextra
    return to_ascii_json(challenge)


class Salting(NamedTuple):
    """The arguments of `derive_key` after the secret, as a challenge gives them."""

    salt: str
    iterations: int
    keylen: int


def read_salting(challenge: object) -> Salting | None:
    """The salting that a challenge asks for, or None for none.

    Raises:
        ValueError: It is no challenge, or asks for more work than any honest server does; the text says which.
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


# ---- permissions


class ProcedurePermission(msgspec.Struct, frozen=True):
    """A rule about one procedure.

    Attributes:
        uri: The full URI of the procedure.
        call: Whether it may be called.
    """

    uri: str
    call: bool = True


class TopicPermission(msgspec.Struct, frozen=True, kw_only=True):
    """A rule about one topic, or about all topics whose URIs begin with a text.

    Attributes:
        uri: The full URI, or its beginning.
        prefix: Whether it applies to every URI that begins with `uri`.
        pub: Whether clients may publish.
        sub: Whether clients may subscribe.
    """

    uri: str
    prefix: bool = False
    pub: bool = False
    sub: bool = False


class Permissions(msgspec.Struct, frozen=True):
    """The rights of a client; a right that no rule grants is refused.

    The first topic rule that matches decides, in the order of the list, as in WampSharp.

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
