"""Middleware that takes a client's user from the web front end's session: `Sessions`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from aiohttp_session import AbstractStorage, SimpleCookieStorage

from ..auth.tickets import Tickets, fingerprint_of
from ..concurrency.threads import Threads
from ..connection.connection import Connection
from ..connection.server_connection import ServerConnection
from ..dispatch.middleware import Refused, unavailable
from ..errors import DeclarationError, quote
from ..networks import describe_address
from ..telemetry.logs import LogThrottle, logger_of
from .session import Session, SessionIdentity, SessionRecord
from .storage import (
    LoadedSession,
    NoSession,
    SessionEnded,
    SessionUnavailable,
    Storage,
    quiet_undecryptable_cookies,
)
from .watcher import SessionWatcher

__all__ = ["SessionSource", "Sessions", "key_fingerprints", "reads_sessions"]

logger: logging.Logger = logger_of(__name__)


class Sessions:
    """Reads the web front end's session at the handshake; a middleware for `App(middlewares=[...])`.

    A cookie that is missing, expired or altered means that there is no session. If the storage does not answer, clients
    with a cookie are refused with 503. A connection is closed with 4401 when its session expires; with a storage on the
    server also when the session is logged out of or gets another user, which is checked every `check_every` seconds. To
    close them at once, let the logout view do so:
    `for each in app.connections(session_id=...): each.close(4401, "logged out")`.

    Args:
        storage: The storage that the aiohttp site uses, or one with the same settings.
        user: The key of the session that holds the user, or a function of the `Session` that returns the user or None:
            `async def`, or `def`, which runs in a worker thread; a KeyError that it raises means None. It fills
            `connection.user`.
        roles: The same for the names of the user's roles, `connection.roles`. User and roles are set together, and of
            several middlewares that set them the last one wins. A session without a user adds its roles to a client
            that has no user yet.
        id: The same for the id by which `app.connections(session_id=...)` finds connections; None for the key of the
            storage on the server. A session in a cookie has no such key: put a random value into it at login, such as
            `session["sid"] = secrets.token_urlsafe()`, and say `id="sid"`.
        required: Whether a client without a user, from this or an earlier middleware, is refused with 403.
        check_every: Seconds between two checks of a session on the server.
        endless: Whether a storage without `max_age` may be used, whose cookies never expire.
        plain: Whether `SimpleCookieStorage` may be used, whose cookie any visitor can write: for tests only.

    Raises:
        DeclarationError: One of them cannot work.
    """

    def __init__(
        self,
        storage: AbstractStorage,
        *,
        user: str | Callable[[Session], Any] = "user",
        roles: str | Callable[[Session], Any] | None = None,
        id: str | Callable[[Session], Any] | None = None,
        required: bool = False,
        check_every: float = 30.0,
        endless: bool = False,
        plain: bool = False,
    ) -> None:
        _check_storage(storage, endless, plain)
        for name, value in (("user", user), ("roles", roles), ("id", id)):
            if not (isinstance(value, str) or callable(value) or (value is None and name != "user")):
                raise DeclarationError(f"Sessions: {name} is a key of the session or a function of it, not {value!r}")
        if not check_every > 0:
            raise DeclarationError(f"Sessions: check_every is a number of seconds above 0, not {check_every!r}")
        self._source = SessionSource(Storage(storage), user, roles, id)
        self._required = required
        self._check_every = check_every

    async def connect(self, connection: Connection) -> str:
        """Set the client's session, user and roles. Raises Refused, and HTTPServiceUnavailable if no storage answers.

        Returns:
            A sentence about the session, or why there is none.
        """
        assert isinstance(connection, ServerConnection)
        record = SessionRecord(self._source, connection.request, connection.threads.logins)
        connection.session = Session(record)
        try:
            loaded = await record.read()
        except SessionUnavailable as error:
            self._source.log_outage(error)
            raise unavailable("sessions cannot be looked up at the moment") from None
        note = loaded.why if isinstance(loaded, NoSession) else await self._accept(connection, record, loaded)
        if connection.user is None:
            if self._required:
                raise Refused("log in first", why=note)
            who = quote(describe_address(connection.remote), 64)
            self._source.log_line(("anonymous", note), f"{who} has no user: {note}")
        return note

    def describe(self) -> str:
        """A description for `wampkit check`."""
        text = f"reads the web front end's session ({self._source.storage.describe()})"
        return f"{text} and refuses clients without a user" if self._required else text

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Watch the sessions of the app's connections while it runs."""
        watcher = SessionWatcher(app, self._source, self._check_every)
        self._source.watchers.append(watcher)
        with quiet_undecryptable_cookies():
            try:
                async with app.background("the watch over sessions", watcher.run):
                    yield
            finally:
                self._source.watchers.remove(watcher)
                await watcher.close()
                await self._source.close()

    async def _accept(self, connection: Connection, record: SessionRecord, loaded: LoadedSession) -> str:
        identity = await self._source.identify(record, loaded)
        record.update(loaded, identity)
        if loaded.expires is not None:
            for watcher in self._source.watchers:
                watcher.schedule(loaded.expires)
        if identity.user is None:
            if connection.user is None:
                connection.roles |= identity.roles
            return identity.note
        connection.user, connection.roles = identity.user, identity.roles
        return f"session of user {quote(identity.user)}, {_remaining(loaded.expires)}"


def _check_storage(storage: Any, endless: bool, plain: bool) -> None:
    if not isinstance(storage, AbstractStorage):
        raise DeclarationError(
            f"Sessions takes a storage of aiohttp-session, such as EncryptedCookieStorage(KeyRing(key), max_age=3600), "
            f"not a {type(storage).__name__}"
        )
    if storage.max_age is None and not endless:
        raise DeclarationError(
            "Sessions: this storage has no max_age, so its cookies would be good for ever and a stolen one could not "
            "be stopped; give it one, such as max_age=86400 (seconds), on the web side too, or say Sessions(..., "
            "endless=True)"
        )
    if isinstance(storage, SimpleCookieStorage) and not plain:
        raise DeclarationError(
            f"Sessions: the cookie of a {type(storage).__name__} is plain text without a signature, so any visitor "
            "could write one and be any user; use EncryptedCookieStorage(KeyRing(key), max_age=...), on the web side "
            "too (in tests alone: Sessions(..., plain=True))"
        )


def _remaining(expires: float | None) -> str:
    return "never expires" if expires is None else f"expires in {max(0, round(expires - time.time())):,} s"


def reads_sessions(middlewares: Iterable[Any]) -> bool:
    """Whether an app's middlewares give its handlers a session."""
    return any(isinstance(each, Sessions) for each in middlewares)


def key_fingerprints(middlewares: Iterable[Any]) -> str:
    """A text that differs where the keys of an app's sessions and tickets do, to compare processes."""
    listed = list(middlewares)
    sessions = [each._source.storage.fingerprint for each in listed if isinstance(each, Sessions)]
    return " ".join([*sessions, *(fingerprint_of(each) for each in listed if isinstance(each, Tickets))])


# ---- behind `Sessions`


KeyOrFunction: TypeAlias = str | Callable[[Session], Any]
"""A key of the session, or a function of it."""

WRITE_TIMEOUT = 10.0
"""Seconds in which pending changes to sessions must be written when the app stops."""


class SessionSource:
    """The settings and services that all sessions of one `Sessions` share.

    Args:
        storage: Reads and writes the sessions.
        user: The key or function that names the user.
        roles: The same for the user's roles, or None.
        id: The same for the session's id, or None for the key in the storage.

    Attributes:
        storage: As given.
        watchers: One for each app that runs with these sessions.
    """

    def __init__(
        self, storage: Storage, user: KeyOrFunction, roles: KeyOrFunction | None, id: KeyOrFunction | None
    ) -> None:
        self.storage = storage
        self.watchers: list[SessionWatcher] = []
        self._user = user
        self._roles = roles
        self._id = id
        self._writes: set[asyncio.Task[None]] = set()
        self._throttle = LogThrottle(logger)

    async def close(self) -> None:
        """Wait for pending writes, at most `WRITE_TIMEOUT` seconds, and write the rest of the log."""
        if self._writes:
            await asyncio.wait(set(self._writes), timeout=WRITE_TIMEOUT)
        self._throttle.close()

    # ---- who a session belongs to

    async def identify(self, record: SessionRecord, loaded: LoadedSession) -> SessionIdentity:
        """The user that a loaded session names. Raises what the app's functions raise, except KeyError."""
        session, threads = Session(record.candidate(loaded)), record.threads
        user, note = await self._user_of(session, threads)
        roles = await _evaluate(self._roles, session, threads)
        id = await _evaluate(self._id, session, threads) if self._id is not None else loaded.key
        return SessionIdentity(None if id is None else str(id), user, self._role_names(roles), note)

    async def _user_of(self, session: Session, threads: Threads) -> tuple[Any, str]:
        user = await _evaluate(self._user, session, threads)
        if user is None:
            return None, f"the session has no {self._user!r}" if isinstance(self._user, str) else "it has no user"
        try:
            hash(user)
        except TypeError:
            return None, f"what the session has for its user is a {type(user).__name__}, which is not hashable"
        return user, ""

    def _role_names(self, roles: Any) -> frozenset[str]:
        if roles is None:
            return frozenset()
        names = [roles] if isinstance(roles, str) else list(roles) if isinstance(roles, Iterable) else [roles]
        if not all(isinstance(name, str) for name in names):
            self.log_line("roles", "the roles of a session are no list of names, so it has none", logging.WARNING)
            return frozenset()
        return frozenset(names)

    # ---- for records and watchers

    def check_soon(self, key: str) -> None:
        """Let the watchers check this session at once, as it may have ended."""
        for watcher in self.watchers:
            watcher.check_soon(key)

    def start_write(self, write: Callable[[], Awaitable[None]]) -> None:
        """Run a write in a task of its own; its exceptions are logged."""

        async def run() -> None:
            try:
                await write()
            except SessionEnded as error:
                self.log_line("ended", f"a change to a session is not written: {error.description}", logging.WARNING)
            except Exception as error:
                logger.exception("a change to a session is not written")
                for watcher in self.watchers:
                    watcher.report(error)

        task = asyncio.create_task(run())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def log_outage(self, error: Exception) -> None:
        """Log that the storage does not answer."""
        self.log_line("storage", f"the session storage does not answer: {error}", logging.ERROR)

    def log_line(self, kind: Any, text: str, level: int = logging.INFO, error: BaseException | None = None) -> None:
        """Write a line to the log, or count it if one of its kind has just been written; see `LogThrottle.add`."""
        self._throttle.add(kind, f"sessions: {text}", level=level, error=error)


async def _evaluate(reading: KeyOrFunction | None, session: Session, threads: Threads) -> Any:
    """The value that a key or a function of the session gives; None for a missing key."""
    if reading is None:
        return None
    if isinstance(reading, str):
        return session.get(reading)
    try:
        return await threads.ask_for(None, reading, session)
    except KeyError:
        return None
