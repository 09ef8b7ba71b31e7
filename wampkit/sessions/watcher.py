"""Whether the sessions of live connections still hold: one task that closes those whose session has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from ..connection.connection import Connection
from ..protocol.websocket import CloseCode
from .session import Session, SessionUnavailable, record_of
from .storage import Found, Missing

__all__ = ["Watch", "remaining"]

AT_ONCE = 16
"""Sessions that are looked up side by side."""

STOP_PATIENCE = 5.0
"""Seconds in which what it has begun must have ended at the stop."""

LEAST_PAUSE, MOST_PAUSE = 0.2, 30.0
"""Seconds between two passes over all connections."""


class Gate(Protocol):
    """As much of `Sessions` as is needed here."""

    async def facts(self, record: Any, found: Found) -> Any: ...

    def trouble(self, error: Exception) -> None: ...

    def say(self, kind: Any, text: str, level: int = logging.INFO, error: BaseException | None = None) -> None: ...


class Watch:
    """Watches over the connections of one running app.

    Args:
        app: The app.
        gate: The middleware whose sessions are meant.
        every: Seconds between two looks at each session that is on the server.
    """

    def __init__(self, app: Any, gate: Gate, every: float) -> None:
        self._app = app
        self._gate = gate
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._look_at = self._loop.time() + every
        self._expiry = math.inf  # the first of all
        self._arrived: list[float] = []  # of those that came since the last pass, and may not be live yet
        self._doubted: set[str] = set()
        self._news = asyncio.Event()
        self._rechecks: set[asyncio.Task[Any]] = set()

    # ---- being told

    def expect(self, expires: float) -> None:
        """A client comes in whose session expires then, in seconds since 1970."""
        self._arrived.append(expires)
        if expires < self._expiry:
            self._expiry = expires
            self._news.set()

    def doubt(self, identity: str) -> None:
        """A session may have ended: look at once."""
        self._doubted.add(identity)
        self._news.set()

    # ---- watching

    async def run(self) -> None:
        """Watch until cancelled. What one pass raises ends it; the next one looks at everything again."""
        while True:
            await self._wait()
            try:
                await self._pass()
            except Exception:
                self._look_at = self._loop.time()
                raise

    async def close(self) -> None:
        """End what it has begun, when the app stops."""
        for task in self._rechecks:
            task.cancel()
        if self._rechecks:
            await asyncio.wait(set(self._rechecks), timeout=STOP_PATIENCE)

    def report(self, error: Exception) -> None:
        """Tell the app's `on_error` hooks of what was not expected."""
        self._app.report(error, None)

    async def _wait(self) -> None:
        """Until something is due, or long enough: what has arrived must not pile up."""
        latest = self._loop.time() + MOST_PAUSE
        while not self._doubted:
            self._news.clear()
            rest = min(self._look_at - self._loop.time(), self._expiry - time.time(), latest - self._loop.time())
            if rest <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(rest, LEAST_PAUSE)):
                    await self._news.wait()

    async def _pass(self) -> None:
        now = time.time()
        arrived, self._arrived = self._arrived, []
        doubted, self._doubted = self._doubted, set()
        live = self._live()
        overdue = {each for each in live if _expires(each) <= now}
        if self._loop.time() >= self._look_at:
            self._look_at = self._loop.time() + self._every
            await self._look(live)
        else:
            await self._look(each for each in live if each in overdue or record_of(each.session).identity in doubted)
        # Whoever lives on the server may have been given more time; nobody is given any by a storage that is silent.
        self._end([each for each in overdue if _expires(each) <= now], "the session has expired")
        coming = [expires for expires in [*arrived, *self._arrived] if expires > now]
        self._expiry = min([*coming, *map(_expires, self._live())], default=math.inf)

    def _live(self) -> list[Connection]:
        return [each for each in self._app.connections if not each.closed and self._is_mine(each)]

    def _is_mine(self, connection: Connection) -> bool:
        return isinstance(connection.session, Session) and record_of(connection.session).gate is self._gate

    # ---- looking sessions up

    async def _look(self, connections: Iterable[Connection]) -> None:
        """Read the sessions of these connections anew where they are on the server, each of them once."""
        groups: dict[str, list[Connection]] = {}
        for connection in connections:
            identity = record_of(connection.session).identity
            if identity is not None:
                groups.setdefault(identity, []).append(connection)
        waiting = list(groups.values())

        async def work() -> None:
            while waiting:
                group = waiting.pop()
                try:
                    await self._judge(group)
                except SessionUnavailable as error:
                    self._gate.trouble(error)
                    waiting.clear()  # nor would it answer for the others
                except Exception as error:
                    self._gate.say("facts", "asking who a session belongs to failed", logging.ERROR, error)
                    self.report(error)

        await asyncio.gather(*[work() for _ in range(min(AT_ONCE, len(waiting)))])

    async def _judge(self, group: Collection[Connection]) -> None:
        """Act on what the storage says of one session."""
        record = record_of(next(iter(group)).session)
        taken = [record_of(connection.session).taken for connection in group]
        found = await record.read()
        if isinstance(found, Missing) or found.identity != record.identity:
            over = record.expires is not None and record.expires <= time.time()
            self._end(group, f"the session has {'expired' if over else 'ended'}")
            return
        facts = await self._gate.facts(record, found)
        for connection, before_reading in zip(group, taken, strict=True):
            own = record_of(connection.session)
            before, data = own.facts, own.data
            if own.taken == before_reading:
                own.take(found, facts)
            else:  # a handler has written meanwhile, and knows better
                own.facts = facts
            if facts.user != before.user:
                self._end([connection], "the session belongs to another user now")
            elif facts.roles != before.roles or found.data != data:
                if connection.user == facts.user:  # or another was established since, by a ticket or a login
                    # Roles of other makers stay. What else a session holds may be what a rule reads.
                    connection.roles = (connection.roles - before.roles) | facts.roles
                self._recheck(connection)

    def _recheck(self, connection: Connection) -> None:
        """End what is not allowed any more, in a task of its own: the watch waits for no rule and no hook."""
        task = asyncio.create_task(self._app.recheck(connection))
        self._rechecks.add(task)
        task.add_done_callback(self._rechecked)

    def _rechecked(self, task: asyncio.Task[Any]) -> None:
        self._rechecks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._gate.say("recheck", "ending what a session does not allow any more failed", logging.ERROR, error)

    def _end(self, connections: Collection[Connection], reason: str) -> None:
        for connection in connections:
            connection.close(CloseCode.SESSION_ENDED, reason)
        if connections:
            self._gate.say(("closed", reason), f"{len(connections)} connections closed: {reason}")


def _expires(connection: Connection) -> float:
    expires: float | None = record_of(connection.session).expires
    return math.inf if expires is None else expires


def remaining(expires: float | None) -> str:
    """How long a session is good for, in words."""
    return "never expires" if expires is None else f"expires in {max(0, round(expires - time.time())):,} s"
