"""The web front end's session, as handlers and hooks are given it."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final, Protocol

from ..errors import NotAllowed, WampError
from ..handlers.depends import Scope
from ..telemetry.logs import logger_of

__all__ = [
    "GONE",
    "Record",
    "Session",
    "SessionEnded",
    "SessionReadOnly",
    "SessionUnavailable",
    "record_of",
    "session_of",
]

logger = logger_of(__name__)


class SessionReadOnly(TypeError):
    """This session can be neither changed nor read anew on an open socket; says why, and what to do instead."""


class SessionEnded(NotAllowed):
    """The session was logged out of or has expired since it was read; nothing was written."""


class SessionUnavailable(Exception):
    """The storage that holds the session did not answer."""


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Final = _Gone()
"""Stands for the value of a key that was deleted."""

_UNCHANGED: Final = object()


class Record(Protocol):
    """What the sessions of one connection stand for: what was read last, and the way to the storage."""

    @property
    def data(self) -> Mapping[str, Any]:
        """The keys and values that were read last; a new mapping each time."""

    @property
    def id(self) -> str | None: ...

    @property
    def created(self) -> float | None: ...

    @property
    def expires(self) -> float | None: ...

    def check_changeable(self) -> None:
        """Raises SessionReadOnly where the session cannot be written."""

    async def reload(self) -> None:
        """Read anew."""

    async def write(self, changes: Mapping[str, Any]) -> None:
        """Apply changes to what the storage holds now, and read that."""

    def soon(self, save: Callable[[], Awaitable[None]]) -> None:
        """Run `save` in a task of its own; may be called in any thread."""


class Session(MutableMapping[str, Any]):
    """The web front end's session: a mapping that was read at the handshake, empty and false where there is none.

    A handler's parameter with this annotation is given it, and `connection.session` is one too.

    Reading costs nothing and is a snapshot: `await session.refresh()` reads anew. Where the storage is on the server,
    changing works: the keys that a handler changed are written before its answer is sent, onto what the storage holds
    by then, and a write that fails fails the call. As in aiohttp-session, they are written too when the handler raises
    a `WampError`, and not after any other exception. `connection.session`, for hooks and middlewares, is written by a
    task of its own soon after a change. What it returns are copies, so change a list within it by assigning it anew.

    Changing a session that lives in its cookie raises `SessionReadOnly`, for cookies cannot be set on an open socket.

    Values are those that the storage can write, JSON's as a rule. A web view that read the session before a change and
    saves it after undoes that change: aiohttp-session writes sessions whole.
    """

    __slots__ = ("_base", "_changes", "_copies", "_held", "_record")

    def __init__(self, record: Record, *, held: bool = False) -> None:
        self._record = record
        # A message keeps to what was read before it began, whatever is read meanwhile.
        self._base = record.data if held else None
        self._held = held
        self._changes: dict[str, Any] = {}
        self._copies: dict[str, Any] = {}

    # ---- what is known of it

    @property
    def id(self) -> str | None:
        """What `app.connections(session_id=...)` finds its connections by; None where there is none. A secret."""
        return self._record.id

    @property
    def created(self) -> float | None:
        """When it was begun or last changed, in seconds since 1970; None where there is none."""
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
        value = self._read[key]
        if isinstance(value, dict | list):
            value = copy.deepcopy(value)
            if self._held:  # so that a change within it is noticed
                self._copies[key] = value
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._record.check_changeable()
        self._changes[key] = value
        self._changed()

    def __delitem__(self, key: str) -> None:
        self._record.check_changeable()
        if key not in self:
            raise KeyError(key)
        self._changes[key] = GONE
        self._changed()

    def __contains__(self, key: object) -> bool:
        changed: Any = self._changes.get(key, _UNCHANGED) if isinstance(key, str) else GONE
        return key in self._read if changed is _UNCHANGED else changed is not GONE

    def __iter__(self) -> Iterator[str]:
        changes = dict(self._changes)
        yield from [key for key in self._read if changes.get(key) is not GONE]
        yield from [key for key, value in changes.items() if value is not GONE and key not in self._read]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def _read(self) -> Mapping[str, Any]:
        return self._record.data if self._base is None else self._base

    def _changed(self) -> None:
        if not self._held:
            self._record.soon(self._write_taken)

    # ---- to and from the storage

    async def refresh(self) -> None:
        """Read what the storage holds now; changes that are not saved stay on top of it.

        Raises:
            SessionReadOnly: The session lives in its cookie, or there is none.
            SessionEnded: It was logged out of, or has expired.
            SessionUnavailable: The storage does not answer.
        """
        await self._record.reload()
        self._changes = self._take()
        if self._base is not None:
            self._base = self._record.data

    async def save(self) -> None:
        """Write what was changed, and return when it is written.

        Raises:
            SessionReadOnly: The session lives in its cookie.
            SessionEnded: It was logged out of, or has expired; nothing was written.
            SessionUnavailable: The storage does not answer.
        """
        changes = self._take()
        try:
            await self._write(changes)
        except BaseException:
            self._changes = {**changes, **self._changes}
            raise

    async def _write_taken(self) -> None:
        await self._write(self._take())

    async def _write(self, changes: Mapping[str, Any]) -> None:
        if not changes:
            return
        self._record.check_changeable()
        await self._record.write(changes)
        if self._base is not None:
            self._base = self._record.data

    def _take(self) -> dict[str, Any]:
        """What was changed since the last time: assigned, deleted, or within a list or dict that was handed out."""
        within = {key: value for key, value in self._copies.items() if value != self._read.get(key, _UNCHANGED)}
        changes, self._changes, self._copies = {**within, **self._changes}, {}, {}
        return changes

    async def finish(self, error: BaseException | None) -> None:
        """The handler has ended: write what it changed. What tasks that it left change later is written by itself.

        Args:
            error: What it raised, or None.
        """
        self._held = False
        changes = self._take()
        try:
            if error is None or isinstance(error, WampError):
                await self._write(changes)
            elif changes:
                name = type(error).__name__
                logger.warning("a handler failed with %s: its changes to the session are not written", name)
        finally:
            self._base = None

    def for_message(self) -> Session:
        """The session as one message sees and changes it."""
        return Session(self._record, held=True)


def session_of(scope: Scope) -> Session:
    """The session of a message, which is written when its handler ends."""
    session: Session | None = scope.values.get(Session)
    if session is None:
        session = scope.values[Session] = scope.connection.session.for_message()
        scope.at_end(session.finish)
    return session


def record_of(session: Session | None) -> Any:
    """What a session stands for, of a connection that has one: of wampkit itself."""
    assert session is not None
    return session._record
