"""The server's socket: the WebSocket response, the kernel's options, and the keepalive that detects dead peers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

from aiohttp import WSMsgType, web

from ..protocol.websocket import PONG_WAIT

__all__ = [
    "FRAME_BATCH",
    "Heartbeat",
    "OnFrame",
    "Reader",
    "Socket",
    "abort",
    "abort_with_reset",
    "buffered_bytes",
    "cork",
    "extra_info",
    "has_failed",
    "is_handshake",
    "keep_alive",
    "peer_has_closed",
    "prepare_socket",
    "uncork",
]

# ---- the response


OnFrame = Callable[[WSMsgType, Any, Any], bool]
"""Called with the type, data and extra of one frame; returns False to receive no more."""

FRAME_BATCH = 32
"""Frames that are read from one socket before other callbacks of the loop have their turn."""


class Reader(Protocol):
    """Reads the frames of one socket."""

    def read_into(self, on_frame: OnFrame) -> Awaitable[None]:
        """Call `on_frame` with each frame until it returns False; an ERROR or CLOSED frame is the last."""

    def close(self) -> None:
        """Call `on_frame` no more."""

    def pause(self) -> None:
        """Stop reading, so that TCP holds the peer back, until `resume`."""

    def resume(self) -> None:
        """Read on."""


class Socket(web.WebSocketResponse[Literal[False]]):
    """A server's WebSocket, which only its connection closes.

    Attributes:
        pending_response: The 101 response if it is still unsent, to be written together with WELCOME.
    """

    pending_response: bytes = b""

    def reader(self, transport: asyncio.Transport) -> Reader:
        """The reader of its frames, once it is upgraded."""
        raise NotImplementedError

    async def close(self, **options: Any) -> bool:
        """Do nothing: the connection closes, which gives a reason and bounds the wait for the peer."""
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the connection has written everything."""


def is_handshake(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


# ---- the kernel
#
# These functions never raise: a socket may close at any moment, and what a call on a closed one raises differs between
# loops (asyncio: OSError; uvloop: ValueError, RuntimeError and AttributeError as well).


NOT_SENT = 64 * 1024
"""Unsent bytes that the kernel buffers for one socket. Without this bound it takes 2.7 to 3.8 MiB for a peer that reads
nothing (Linux, loopback) before any of it counts as unsent."""

KERNEL_TIMEOUT = 1.4
"""Keepalive intervals after which the kernel ends a connection whose peer acknowledges nothing."""


def extra_info(transport: Any, name: str) -> Any:
    """`get_extra_info` of a transport, or None if its socket is closed.

    Args:
        transport: The transport, or None.
        name: "socket", "peername" or "sockname".
    """
    try:
        return transport.get_extra_info(name)
    except Exception:
        return None


def prepare_socket(transport: asyncio.Transport, keepalive: float | None) -> None:
    """Bound the memory and the time that the kernel spends on a stalled peer.

    Args:
        transport: The connection's transport; one without a TCP socket is not changed.
        keepalive: Seconds between pings, or None.
    """
    connected = extra_info(transport, "socket")
    if connected is None or not isinstance(extra_info(transport, "sockname"), tuple):
        return  # a unix socket, or one that is closed
    with contextlib.suppress(Exception):
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        if hasattr(socket, "TCP_USER_TIMEOUT") and keepalive is not None:
            milliseconds = int(keepalive * KERNEL_TIMEOUT * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def buffered_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written to a transport and that the kernel has not taken."""
    try:
        return transport.get_write_buffer_size()
    except Exception:
        # A TLS transport, of asyncio and of uvloop, that was closed twice has dropped what it would ask.
        return 0


def has_failed(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection or cannot be reached; works while reading is paused."""
    if transport.is_closing():
        return True
    connected = extra_info(transport, "socket")
    try:
        return connected is not None and bool(connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except Exception:
        return True


def peer_has_closed(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its side or reset the connection; works while reading is paused."""
    if transport.is_closing():
        return True
    connected = extra_info(transport, "socket")
    if connected is None or not hasattr(select, "POLLRDHUP"):
        return False
    try:
        poll = select.poll()
        poll.register(connected.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))
    except Exception:
        return True


def abort_with_reset(transport: asyncio.Transport) -> None:
    """Close at once, and have the kernel reset the connection instead of retransmitting for minutes."""
    connected = extra_info(transport, "socket")
    if connected is not None:
        with contextlib.suppress(Exception):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    abort(transport)


def abort(transport: asyncio.Transport) -> None:
    """Close at once; unsent bytes are lost."""
    with contextlib.suppress(Exception):
        transport.abort()


def cork(transport: asyncio.Transport) -> None:
    """Have the kernel keep written bytes until `uncork`, so that they leave in one segment (Linux)."""
    _set_cork(transport, 1)


def uncork(transport: asyncio.Transport) -> None:
    """Have the kernel send the bytes that it kept."""
    _set_cork(transport, 0)


def _set_cork(transport: asyncio.Transport, value: int) -> None:
    connected = extra_info(transport, "socket")
    if connected is None or not isinstance(extra_info(transport, "sockname"), tuple) or not hasattr(socket, "TCP_CORK"):
        return
    with contextlib.suppress(Exception):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)


# ---- pings and pongs


TICKS = 20
"""Checks an interval. A ping leaves at most one tick late and must be answered within `PONG_WAIT` intervals, so a
dead peer is gone after 1 + 1/20 + 0.4 + 1/20 = 1.5 intervals at the latest."""

PING_BATCH = 100
"""Connections that are checked in one turn of the loop: some 30 us. The batches are spread over the tick."""


class Heartbeat:
    """The pings of one connection: when the next is due, and whether the last was answered in time.

    Only the answer to a ping proves that the peer both reads and writes: neither data that it sends on its own nor
    bytes that the kernel took do.

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
        self._end = 0  # value of `bytes_sent` once the ping has left
        self._bytes_sent = 0
        self._stalled = 0.0

    @property
    def patience(self) -> float:
        """Seconds in which a ping must be answered."""
        return self._interval * PONG_WAIT

    def is_due(self, now: float, *, reading_paused: bool) -> bool:
        """Whether to send a ping now: at most one is unanswered, except while reading is paused."""
        return now >= self._due and (self._ping is None or reading_paused)

    def ping(self, now: float, stalled: float) -> bytes:
        """Start a ping and return its payload of 4 bytes."""
        self._stalled = stalled
        self._sent, self._due = now, now + self._interval
        self._ping = os.urandom(4)
        return self._ping

    def queued(self, bytes_sent: int, unsent: int) -> None:
        """Note that the ping is queued behind all unsent bytes.

        Args:
            bytes_sent: Bytes that the kernel has taken so far.
            unsent: Bytes that the kernel has not taken, including the ping.
        """
        self._bytes_sent = bytes_sent
        self._end = bytes_sent + unsent

    def pong(self, payload: bytes) -> bool:
        """Take a pong. Returns whether it answers the last ping."""
        if payload != self._ping:
            return False
        self._ping = None
        return True

    def defer(self, now: float, stalled: float) -> None:
        """Restart the pong timeout: reading is paused, so that no answer can be seen."""
        self._sent, self._stalled = now, stalled

    def is_overdue(self, now: float, stalled: float, bytes_sent: int) -> bool:
        """Whether the last ping has been unanswered for longer than `patience`.

        Args:
            now: The loop's time.
            stalled: Total seconds for which the loop was blocked so far and could neither send pings nor read pongs.
            bytes_sent: Bytes that the kernel has taken so far.
        """
        if self._ping is None:
            return False
        self._sent += stalled - self._stalled
        self._stalled = stalled
        if self._bytes_sent < bytes_sent < self._end:
            # The ping is still queued behind bytes that a slow peer is reading.
            self._sent = now
        self._bytes_sent = bytes_sent
        return now - self._sent >= self.patience


class Pinged(Protocol):
    """A connection that the keepalive checks."""

    def keep_alive(self, now: float, stalled: float) -> None:
        """Send the ping that is due, or cut a peer that did not answer in time."""


C = TypeVar("C", bound=Pinged)


async def keep_alive(connections: Iterable[C], interval: float, failed: Callable[[C, Exception], None]) -> None:
    """Ping each connection once an interval; runs until it is cancelled.

    Time in which a handler blocked the loop does not count: pongs may have arrived that have not been read, and pings
    may not have left.

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
        batches = max(1, -(-len(waiting) // PING_BATCH))
        rest = iter(waiting)
        for _ in range(batches):
            due = loop.time() + tick / batches
            await asyncio.sleep(tick / batches)
            now = loop.time()
            if now - due > tick:
                stalled += now - due
            for connection in islice(rest, PING_BATCH):
                try:
                    connection.keep_alive(now, stalled)
                except Exception as error:
                    failed(connection, error)
