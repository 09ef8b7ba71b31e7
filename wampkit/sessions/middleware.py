"""The gate that lets a client be whoever it is on the web front end, by that one's session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp_session import AbstractStorage, SimpleCookieStorage

from ..auth.tickets import Tickets, fingerprint_of
from ..concurrency.threads import Threads
from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from ..networks import describe_address
from ..telemetry.logs import LogThrottle, logger_of
from .session import Session, SessionEnded, SessionReadOnly, SessionUnavailable
from .storage import Found, Missing, Storage, quiet_undecryptable_cookies
from .watcher import Watch, remaining

__all__ = ["Sessions", "key_fingerprints", "reads_sessions"]

logger = logger_of(__name__)

RETRY = {"Retry-After": "1"}

IN_COOKIE = (
    "this session lives in its cookie, which cannot be set or read anew on an open socket: change it in a web view, or "
    "keep sessions on the server (aiohttp-session's RedisStorage)"
)

NONE_THERE = "there is no session: it begins in a web view, as cookies cannot be set on an open socket"

_NOTHING: Mapping[str, Any] = {}

WRITE_PATIENCE = 10.0
"""Seconds in which changes to sessions must have been written when the app stops."""


class Sessions:
    """Reads the web front end's session at the handshake; a middleware for `App(middlewares=[...])`.

    Whatever the cookie holds, the worst that comes of it is that there is no session. A storage that does not answer
    is another matter: clients with a cookie are refused with 503 until it does. A connection is closed with 4401 when
    its session expires; where the storage is on the server, also when the session is logged out of or gets another
    user, which is looked up every `check_every` seconds. To close them at once, let the logout view do so:
    `for each in app.connections(session_id=...): each.close(4401, "logged out")`.

    Args:
        storage: The storage that the aiohttp site uses, or one with the same settings.
        user: Which key of the session names the user, or a function of the `Session` that returns the user or None:
            `async def`, or `def`, which runs in a worker thread. One that raises KeyError knows nobody. It fills
            `connection.user`.
        roles: The same for the names of the user's roles. They become `connection.roles`: whatever tells the user tells
            the roles with it, and of several middlewares that do the last one holds. A session without a user gives
            its roles to a client of whom nobody knows by then who it is.
        id: The same for the id by which `app.connections(session_id=...)` finds connections; None for the key of the
            storage on the server. A session in a cookie has no such key: put a random value into it at login, such as
            `session["sid"] = secrets.token_urlsafe()`, and say `id="sid"`.
        required: Whether a client of whom nobody knows by now who it is, is refused with 403.
        check_every: Seconds between two looks at a session on the server.
        endless: Whether a storage without `max_age` may be used, whose cookies are good for ever.
        plain: Whether `SimpleCookieStorage` may be used, whose cookie any visitor can write: for tests alone.

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
        self._storage = Storage(storage)
        self._user = user
        self._roles = roles
        self._id = id
        self._required = required
        self._check_every = check_every
        self._watches: list[Watch] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttle = LogThrottle(logger)

    # ---- the middleware

    async def connect(self, connection: Connection) -> str:
        """Establish who the client is, and return in a sentence what its session is, or why there is none."""
        record = SessionRecord(self, connection.request, connection.threads.logins)
        connection.session = Session(record)
        try:
            found = await record.read()
        except SessionUnavailable as error:
            raise self._unavailable(error) from None
        note = found.why if isinstance(found, Missing) else await self._welcome(connection, record, found)
        if connection.user is None:
            if self._required:
                raise Refused("log in first", why=note)
            self.say(("anonymous", note), f"{quote(describe_address(connection.remote), 64)} is nobody: {note}")
        return note

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        text = f"reads the web front end's session ({self.storage.describe()})"
        return f"{text} and refuses who is nobody" if self._required else text

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """While the app runs, watch over the sessions of its connections."""
        watch = Watch(app, self, self._check_every)
        self._watches.append(watch)
        with quiet_undecryptable_cookies():
            try:
                async with app.background("the watch over sessions", watch.run):
                    yield
            finally:
                self._watches.remove(watch)
                await watch.close()
                if self._tasks:
                    await asyncio.wait(set(self._tasks), timeout=WRITE_PATIENCE)
                self._throttle.close()

    async def _welcome(self, connection: Connection, record: SessionRecord, found: Found) -> str:
        facts = await self.facts(record, found)
        record.take(found, facts)
        if found.expires is not None:
            for watch in self._watches:
                watch.expect(found.expires)
        if facts.user is None:
            if connection.user is None:
                connection.roles |= facts.roles
            return facts.note
        connection.user, connection.roles = facts.user, facts.roles
        return f"session of user {quote(facts.user)}, {remaining(found.expires)}"

    def _unavailable(self, error: SessionUnavailable) -> web.HTTPException:
        self.trouble(error)
        return web.HTTPServiceUnavailable(text="sessions cannot be looked up at the moment", headers=RETRY)

    # ---- what a session says

    async def facts(self, record: SessionRecord, found: Found) -> Facts:
        """Who and what a session makes of its connections."""
        session = Session(record.like(found))
        user, note = await self._user_of(session, record.threads)
        roles = await _asked(self._roles, session, record.threads)
        id = await _asked(self._id, session, record.threads) if self._id is not None else found.identity
        return Facts(None if id is None else str(id), user, self._role_names(roles), note)

    async def _user_of(self, session: Session, threads: Threads) -> tuple[Any, str]:
        user = await _asked(self._user, session, threads)
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
            self.say("roles", "the roles of a session are no list of names, so it has none", logging.WARNING)
            return frozenset()
        return frozenset(names)

    # ---- for its records and watches

    @property
    def fingerprint(self) -> str:
        """A text that differs where the keys of the storage do; empty where that cannot be told."""
        return self._storage.fingerprint

    @property
    def storage(self) -> Storage:
        """What reads and writes the sessions."""
        return self._storage

    def doubt(self, identity: str) -> None:
        """A session on the server may have ended: look at once."""
        for watch in self._watches:
            watch.doubt(identity)

    def trouble(self, error: Exception) -> None:
        """Log that the storage does not answer."""
        self.say("storage", f"the session storage does not answer: {error}", logging.ERROR)

    def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a write in a task of its own; what it raises is logged."""

        async def run() -> None:
            try:
                await work()
            except SessionEnded as error:
                self.say("ended", f"a change to a session is not written: {error.description}", logging.WARNING)
            except Exception as error:
                logger.exception("a change to a session is not written")
                for watch in self._watches:
                    watch.report(error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def say(self, kind: Any, text: str, level: int = logging.INFO, error: BaseException | None = None) -> None:
        """Write a line to the log, unless one of its kind has just been written."""
        self._throttle.add(kind, f"sessions: {text}", level=level, error=error)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session says of its connections.

    Attributes:
        id: By what they are found.
        user: Who they are, or None.
        roles: What they may do.
        note: Why there is no user.
    """

    id: str | None
    user: Any
    roles: frozenset[str]
    note: str


NOBODY = Facts(None, None, frozenset(), "")


class SessionRecord:
    """What the sessions of one connection stand for; see `session.Record`.

    Attributes:
        gate: The middleware that it belongs to.
        identity: The key in a storage on the server, or None.
        facts: What was established at the handshake, or at the last look.
        taken: How often it was read or written.
        threads: Where plain functions are asked about it.
    """

    __slots__ = ("_loop", "_request", "created", "data", "expires", "facts", "gate", "identity", "taken", "threads")

    def __init__(self, gate: Sessions, request: web.Request, threads: Threads) -> None:
        self.gate = gate
        self.threads = threads
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.data = _NOTHING
        self.identity: str | None = None
        self.created: float | None = None
        self.expires: float | None = None
        self.facts = NOBODY
        self.taken = 0

    @property
    def id(self) -> str | None:
        """By what its connections are found."""
        return self.facts.id

    def take(self, found: Found, facts: Facts | None = None) -> None:
        """This is what the session is now."""
        self.taken += 1
        self.data, self.identity = found.data, found.identity
        self.created, self.expires = found.created, found.expires
        if facts is not None:
            self.facts = facts

    def like(self, found: Found) -> SessionRecord:
        """Another record of the same handshake, as it will be."""
        other = SessionRecord(self.gate, self._request, self.threads)
        other.take(found)
        return other

    async def read(self) -> Found | Missing:
        """Ask the storage. Raises SessionUnavailable."""
        return await self.gate.storage.read(self._request)

    def check_changeable(self) -> None:
        """Raises SessionReadOnly where the session cannot be written."""
        if self.identity is None:
            raise SessionReadOnly(IN_COOKIE if self.data else NONE_THERE)

    async def reload(self) -> None:
        """Read anew. Raises SessionReadOnly, SessionEnded, SessionUnavailable."""
        self.check_changeable()
        found = await self.read()
        if isinstance(found, Missing) or found.identity != self.identity:
            raise self._ended()
        self.take(found)

    async def write(self, changes: Mapping[str, Any]) -> None:
        """Apply changes to what the storage holds now, and read that. Raises SessionEnded, SessionUnavailable."""
        assert self.identity is not None
        try:
            found = await self.gate.storage.change(self._request, self.identity, changes)
        except SessionEnded:
            raise self._ended() from None
        if isinstance(found, Missing):
            self.data = _NOTHING
            self.gate.doubt(self.identity)
        else:
            self.take(found)

    def _ended(self) -> SessionEnded:
        assert self.identity is not None
        self.gate.doubt(self.identity)
        return SessionEnded("the session has ended: log in again")

    def soon(self, save: Callable[[], Awaitable[None]]) -> None:
        """Run `save` in a task of its own; may be called in any thread."""
        self._loop.call_soon_threadsafe(self.gate.keep, save)


async def _asked(what: str | Callable[[Session], Any] | None, session: Session, threads: Threads) -> Any:
    """What a key or a function says of a session."""
    if what is None:
        return None
    if isinstance(what, str):
        return session.get(what)
    try:
        return await threads.ask_for(None, what, session)
    except KeyError:
        return None


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


def reads_sessions(middlewares: Iterable[Any]) -> bool:
    """Whether there is a session that handlers can be given."""
    return any(isinstance(each, Sessions) for each in middlewares)


def key_fingerprints(middlewares: Iterable[Any]) -> str:
    """A text that differs where the keys of an app's sessions and tickets do, to compare processes."""
    listed = list(middlewares)
    sessions = [each.fingerprint for each in listed if isinstance(each, Sessions)]
    return " ".join([*sessions, *(fingerprint_of(each) for each in listed if isinstance(each, Tickets))])
