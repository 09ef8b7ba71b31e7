"""The server's socket: its WebSocket response, and what the kernel is asked to do for it.

The functions never raise: a socket may close at any moment, and what a call on a closed one raises differs between
loops (asyncio: OSError; uvloop: ValueError, RuntimeError and AttributeError as well).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from aiohttp import WSMsgType, web

__all__ = [
    "BATCH",
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
    "peer_has_closed",
    "prepare_socket",
    "uncork",
]

# ---- the response


OnFrame = Callable[[WSMsgType, Any, Any], bool]
"""Takes the type, data and extra of one frame; False if no more frames shall follow."""

BATCH = 32
"""Frames that are read from one socket before others have their turn."""


class Reader(Protocol):
    """Reads the frames of one socket."""

    def read_into(self, on_frame: OnFrame) -> Awaitable[None]:
        """Call `on_frame` with each frame until it returns False; an ERROR or CLOSED frame is the last."""

    def close(self) -> None:
        """Call `on_frame` no more."""

    def pause(self) -> None:
        """Read no more for now, so that TCP holds the peer back."""

    def resume(self) -> None:
        """Read on."""


class Socket(web.WebSocketResponse[Literal[False]]):
    """A server's WebSocket, which is closed by its connection alone.

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


NOT_SENT = 64 * 1024
"""Bytes that the kernel takes beyond those on their way to the peer. Without this bound it takes 2.7 to 3.8 MiB for a
peer that reads nothing (Linux, loopback) before any of it counts as waiting."""

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
    """Bound the memory and the time that the kernel spends on a peer that stalls.

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
    """Close at once; what was not sent is lost."""
    with contextlib.suppress(Exception):
        transport.abort()


def cork(transport: asyncio.Transport) -> None:
    """Have the kernel keep what is written until `uncork`, so that it leaves in one segment (Linux)."""
    _set_cork(transport, 1)


def uncork(transport: asyncio.Transport) -> None:
    """Have the kernel send what it kept."""
    _set_cork(transport, 0)


def _set_cork(transport: asyncio.Transport, value: int) -> None:
    connected = extra_info(transport, "socket")
    if connected is None or not isinstance(extra_info(transport, "sockname"), tuple) or not hasattr(socket, "TCP_CORK"):
        return
    with contextlib.suppress(Exception):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)
