"""Watches the sessions of live connections: closes those whose session has ended, and updates the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from ..connection.connection import Connection
from ..protocol.websocket import CloseCode
from .session import Session, record_of
from .storage import NoSession, SessionUnavailable

if TYPE_CHECKING:
    from .middleware import SessionSource

__all__ = ["SessionWatcher"]

CONCURRENCY = 16
"""Sessions that are looked up at the same time."""

STOP_TIMEOUT = 5.0
"""Seconds in which pending rechecks must end when the app stops."""

MIN_PAUSE, MAX_PAUSE = 0.2, 30.0
"""Seconds between two passes over all connections."""


class SessionWatcher:
    """Watches the sessions of one running app.

    Args:
        app: The app.
        source: The sessions to watch.
        every: Seconds between two checks of each session that is on the server.
    """

    def __init__(self, app: Any, source: SessionSource, every: float) -> None:
        self._app = app
        self._source = source
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._next_check = self._loop.time() + every
        self._next_expiry = math.inf
        self._scheduled: list[float] = []  # since the last pass: their connections may not be live yet
        self._urgent: set[str] = set()
        self._wake = asyncio.Event()
        self._rechecks: set[asyncio.Task[Any]] = set()

    def schedule(self, expires: float) -> None:
        """Check a new client's session when it expires, in seconds since 1970."""
        self._scheduled.append(expires)
        if expires < self._next_expiry:
            self._next_expiry = expires
            self._wake.set()

    def check_soon(self, key: str) -> None:
        """Check this session in the next pass, which begins now."""
        self._urgent.add(key)
        self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled. An exception of a pass ends it; the next pass checks all sessions again."""
        while True:
            await self._wait()
            try:
                await self._run_pass()
            except Exception:
                self._next_check = self._loop.time()
                raise

    async def close(self) -> None:
        """Cancel pending rechecks, when the app stops."""
        for task in self._rechecks:
            task.cancel()
        if self._rechecks:
            await asyncio.wait(set(self._rechecks), timeout=STOP_TIMEOUT)

    def report(self, error: Exception) -> None:
        """Give an unexpected exception to the app's `on_error` hooks."""
        self._app.report(error, None)

    async def _wait(self) -> None:
        """Wait until a check is due, at most `MAX_PAUSE` seconds: scheduled times must not pile up."""
        latest = self._loop.time() + MAX_PAUSE
        while not self._urgent:
            self._wake.clear()
            rest = min(
                self._next_check - self._loop.time(), self._next_expiry - time.time(), latest - self._loop.time()
            )
            if rest <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(rest, MIN_PAUSE)):
                    await self._wake.wait()

    async def _run_pass(self) -> None:
        now = time.time()
        scheduled, self._scheduled = self._scheduled, []
        urgent, self._urgent = self._urgent, set()
        live = self._live()
        overdue = {each for each in live if _expires(each) <= now}
        if self._loop.time() >= self._next_check:
            self._next_check = self._loop.time() + self._every
            await self._check(live)
        else:
            await self._check(each for each in live if each in overdue or record_of(each.session).key in urgent)
        # A session on the server may have been extended; if the storage is silent, the old time holds.
        self._close([each for each in overdue if _expires(each) <= now], "the session has expired")
        coming = [expires for expires in [*scheduled, *self._scheduled] if expires > now]
        self._next_expiry = min([*coming, *map(_expires, self._live())], default=math.inf)

    def _live(self) -> list[Connection]:
        """The open connections with a session of this source."""
        opened = [each for each in self._app.connections if not each.closed and isinstance(each.session, Session)]
        return [each for each in opened if record_of(each.session).source is self._source]

    # ---- looking sessions up

    async def _check(self, connections: Iterable[Connection]) -> None:
        """Load the sessions of these connections that are on the server, each of them once."""
        groups: dict[str, list[Connection]] = {}
        for connection in connections:
            key = record_of(connection.session).key
            if key is not None:
                groups.setdefault(key, []).append(connection)
        waiting = list(groups.values())

        async def work() -> None:
            while waiting:
                group = waiting.pop()
                try:
                    await self._check_group(group)
                except SessionUnavailable as error:
                    self._source.log_outage(error)
                    waiting.clear()  # nor would it answer for the others
                except Exception as error:
                    self._source.log_line("identity", "asking who a session belongs to failed", logging.ERROR, error)
                    self.report(error)

        await asyncio.gather(*[work() for _ in range(min(CONCURRENCY, len(waiting)))])

    async def _check_group(self, group: Collection[Connection]) -> None:
        """Load the one session of these connections, and update or close them."""
        record = record_of(next(iter(group)).session)
        versions = [record_of(connection.session).version for connection in group]
        loaded = await record.read()
        if isinstance(loaded, NoSession) or loaded.key != record.key:
            over = record.expires is not None and record.expires <= time.time()
            self._close(group, f"the session has {'expired' if over else 'ended'}")
            return
        identity = await self._source.identify(record, loaded)
        for connection, version in zip(group, versions, strict=True):
            own = record_of(connection.session)
            before, data = own.identity, own.data
            if own.version == version:
                own.update(loaded, identity)
            else:  # a handler has written meanwhile, and its data are newer
                own.identity = identity
            if identity.user != before.user:
                self._close([connection], "the session belongs to another user now")
            elif identity.roles != before.roles or loaded.data != data:
                if connection.user == identity.user:  # or a ticket or a login has set another since
                    # Roles from elsewhere stay.
                    connection.roles = (connection.roles - before.roles) | identity.roles
                # Rules may read any key of the session.
                self._recheck(connection)

    def _recheck(self, connection: Connection) -> None:
        """End subscriptions that are not allowed any more, in a task of its own: rules and hooks may wait."""
        task = asyncio.create_task(self._app.recheck(connection))
        self._rechecks.add(task)
        task.add_done_callback(self._rechecked)

    def _rechecked(self, task: asyncio.Task[Any]) -> None:
        self._rechecks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._source.log_line(
                "recheck", "ending what a session does not allow any more failed", logging.ERROR, error
            )

    def _close(self, connections: Collection[Connection], reason: str) -> None:
        for connection in connections:
            connection.close(CloseCode.SESSION_ENDED, reason)
        if connections:
            self._source.log_line(("closed", reason), f"{len(connections)} connections closed: {reason}")


def _expires(connection: Connection) -> float:
    expires = record_of(connection.session).expires
    return math.inf if expires is None else expires
