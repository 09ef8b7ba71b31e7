"""One attempt to connect: a fresh URL, headers and secret, the connection, its login; and the delay before the next."""

from __future__ import annotations

import asyncio
import inspect
import random
from http.cookies import SimpleCookie
from typing import Any

import aiohttp

from ..errors import ERROR_URIS, AuthenticationFailed, CallError, ConnectionLost, HandshakeRefused, quote
from ..protocol.cra import AUTH, AUTHREQ, ERROR_PREFIX, derive_key, read_salting, sign
from ..protocol.websocket import CloseCode
from .connection import ClientConnection, OnEvent
from .handshake import open_websocket, without_secrets
from .options import ClientOptions, Login

__all__ = ["Dialer", "reconnect_delay"]

FINAL_STATUSES = frozenset({400, 401, 403, 426})
"""HTTP statuses that another attempt would meet again."""

TRANSIENT = frozenset(
    {
        ERROR_PREFIX + "too-many-attempts",
        *(ERROR_URIS[kind] for kind in ("generic", "internal", "timeout", "too_many_messages", "busy")),
    }
)
"""Error URIs of a login that say nothing about the secret: a later attempt may succeed."""


class Dialer:
    """Makes the connections of one client."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._own_session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the aiohttp session, unless it is the caller's."""
        own, self._own_session = self._own_session, None
        if own is not None:
            await own.close()

    async def dial(self, on_event: OnEvent) -> ClientConnection:
        """Make one attempt: a connection that is welcomed and, if a login was given, logged in.

        Args:
            on_event: Called for each event of the connection.

        Raises:
            ConnectionLost: The attempt failed.
            ValueError: The URL is no WebSocket URL.
        """
        options = self._options
        url = await _evaluate(options.url)
        headers = dict(await _evaluate(options.headers) or {})
        # Before connecting: servers give little time to log in, and a user who types a secret needs more.
        secret = await _secret_of(options.login)
        if options.session is not None and options.cookies:
            headers.setdefault("Cookie", SimpleCookie(options.cookies).output([], "", ";").strip())
        connection = await self._open(url, headers, on_event)
        if options.login is not None:
            try:
                connection.permissions = await _log_in(connection, options.login, secret, options.open_timeout)
            except BaseException:
                await connection.discard("the login failed")
                raise
        return connection

    async def _open(self, url: str, headers: dict[str, str], on_event: OnEvent) -> ClientConnection:
        """A connection whose server has sent WELCOME, within `open_timeout`."""
        options = self._options
        session = options.session or self._own_session
        if session is None:
            session = self._own_session = aiohttp.ClientSession(cookies=options.cookies)
        deadline = asyncio.get_running_loop().time() + options.open_timeout
        late = f"{without_secrets(url)}: no WELCOME within {options.open_timeout:g} s"
        try:
            async with asyncio.timeout_at(deadline):
                websocket = await open_websocket(session, url, headers, options)
        except TimeoutError:
            raise ConnectionLost(f"{late}; the handshake was not answered") from None
        connection = ClientConnection(websocket, options, on_event)
        try:
            async with asyncio.timeout_at(deadline):
                await connection.welcomed
        except BaseException as error:
            await connection.discard("the connection was given up before WELCOME")
            if isinstance(error, TimeoutError):
                raise ConnectionLost(late) from None
            raise
        return connection

    def is_final(self, error: ConnectionLost) -> bool:
        """Whether another attempt would fail the same way; `docs/protocol.md` has the table."""
        if isinstance(error, HandshakeRefused):
            return error.status in FINAL_STATUSES
        if isinstance(error, AuthenticationFailed):
            return error.uri not in TRANSIENT
        if error.code == CloseCode.SESSION_ENDED:
            # Fixed headers would send the cookie of the ended session again, which no longer names a user.
            login = self._options.login
            logs_in = login is not None and login.authkey is not None
            return not (logs_in or callable(self._options.url) or callable(self._options.headers))
        return error.code == CloseCode.POLICY_VIOLATION


def reconnect_delay(attempt: int, backoff: tuple[float, float]) -> float:
    """Seconds to wait before a reconnect.

    It is random from 0 ("full jitter"), so that the clients of a restarted server do not all return at once.

    Args:
        attempt: The number of the attempt, from 0.
        backoff: The bound of the first delay and of all delays, in seconds; the bound doubles with each attempt.
    """
    first, longest = backoff
    return random.uniform(0, min(longest, first * 2 ** min(attempt, 30)))


async def _evaluate(value: Any) -> Any:
    """A value, or the result of the function, async or not, that was given in its place."""
    if callable(value):
        value = value()
    return await value if inspect.isawaitable(value) else value


# ---- WAMP-CRA


async def _secret_of(login: Login | None) -> str:
    if login is None or login.authkey is None:
        return ""
    secret = await _evaluate(login.secret)
    if not isinstance(secret, str):
        raise TypeError(f"the secret must be a text, not {type(secret).__name__}")
    return secret


async def _log_in(connection: ClientConnection, login: Login, secret: str, timeout: float) -> Any:
    """Log in on a new connection.

    Args:
        connection: The connection.
        login: The login.
        secret: Its secret at present; "" for an anonymous login.
        timeout: Seconds that the server has for each of its two answers.

    Returns:
        The server's answer, usually the permissions: `{"rpc": [...], "pubsub": [...]}`.

    Raises:
        AuthenticationFailed: The server refused, or sent a challenge that no honest server sends.
        ConnectionLost: The connection was lost, or an answer did not come in time.
    """
    who = "nobody" if login.authkey is None else quote(login.authkey)
    extra = None if login.authextra is None else dict(login.authextra)
    challenge = await _login_call(connection, who, timeout, AUTHREQ, login.authkey, extra)
    try:
        signature = None if login.authkey is None else await _signature(challenge, secret)
    except ValueError as error:
        raise AuthenticationFailed(f"the login of {who} was given up: {error}") from None
    if login.authkey is None and challenge is not None:
        raise AuthenticationFailed("the anonymous login was given up: the server wants a signature")
    return await _login_call(connection, who, timeout, AUTH, signature)


async def _signature(challenge: object, secret: str) -> str:
    """The answer to a challenge. Raises ValueError for one that no honest server sends."""
    salting = read_salting(challenge)
    assert isinstance(challenge, str)
    key = secret if salting is None else await asyncio.to_thread(derive_key, secret, *salting)
    return sign(challenge, key)


async def _login_call(connection: ClientConnection, who: str, timeout: float, procedure: str, *args: Any) -> Any:
    try:
        async with asyncio.timeout(timeout):
            return await connection.call(procedure, *args)
    except CallError as error:
        why = quote(error.description) if error.description else "no reason given"
        is_plain = error.uri.isprintable() and error.uri.isascii() and len(error.uri) <= 128
        uri = error.uri if is_plain else quote(error.uri)
        raise AuthenticationFailed(f"the server refused the login of {who}: {why}, {uri}", error.uri) from None
    except TimeoutError:
        raise ConnectionLost(f"the server did not answer the login of {who} within {timeout:g} s") from None
