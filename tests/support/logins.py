"""Logging in by hand, as a WAMP v1 client does, without any of wampkit in it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from .wire import ERROR, RESULT, Peer

__all__ = ["AUTH", "AUTHREQ", "ask", "code_of", "log_in", "signature_of"]

AUTHREQ = "http://api.wamp.ws/procedure#authreq"
AUTH = "http://api.wamp.ws/procedure#auth"
ERRORS = "http://api.wamp.ws/error#"


def signature_of(challenge: str, secret: str) -> str:
    """The right answer to a challenge."""
    extra = json.loads(challenge).get("authextra")
    key = secret.encode()
    if extra:
        derived = hashlib.pbkdf2_hmac("sha256", key, extra["salt"].encode(), extra["iterations"], extra["keylen"])
        key = base64.b64encode(derived)
    return base64.b64encode(hmac.digest(key, challenge.encode(), "sha256")).decode()


async def ask(peer: Peer, authkey: str | None = "alice", *extra: Any) -> str:
    """A challenge, which must be given."""
    challenge: str = await peer.result(AUTHREQ, authkey, *extra)
    return challenge


async def log_in(peer: Peer, authkey: str = "alice", secret: str = "s3cr3t", *extra: Any) -> list[Any]:
    """Ask for a challenge and answer it; gives the server's answer to that."""
    return await peer.call(AUTH, signature_of(await ask(peer, authkey, *extra), secret))


def code_of(answer: list[Any]) -> str:
    """The name of a CRA error, or "ok"."""
    if answer[0] == RESULT:
        return "ok"
    assert answer[0] == ERROR, answer
    uri: str = answer[2]
    assert uri.startswith(ERRORS), answer
    return uri.removeprefix(ERRORS)
