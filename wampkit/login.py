"""The client's side of WAMP-CRA: prove a secret without sending it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cra import AUTH, AUTHREQ, derive_key, salting_of, sign
from .errors import AuthenticationFailed, CallError, ConnectionLost, quote
from .link import Link

__all__ = ["Login", "Secret", "log_in"]

Secret = str | Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """As whom a client logs in on each of its connections; see `connect` for what each means.

    Raises:
        TypeError: The parts do not go together.
    """

    authkey: str | None = None
    secret: Secret | None = field(default=None, repr=False)
    authextra: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.authkey is not None and self.secret is None:
            raise TypeError("authkey needs its secret: connect(url, authkey=..., secret=...)")
        if self.authkey is None and self.secret is not None:
            raise TypeError("secret needs the authkey that it belongs to: connect(url, authkey=..., secret=...)")


async def log_in(link: Link, login: Login, secret: str, patience: float) -> Any:
    """Log in on a fresh connection.

    Args:
        link: The connection.
        login: As whom.
        secret: The secret as it is now; "" for an anonymous login.
        patience: Seconds that the server has for each of its two answers.

    Returns:
        What the server says that is permitted: usually `{"rpc": [...], "pubsub": [...]}`.

    Raises:
        AuthenticationFailed: The server refused, or asked for something that no honest one does.
        ConnectionLost: The connection was lost meanwhile, or no answer came.
    """
    who = "nobody" if login.authkey is None else quote(login.authkey)
    extra = None if login.authextra is None else dict(login.authextra)
    challenge = await _ask(link, who, patience, AUTHREQ, login.authkey, extra)
    try:
        signature = None if login.authkey is None else await _signature(challenge, secret)
    except ValueError as error:
        raise AuthenticationFailed(f"the login of {who} was given up: {error}") from None
    if login.authkey is None and challenge is not None:
        raise AuthenticationFailed("the anonymous login was given up: the server wants a signature")
    return await _ask(link, who, patience, AUTH, signature)


async def _signature(challenge: object, secret: str) -> str:
    """The answer to a challenge. Raises ValueError for one that no honest server sends."""
    salting = salting_of(challenge)
    assert isinstance(challenge, str)
    key = secret if salting is None else await asyncio.to_thread(derive_key, secret, *salting)
    return sign(challenge, key)


def _shown(uri: str) -> str:
    return uri if uri.isprintable() and uri.isascii() and len(uri) <= 128 else quote(uri)


async def _ask(link: Link, who: str, patience: float, procedure: str, *args: Any) -> Any:
    try:
        async with asyncio.timeout(patience):
            return await link.call(procedure, *args)
    except CallError as error:
        why = quote(error.description) if error.description else "no reason given"
        raise AuthenticationFailed(
            f"the server refused the login of {who}: {why}, {_shown(error.uri)}", error.uri
        ) from None
    except TimeoutError:
        raise ConnectionLost(f"the server did not answer the login of {who} within {patience:g} s") from None
