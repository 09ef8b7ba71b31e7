"""One timer that pings every connection and cuts those that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from .connection import Connection

__all__ = ["keep_alive"]

TICKS = 20
"""Checks an interval. A ping leaves at most one tick late and must be answered within `PONG_WAIT` intervals, so a
dead peer is gone after 1 + 1/20 + 0.4 + 1/20 = 1.5 intervals at the latest."""


async def keep_alive(connections: Iterable[Connection], interval: float) -> None:
    """Ping each connection once an interval, for ever.

    The time in which a handler held up the loop is not held against anybody: pongs may have arrived meanwhile
    that nobody has read, and pings may not have left.
    """
    loop = asyncio.get_running_loop()
    tick = interval / TICKS
    while True:
        due = loop.time() + tick
        await asyncio.sleep(tick)
        now = loop.time()
        late = now - due if now - due > tick else 0.0
        for connection in connections:
            connection.keep_alive(now, late)
