"""The server side of WAMP-CRA: issues challenges, checks their signatures and logs clients in.

The state of a login is kept per connection, from the first request until the connection ends.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..concurrency.threads import Threads
from ..connection.server_connection import ServerConnection
from ..errors import WampError, quote
from ..handlers.hooks import ErrorReporter
from ..protocol.cra import AUTH, AUTHREQ, ERROR_PREFIX, Permissions, derive_key, make_challenge, to_ascii_json, verify
from ..protocol.websocket import CloseCode
from ..router import Route
from ..telemetry.counters import Counters
from ..telemetry.logs import logger_of
from .credentials import Cra, Credentials
from .login_limits import LoginDeadline, LoginThrottle

__all__ = ["Authenticator"]

logger: logging.Logger = logger_of(__name__)

MAX_AUTHKEY = 1024
"""Characters of an authkey, which is kept until the login is over."""

MAX_EXTRA = 16_384
"""Characters of the JSON that a client sends as `extra`, which is kept as long."""

NO_PERMISSIONS = Permissions()


class _Stage(enum.Enum):
    """The state of a connection's login; while it is PROCESSING, a lookup or a derivation is awaited."""

    IDLE = enum.auto()
    PROCESSING = enum.auto()
    CHALLENGED = enum.auto()
    LOGGED_IN = enum.auto()


@dataclass(slots=True)
class _Claim:
    """One login from its challenge to its answer; an anonymous one has no authkey."""

    authkey: str | None
    permissions: Permissions | None
    credentials: Credentials | None = None
    known: bool = True
    challenge: str | None = None
    expires: float = 0.0

    @property
    def is_valid(self) -> bool:
        """Whether its challenge can still be answered."""
        return asyncio.get_running_loop().time() < self.expires


@dataclass(slots=True)
class _Login:
    """The login of one connection."""

    stage: _Stage = _Stage.IDLE
    claim: _Claim | None = None
    failures: int = 0
    derived: tuple[tuple[Any, ...], str] | None = None
    """The arguments of the last derivation, and the key."""


class Authenticator:
    """Runs the logins of one app.

    Args:
        cra: The app's options for logins.
        threads: Runs blocking lookups, and derives keys.
        errors: Answers and reports exceptions.
        counters: Counts logins.
        recheck: Ends the subscriptions that a connection is not allowed any more.
    """

    def __init__(
        self,
        cra: Cra,
        threads: Threads,
        errors: ErrorReporter,
        counters: Counters,
        recheck: Callable[[ServerConnection], Awaitable[object]],
    ) -> None:
        self._cra = cra
        self._threads = threads
        self._errors = errors
        self._counters = counters
        self._recheck = recheck
        self._logins: WeakKeyDictionary[ServerConnection, _Login] = WeakKeyDictionary()
        self._throttle = LoginThrottle(cra.failures_per_minute)
        self._decoy_key = cra.decoy_key or secrets.token_bytes(32)
        # Handlers need the threads too, and the loop needs a core.
        self._derivations = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._deadline = None if cra.timeout is None else LoginDeadline(cra.timeout, self._is_logged_in)
        self._warned = False

    def procedures(self) -> tuple[Route, ...]:
        """The two procedures of WAMP-CRA."""
        return (
            Route("procedure", AUTHREQ, AUTHREQ, self.authreq),
            Route("procedure", AUTH, AUTH, self.auth),
        )

    def start_deadline(self, connection: ServerConnection) -> None:
        """Start the time in which a new connection must log in, unless it has a user already."""
        if self._deadline is not None and connection.user is None:
            self._deadline.add(connection)

    def _is_logged_in(self, connection: ServerConnection) -> bool:
        """Whether a connection has logged in, anonymously too, or has a user from elsewhere."""
        login = self._logins.get(connection)
        return connection.user is not None or (login is not None and login.stage is _Stage.LOGGED_IN)

    def close(self) -> None:
        """Stop the timer."""
        if self._deadline is not None:
            self._deadline.close()

    # ---- the challenge

    async def authreq(self, connection: ServerConnection, authkey: Any = None, extra: Any = None) -> str | None:
        """Handle the procedure `authreq`: a challenge, or None for an anonymous login, whose `authkey` is None.

        Raises:
            WampError: It gets no challenge; the URIs and the order of the checks are autobahn-python's.
        """
        login = self._logins.get(connection)
        if login is None:
            login = self._logins[connection] = _Login()
        self._check_state(connection, login, authkey)
        extra = _checked_extra(extra)
        self._check_authkey(authkey)
        if authkey is not None and self._throttle.is_exhausted(connection.remote, authkey):
            raise self._too_many_failures(connection, authkey)
        login.stage, login.claim = _Stage.PROCESSING, None
        try:
            if authkey is None:
                claim = await self._anonymous_claim(connection, extra)
            else:
                claim = await self._keyed_claim(connection, login, authkey, extra)
        except BaseException:
            login.stage = _Stage.IDLE
            raise
        claim.expires = asyncio.get_running_loop().time() + self._cra.challenge_ttl
        login.stage, login.claim = _Stage.CHALLENGED, claim
        return claim.challenge

    def _check_state(self, connection: ServerConnection, login: _Login, authkey: object) -> None:
        if login.stage is _Stage.LOGGED_IN:
            raise _error("already-authenticated", "this connection has logged in already")
        if login.stage is _Stage.PROCESSING or (login.claim is not None and login.claim.is_valid):
            raise _error("authentication-already-requested", "answer the challenge of this connection first")
        if authkey is None and connection.user is not None:
            raise _error("already-authenticated", "this connection has its user already, and shall not lose it")
        if login.failures >= self._cra.attempts:
            raise _error("too-many-attempts", "too many logins have failed on this connection")

    def _check_authkey(self, authkey: object) -> None:
        if authkey is None and self._cra.anonymous is False:
            raise _error("anonymous-auth-forbidden", "log in with an authkey: anonymous logins are not allowed")
        if not isinstance(authkey, str | None):
            raise _error("invalid-argument", "the authkey is a string, or null for an anonymous login")
        if authkey is not None and len(authkey) > MAX_AUTHKEY:
            raise _error("invalid-argument", f"the authkey is longer than {MAX_AUTHKEY} characters")

    async def _anonymous_claim(self, connection: ServerConnection, extra: dict[str, Any]) -> _Claim:
        anonymous = self._cra.anonymous
        if isinstance(anonymous, bool):
            return _Claim(None, NO_PERMISSIONS)
        if isinstance(anonymous, Permissions):
            return _Claim(None, anonymous)
        try:
            permissions = await self._threads.ask_for(connection, anonymous, extra)
            if not isinstance(permissions, Permissions):
                raise TypeError(f"the function for anonymous logins gives Permissions, not {type(permissions)}")
        except WampError:
            raise
        except Exception as error:
            await self._errors.report(connection, error, "the permissions of anonymous logins")
            raise _error("auth-permissions-error", "the permissions could not be found out") from None
        return _Claim(None, permissions)

    async def _keyed_claim(
        self, connection: ServerConnection, login: _Login, authkey: str, extra: dict[str, Any]
    ) -> _Claim:
        found = await self._threads.ask_for(connection, self._cra.lookup, authkey, extra)
        if not isinstance(found, Credentials | None):
            raise TypeError(f"the lookup of Cra gives Credentials or None, not {type(found)}")
        hide = self._cra.hide_unknown_keys
        if found is None and not hide:
            self._throttle.take(connection.remote, authkey)
            self._record_failure(connection, login, f"unknown authkey {quote(authkey, 64)}")
            raise _error("no-such-authkey", "no such authkey")
        decoy = self._decoy(authkey)  # for known keys too, as it takes time
        credentials = found or decoy
        if hide:
            self._warn_if_unlike_decoy(authkey, credentials)
        shown = NO_PERMISSIONS if hide or credentials.permissions is None else credentials.permissions
        challenge = make_challenge(
            authkey=authkey,
            session_id=connection.id,
            extra=extra,
            permissions=shown.as_json(),
            authextra=_authextra(credentials),
        )
        return _Claim(authkey, credentials.permissions, credentials, known=found is not None, challenge=challenge)

    # ---- decoys for unknown authkeys

    def _decoy(self, authkey: str) -> Credentials:
        """The credentials shown for an unknown authkey: the same each time, with a secret that is told to no client."""
        secret = self._decoy_text("secret", authkey)
        if self._cra.salted is None:
            return Credentials(secret)
        iterations, keylen = self._cra.salted
        salt = self._decoy_text("salt", authkey)[:32]
        return Credentials(secret, salt=salt, iterations=iterations, keylen=keylen, derived=not self._cra.derives)

    def _decoy_text(self, purpose: str, authkey: str) -> str:
        text = f"{purpose} {authkey}".encode("utf-8", "surrogatepass")
        return hmac.new(self._decoy_key, text, hashlib.sha256).hexdigest()

    def _warn_if_unlike_decoy(self, authkey: str, found: Credentials) -> None:
        """Warn once if real credentials can be told from decoys."""
        real = None if found.salt is None else (found.iterations, found.keylen)
        derives = found.salt is not None and not found.derived
        if self._warned or (real == self._cra.salted and derives == self._cra.derives):
            return
        self._warned = True
        logger.warning(
            "unknown authkeys can be told from %s: they pretend salted=%r and derives=%r, but it is salted=%r and "
            "derives=%r; let all keys be alike, and Cra(...) say how they are",
            quote(authkey, 64),
            self._cra.salted,
            self._cra.derives,
            real,
            derives,
        )

    # ---- the signature

    async def auth(self, connection: ServerConnection, signature: Any = None) -> dict[str, Any]:
        """Handle the procedure `auth`: log a client in by its signature; each challenge takes one.

        The signature of an anonymous login is None.

        Returns:
            The client's permissions, as `Permissions.as_json` writes them.

        Raises:
            WampError: The client is not logged in.
        """
        login = self._logins.get(connection)
        if login is not None and login.stage is _Stage.LOGGED_IN:
            raise _error("already-authenticated", "this connection has logged in already")
        if login is None or login.claim is None or not login.claim.is_valid:
            raise _error("no-authentication-requested", "ask for a challenge first; one lasts only for a while")
        if not isinstance(signature, str | None):
            raise _error("invalid-argument", "the signature is a string, or null for an anonymous login")
        claim, login.claim, login.stage = login.claim, None, _Stage.PROCESSING
        try:
            verified = await self._verify(connection, login, claim, signature)
        finally:
            login.stage = _Stage.IDLE
        if not verified:
            who = "an anonymous login" if claim.authkey is None else quote(claim.authkey, 64)
            self._record_failure(connection, login, f"wrong signature for {who}")
            raise _error("invalid-signature", "the signature is wrong; ask for another challenge")
        granted = self._log_in(connection, login, claim)
        if connection.subscriptions:
            # It may have subscribed to topics before that its user is not allowed.
            await self._recheck(connection)
        return granted

    async def _verify(self, connection: ServerConnection, login: _Login, claim: _Claim, signature: str | None) -> bool:
        if claim.authkey is None or claim.credentials is None or claim.challenge is None:
            return signature is None
        if not self._throttle.take(connection.remote, claim.authkey):
            self._count_failure(connection, login)
            raise self._too_many_failures(connection, claim.authkey)
        key = await self._key(login, claim.credentials)
        verified = verify(claim.challenge, key, signature) and claim.known
        if verified:
            self._throttle.give_back(connection.remote, claim.authkey)
        return verified

    async def _key(self, login: _Login, credentials: Credentials) -> str:
        if credentials.derived or credentials.salt is None:
            return credentials.secret
        source = (credentials.secret, credentials.salt, credentials.iterations, credentials.keylen)
        if login.derived is None or login.derived[0] != source:
            async with self._derivations:
                login.derived = (source, await self._threads.run(derive_key, *source))
        return login.derived[1]

    def _log_in(self, connection: ServerConnection, login: _Login, claim: _Claim) -> dict[str, Any]:
        if claim.credentials is not None:
            user = claim.credentials.user
            connection.user = claim.authkey if user is None else user
            connection.roles = frozenset(claim.credentials.roles)
        connection.permissions = claim.permissions
        login.stage, login.derived = _Stage.LOGGED_IN, None
        self._counters.logins += 1
        return (claim.permissions or NO_PERMISSIONS).as_json()

    # ---- failures

    def _record_failure(self, connection: ServerConnection, login: _Login, what: str) -> None:
        self._counters.failed_logins += 1
        connection.log.add("login", f"login failed: {what}", level=logging.INFO)
        self._count_failure(connection, login)

    def _too_many_failures(self, connection: ServerConnection, authkey: str) -> WampError:
        self._counters.throttled_logins += 1
        what = f"login of {quote(authkey, 64)} refused: too many have failed from this address or for this authkey"
        connection.log.add("throttled", what)
        return _error("too-many-attempts", "too many logins have failed; try again in a minute")

    def _count_failure(self, connection: ServerConnection, login: _Login) -> None:
        login.failures += 1
        if login.failures >= self._cra.attempts:
            # Once the answer to this attempt has been sent.
            asyncio.get_running_loop().call_soon(
                connection.close, CloseCode.POLICY_VIOLATION, "too many logins have failed"
            )


def _checked_extra(extra: object) -> dict[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, dict):
        raise _error("invalid-argument", "what is sent along must be an object, or null")
    try:
        size = len(to_ascii_json(extra))
    except ValueError:
        raise _error("invalid-argument", "what is sent along cannot be written as JSON") from None
    if size > MAX_EXTRA:
        raise _error("invalid-argument", f"what is sent along is longer than {MAX_EXTRA} characters")
    return extra


def _authextra(credentials: Credentials) -> dict[str, Any] | None:
    if credentials.salt is None:
        return None
    # Clients have different defaults, so all three are sent.
    return {"salt": credentials.salt, "iterations": credentials.iterations, "keylen": credentials.keylen}


def _error(name: str, description: str) -> WampError:
    return WampError(ERROR_PREFIX + name, description)
