"""One attempt to connect, up to the login, and the delay before the next."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from typing import Any

import aiohttp

from ..errors import ERROR_URIS, AuthenticationFailed, CallError, ConnectionLost, HandshakeRefused, quote
from ..protocol.cra import AUTH, AUTHREQ, ERROR, derive_key, salting_of, sign
from .connection import Link, LinkOptions, OnEvent

__all__ = ["Dialer", "Headers", "Login", "Secret", "Url", "delay_of"]

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


Url = str | Callable[[], str | Awaitable[str]]

Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

FINAL_STATUSES = frozenset({400, 401, 403, 426})
"""HTTP answers that another attempt will not change."""

POLICY_VIOLATION = 1008

SESSION_ENDED = 4401

PASSING = frozenset(
    {
        ERROR + "too-many-attempts",
        *(ERROR_URIS[kind] for kind in ("generic", "internal", "timeout", "too_many_messages", "busy")),
    }
)
"""Answers to a login that say nothing about the secret: a later attempt may succeed."""


class Dialer:
    """Makes the connections of one client.

    Args:
        url: The URL, or a function that gives one for each attempt.
        headers: HTTP headers, or a function that gives them.
        options: What all connections have in common.
        session: An aiohttp session of the caller's, or None for one of our own.
        cookies: Cookies of the handshake.
        login: As whom to log in, or None for not at all.
    """

    def __init__(
        self,
        url: Url,
        headers: Headers | None,
        options: LinkOptions,
        session: aiohttp.ClientSession | None,
        cookies: Mapping[str, str] | None,
        login: Login | None,
    ) -> None:
        self._url = url
        self._headers = headers
        self._options = options
        self._session = session
        self._cookies = cookies
        self._login = login
        self._own_session: aiohttp.ClientSession | None = None

    def is_final(self, error: ConnectionLost) -> bool:
        """Whether another attempt would end the same way; `docs/protocol.md` has the table."""
        if isinstance(error, HandshakeRefused):
            return error.status in FINAL_STATUSES
        if isinstance(error, AuthenticationFailed):
            return error.uri not in PASSING
        if error.code == SESSION_ENDED:
            # The cookie that has ended would come again, and its user be a stranger.
            logs_in = self._login is not None and self._login.authkey is not None
            return not (logs_in or callable(self._url) or callable(self._headers))
        return error.code == POLICY_VIOLATION

    def start(self) -> None:
        """Make ready to dial."""
        if self._session is None:
            self._own_session = aiohttp.ClientSession(cookies=self._cookies)

    async def close(self) -> None:
        """Let go of what `start` made."""
        own, self._own_session = self._own_session, None
        if own is not None:
            await own.close()

    async def dial(self, on_event: OnEvent) -> Link:
        """A connection that is welcomed and, if that is wanted, logged in.

        Args:
            on_event: Told of each event.

        Raises:
            ConnectionLost: It could not be made.
            ValueError: The URL is none.
        """
        url = await _fresh(self._url)
        headers = dict(await _fresh(self._headers) or {})
        # Before there is a connection: servers give little time to log in, and whoever types a secret needs more.
        secret = await self._fresh_secret()
        if self._session is not None and self._cookies:
            headers.setdefault("Cookie", SimpleCookie(self._cookies).output([], "", ";").strip())
        session = self._session or self._own_session
        assert session is not None
        link = await Link.open(session, url, replace(self._options, headers=headers), on_event)
        if self._login is not None:
            try:
                link.permissions = await log_in(link, self._login, secret, self._options.open_timeout)
            except BaseException:
                link.cut("the login failed")
                await link.ended()
                raise
        return link

    async def _fresh_secret(self) -> str:
        if self._login is None or self._login.authkey is None:
            return ""
        secret = await _fresh(self._login.secret)
        if not isinstance(secret, str):
            raise TypeError(f"the secret must be a text, not {type(secret).__name__}")
        return secret


def delay_of(attempt: int, backoff: tuple[float, float]) -> float:
    """Seconds before an attempt, counted from 0: full jitter, so that a crowd of clients does not come back at once."""
    first, longest = backoff
    return random.uniform(0, min(longest, first * 2 ** min(attempt, 30)))


async def _fresh(value: Any) -> Any:
    """A value, or what a function, async or not, gives for it."""
    if callable(value):
        value = value()
    return await value if inspect.isawaitable(value) else value
