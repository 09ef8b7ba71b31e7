"""Pings and pongs: when a peer counts as dead, and the timer that pings all connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol, TypeVar

from ..protocol.websocket import PONG_WAIT

__all__ = ["Heartbeat", "keep_alive"]


class Heartbeat:
    """Knows when the next ping is due and how long the last one has been waiting for its answer.

    Only the answer to our ping proves that the peer both reads and writes: data that it sends on its own does not,
    and bytes that the kernel took do not either.

    Args:
        now: The loop's time.
        interval: Seconds between pings.
    """

    __slots__ = ("_bytes_sent", "_due", "_end", "_interval", "_ping", "_sent", "_stalled")

    def __init__(self, now: float, interval: float) -> None:
        self._interval = interval
        self._due = now + interval
        self._ping: bytes | None = None
        self._sent = 0.0
        self._end = 0  # how many bytes have left when the ping has
        self._bytes_sent = 0
        self._stalled = 0.0

    @property
    def patience(self) -> float:
        """Seconds in which a ping must be answered."""
        return self._interval * PONG_WAIT

    def is_due(self, now: float, *, reading_paused: bool) -> bool:
        """Whether a ping should be sent now. One waits at most, except while reading is paused."""
        return now >= self._due and (self._ping is None or reading_paused)

    def ping(self, now: float, stalled: float) -> bytes:
        """The payload of a ping that is sent now."""
        self._stalled = stalled
        self._sent, self._due = now, now + self._interval
        self._ping = os.urandom(4)
        return self._ping

    def queued(self, bytes_sent: int, unsent: int) -> None:
        """The ping stands at the end of what waits.

        Args:
            bytes_sent: Bytes that the kernel has taken so far.
            unsent: Bytes that wait.
        """
        self._bytes_sent = bytes_sent
        self._end = bytes_sent + unsent

    def pong(self, payload: bytes) -> bool:
        """Take a pong; gives whether it answers the ping that waits."""
        if payload != self._ping:
            return False
        self._ping = None
        return True

    def defer(self, now: float, stalled: float) -> None:
        """Restart the pong timeout: reading is paused, so that no answer can be seen."""
        self._sent, self._stalled = now, stalled

    def is_overdue(self, now: float, stalled: float, bytes_sent: int) -> bool:
        """Whether the peer has had its time to answer.

        Args:
            now: The loop's time.
            stalled: Seconds for which the loop has stood still so far, all together: it could neither send a ping then
                nor read its answer.
            bytes_sent: Bytes that the kernel has taken so far.
        """
        if self._ping is None:
            return False
        self._sent += stalled - self._stalled
        self._stalled = stalled
        if self._bytes_sent < bytes_sent < self._end:
            # The ping still stands behind what a slow peer is reading.
            self._sent = now
        self._bytes_sent = bytes_sent
        return now - self._sent >= self.patience


TICKS = 20
"""Checks an interval. A ping leaves at most one tick late and must be answered within `PONG_WAIT` intervals, so a
dead peer is gone after 1 + 1/20 + 0.4 + 1/20 = 1.5 intervals at the latest."""

BATCH = 100
"""Connections that are looked at in one turn of the loop: some 30 us. The batches are spread over the tick."""


class Pinged(Protocol):
    """As much of a connection as is needed here."""

    def keep_alive(self, now: float, stalled: float) -> None:
        """Ping the peer, or cut it, where it is time."""


C = TypeVar("C", bound=Pinged)


async def keep_alive(connections: Iterable[C], interval: float, failed: Callable[[C, Exception], None]) -> None:
    """Ping each connection once an interval, for ever.

    The time in which a handler held up the loop is not held against a peer: pongs may have arrived meanwhile that
    have not been read, and pings may not have left.

    Args:
        connections: The live connections.
        interval: Seconds between two pings of one connection.
        failed: Called for a connection that raised; the others are checked as usual.
    """
    loop = asyncio.get_running_loop()
    tick = interval / TICKS
    stalled = 0.0
    while True:
        waiting = list(connections)
        batches = max(1, -(-len(waiting) // BATCH))
        rest = iter(waiting)
        for _ in range(batches):
            due = loop.time() + tick / batches
            await asyncio.sleep(tick / batches)
            now = loop.time()
            if now - due > tick:
                stalled += now - due
            for connection in islice(rest, BATCH):
                try:
                    connection.keep_alive(now, stalled)
                except Exception as error:
                    failed(connection, error)
