"""One timer that pings every connection and cuts those that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol, TypeVar

__all__ = ["keep_alive"]

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
        failed: Told of a connection that raised; the others are looked at all the same.
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
