"""The session behind one connection, and what all of them share: the storage, the reading of users, and the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from ..concurrency.threads import Threads
from ..telemetry.logs import LogThrottle, logger_of
from .session import Session, SessionEnded, SessionReadOnly
from .storage import LoadedSession, NoSession, Storage

if TYPE_CHECKING:
    from .watcher import SessionWatcher

__all__ = ["SessionIdentity", "SessionRecord", "SessionSource"]

logger = logger_of(__name__)

Reading: TypeAlias = str | Callable[[Session], Any]
"""A key of the session, or a function of it."""

NO_DATA: Mapping[str, Any] = {}

WRITE_TIMEOUT = 10.0
"""Seconds in which pending changes to sessions must be written when the app stops."""

IN_COOKIE = (
    "this session lives in its cookie, which cannot be set or read anew on an open socket: change it in a web view, or "
    "keep sessions on the server (aiohttp-session's RedisStorage)"
)

NO_SESSION_THERE = "there is no session: it begins in a web view, as cookies cannot be set on an open socket"


@dataclass(frozen=True, slots=True)
class SessionIdentity:
    """The user that a session names.

    Attributes:
        id: The id by which `app.connections(session_id=...)` finds its connections, or None.
        user: The user, or None.
        roles: The user's roles.
        note: Why there is no user; "" if there is one.
    """

    id: str | None
    user: Any
    roles: frozenset[str]
    note: str


ANONYMOUS = SessionIdentity(None, None, frozenset(), "")


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

    def __init__(self, storage: Storage, user: Reading, roles: Reading | None, id: Reading | None) -> None:
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


class SessionRecord:
    """The session of one connection, as it was read last, and the way to its storage.

    Every `Session` that handlers, hooks and middlewares of the connection are given is a view of it.

    Attributes:
        source: The settings and services that all sessions share.
        threads: Runs the app's plain functions that are asked about the session.
        data: Keys and values; a new mapping each time.
        key: The key in a storage on the server, or None.
        created: When it was begun or last changed, in seconds since 1970, or None.
        expires: When it ends, likewise, or None for never.
        identity: The user that it names.
        version: How often it was read or written.
    """

    __slots__ = (
        "_loop",
        "_request",
        "created",
        "data",
        "expires",
        "identity",
        "key",
        "source",
        "threads",
        "version",
    )

    def __init__(self, source: SessionSource, request: web.Request, threads: Threads) -> None:
        self.source = source
        self.threads = threads
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.data = NO_DATA
        self.key: str | None = None
        self.created: float | None = None
        self.expires: float | None = None
        self.identity = ANONYMOUS
        self.version = 0

    def update(self, loaded: LoadedSession, identity: SessionIdentity | None = None) -> None:
        """Replace the content with what was loaded, and the identity if one is given."""
        self.version += 1
        self.data, self.key = loaded.data, loaded.key
        self.created, self.expires = loaded.created, loaded.expires
        if identity is not None:
            self.identity = identity

    def candidate(self, loaded: LoadedSession) -> SessionRecord:
        """A record of the same request with newly loaded data, not yet in force."""
        other = SessionRecord(self.source, self._request, self.threads)
        other.update(loaded)
        return other

    async def read(self) -> LoadedSession | NoSession:
        """Load the session of the handshake from the storage, and change nothing here. Raises SessionUnavailable."""
        return await self.source.storage.read(self._request)

    async def reload(self) -> None:
        """Load the session and update this record. Raises SessionReadOnly, SessionEnded, SessionUnavailable."""
        self.check_writable()
        loaded = await self.read()
        if isinstance(loaded, NoSession) or loaded.key != self.key:
            raise self._ended()
        self.update(loaded)

    async def write(self, changes: Mapping[str, Any]) -> None:
        """Apply changes to the stored session and update this record. Raises SessionEnded, SessionUnavailable."""
        assert self.key is not None
        try:
            loaded = await self.source.storage.change(self._request, self.key, changes)
        except SessionEnded:
            raise self._ended() from None
        if isinstance(loaded, NoSession):
            self.data = NO_DATA
            self.source.check_soon(self.key)
        else:
            self.update(loaded)

    def write_soon(self, save: Callable[[], Awaitable[None]]) -> None:
        """Run `save` in a task of its own; callable from any thread."""
        self._loop.call_soon_threadsafe(self.source.start_write, save)

    def check_writable(self) -> None:
        """Raise SessionReadOnly if the session cannot be written."""
        if self.key is None:
            raise SessionReadOnly(IN_COOKIE if self.data else NO_SESSION_THERE)

    def _ended(self) -> SessionEnded:
        assert self.key is not None
        self.source.check_soon(self.key)
        return SessionEnded("the session has ended: log in again")


async def _evaluate(reading: Reading | None, session: Session, threads: Threads) -> Any:
    """The value that a key or a function of the session gives; None for a missing key."""
    if reading is None:
        return None
    if isinstance(reading, str):
        return session.get(reading)
    try:
        return await threads.ask_for(None, reading, session)
    except KeyError:
        return None
