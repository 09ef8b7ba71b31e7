"""`Session`, the web front end's session as a mapping, and the `SessionRecord` of a connection that it is a view of."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ..concurrency.threads import Threads
from ..errors import WampError
from ..handlers.depends import Scope
from ..telemetry.logs import logger_of
from .storage import ENDED, GONE, LoadedSession, NoSession, SessionEnded

if TYPE_CHECKING:
    from .middleware import SessionSource

__all__ = ["Session", "SessionIdentity", "SessionReadOnly", "SessionRecord", "record_of", "session_of"]

logger: logging.Logger = logger_of(__name__)


class SessionReadOnly(TypeError):
    """The session cannot be changed or refreshed on an open socket; the message says why, and what to do instead."""


_UNCHANGED: Final = object()


class Session(MutableMapping[str, Any]):
    """The web front end's session: a mapping that was read at the handshake, empty and false if there is none.

    A handler receives it as a parameter with this annotation; `connection.session` is one too.

    It is a snapshot, so that reading costs nothing; `await session.refresh()` reads it again. With a storage on the
    server it can be changed: the keys that a handler changed are written before its answer is sent, onto the content
    that the storage holds by then, and a write that fails makes the call fail. As in aiohttp-session, they are written
    too when the handler raises a `WampError`, and not after any other exception. `connection.session`, for hooks and
    middlewares, is written by a task of its own soon after a change; its lists and dicts are copies, so assign a
    changed one again.

    Changing a session that lives in its cookie raises `SessionReadOnly`, for cookies cannot be set on an open socket.

    Values are those that the storage can write, usually JSON. A web view that read the session before a change and
    saves it afterwards undoes that change: aiohttp-session writes sessions whole.
    """

    __slots__ = ("_base", "_changes", "_copies", "_held", "_record")

    def __init__(self, record: SessionRecord, *, held: bool = False) -> None:
        self._record = record
        # During one message the content stays the same, even if the record is updated meanwhile.
        self._base = record.data if held else None
        self._held = held
        self._changes: dict[str, Any] = {}
        self._copies: dict[str, Any] = {}

    # ---- about it

    @property
    def id(self) -> str | None:
        """The id by which `app.connections(session_id=...)` finds its connections, or None. A secret."""
        return self._record.identity.id

    @property
    def created(self) -> float | None:
        """When it was begun or last changed, in seconds since 1970; None if there is no session."""
        return self._record.created

    @property
    def expires(self) -> float | None:
        """When its connections are closed, in seconds since 1970; None for never."""
        return self._record.expires

    def __repr__(self) -> str:
        return f"<Session of {len(self)} keys>" if self else "<no Session>"

    # ---- the mapping

    def __getitem__(self, key: str) -> Any:
        if key in self._changes:
            if self._changes[key] is GONE:
                raise KeyError(key)
            return self._changes[key]
        if key in self._copies:
            return self._copies[key]
        value = self._data[key]
        if isinstance(value, dict | list):
            value = copy.deepcopy(value)
            if self._held:  # so that a change within it is noticed
                self._copies[key] = value
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._record.check_writable()
        self._changes[key] = value
        self._on_change()

    def __delitem__(self, key: str) -> None:
        self._record.check_writable()
        if key not in self:
            raise KeyError(key)
        self._changes[key] = GONE
        self._on_change()

    def __contains__(self, key: object) -> bool:
        changed: Any = self._changes.get(key, _UNCHANGED) if isinstance(key, str) else GONE
        return key in self._data if changed is _UNCHANGED else changed is not GONE

    def __iter__(self) -> Iterator[str]:
        changes = dict(self._changes)
        yield from [key for key in self._data if changes.get(key) is not GONE]
        yield from [key for key, value in changes.items() if value is not GONE and key not in self._data]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def _data(self) -> Mapping[str, Any]:
        return self._record.data if self._base is None else self._base

    def _on_change(self) -> None:
        if not self._held:
            self._record.write_soon(self._write_changes)

    # ---- to and from the storage

    async def refresh(self) -> None:
        """Read the session from the storage again; changes that are not saved stay on top of it.

        Raises:
            SessionReadOnly: The session lives in its cookie, or there is none.
            SessionEnded: It was logged out of, or has expired.
            SessionUnavailable: The storage does not answer.
        """
        await self._record.reload()
        self._changes = self._take_changes()
        if self._base is not None:
            self._base = self._record.data

    async def save(self) -> None:
        """Write the changed keys, and return when they are written.

        Raises:
            SessionReadOnly: The session lives in its cookie.
            SessionEnded: It was logged out of, or has expired; nothing was written.
            SessionUnavailable: The storage does not answer.
        """
        changes = self._take_changes()
        try:
            await self._write(changes)
        except BaseException:
            self._changes = {**changes, **self._changes}
            raise

    async def _write_changes(self) -> None:
        await self._write(self._take_changes())

    async def _write(self, changes: Mapping[str, Any]) -> None:
        if not changes:
            return
        self._record.check_writable()
        await self._record.write(changes)
        if self._base is not None:
            self._base = self._record.data

    def _take_changes(self) -> dict[str, Any]:
        """Remove and return the changes: keys assigned and deleted, and lists and dicts that were changed in place."""
        within = {key: value for key, value in self._copies.items() if value != self._data.get(key, _UNCHANGED)}
        changes, self._changes, self._copies = {**within, **self._changes}, {}, {}
        return changes

    async def _finish(self, error: BaseException | None) -> None:
        """Write the handler's changes at its end; those that its tasks make later are written as they come.

        Args:
            error: The exception that it raised, or None.
        """
        self._held = False
        changes = self._take_changes()
        try:
            if error is None or isinstance(error, WampError):
                await self._write(changes)
            elif changes:
                name = type(error).__name__
                logger.warning("a handler failed with %s: its changes to the session are not written", name)
        finally:
            self._base = None


# ---- what a session is a view of


NO_DATA: Mapping[str, Any] = {}

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

    __slots__ = ("_loop", "_request", "created", "data", "expires", "identity", "key", "source", "threads", "version")

    def __init__(self, source: SessionSource, request: web.Request, threads: Threads) -> None:
        self.source: SessionSource = source
        self.threads: Threads = threads
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.data: Mapping[str, Any] = NO_DATA
        self.key: str | None = None
        self.created: float | None = None
        self.expires: float | None = None
        self.identity: SessionIdentity = ANONYMOUS
        self.version: int = 0

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
        assert self.key is not None
        loaded = await self.read()
        if isinstance(loaded, NoSession) or loaded.key != self.key:
            self.source.check_soon(self.key)
            raise SessionEnded(ENDED)
        self.update(loaded)

    async def write(self, changes: Mapping[str, Any]) -> None:
        """Apply changes to the stored session and update this record. Raises SessionEnded, SessionUnavailable."""
        assert self.key is not None
        try:
            loaded = await self.source.storage.change(self._request, self.key, changes)
        except SessionEnded:
            self.source.check_soon(self.key)
            raise
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


def session_of(scope: Scope) -> Session:
    """The session for one message; its changes are written when the handler ends."""
    session: Session | None = scope.values.get(Session)
    if session is None:
        session = scope.values[Session] = Session(record_of(scope.connection.session), held=True)
        scope.at_end(session._finish)
    return session


def record_of(session: Session | None) -> SessionRecord:
    """The record behind the session of a connection that has one."""
    assert session is not None
    return session._record
