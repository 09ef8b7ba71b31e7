"""What the kernel is asked to do for a connection's socket, where the platform can do it.

Nothing here raises: a socket may close at any moment, and what a call on a closed one raises differs between loops
(asyncio: OSError; uvloop: ValueError, RuntimeError and AttributeError as well).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from typing import Any

__all__ = [
    "abort",
    "abort_with_reset",
    "asked",
    "buffered_bytes",
    "cork",
    "has_failed",
    "has_left",
    "prepare_socket",
    "uncork",
]

NOT_SENT = 64 * 1024
"""Bytes that the kernel takes beyond what is on its way to the peer. Without this bound it takes 2.7 to 3.8 MiB for
a peer that reads nothing (Linux, loopback) before any of it counts as waiting."""

PATIENCE = 1.4
"""Keepalive intervals after which the kernel gives up a peer that acknowledges nothing."""


def asked(transport: Any, name: str) -> Any:
    """What `get_extra_info` of a transport tells, or None where its socket has gone.

    Args:
        transport: The transport; None for one that has gone.
        name: "socket", "peername" or "sockname".
    """
    try:
        return transport.get_extra_info(name)
    except Exception:
        return None


def prepare_socket(transport: asyncio.Transport, keepalive: float | None) -> None:
    """Bound what a peer that stalls costs the kernel, and for how long.

    Args:
        transport: The connection's transport; one without a TCP socket is left alone.
        keepalive: Seconds between pings, or None.
    """
    connected = asked(transport, "socket")
    if connected is None or not isinstance(asked(transport, "sockname"), tuple):
        return  # a unix socket, or one that has gone
    with contextlib.suppress(Exception):
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        if hasattr(socket, "TCP_USER_TIMEOUT") and keepalive is not None:
            milliseconds = int(keepalive * PATIENCE * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def buffered_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written to a transport and have not left for the kernel."""
    try:
        return transport.get_write_buffer_size()
    except Exception:
        # A TLS transport, of asyncio and of uvloop, that was closed twice has let go of what it would ask.
        return 0


def has_failed(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection or is out of reach, while nobody reads from the socket."""
    if transport.is_closing():
        return True
    connected = asked(transport, "socket")
    try:
        return connected is not None and bool(connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except Exception:
        return True


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its side or reset the connection; works while the socket is not read, too."""
    if transport.is_closing():
        return True
    connected = asked(transport, "socket")
    if connected is None or not hasattr(select, "POLLRDHUP"):
        return False
    try:
        look = select.poll()
        look.register(connected.fileno(), select.POLLRDHUP)
        return bool(look.poll(0))
    except Exception:
        return True


def abort_with_reset(transport: asyncio.Transport) -> None:
    """Close at once, and have the kernel reset the connection instead of trying on for minutes."""
    connected = asked(transport, "socket")
    if connected is not None:
        with contextlib.suppress(Exception):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    abort(transport)


def abort(transport: asyncio.Transport) -> None:
    """Close at once; what was not sent is lost."""
    with contextlib.suppress(Exception):
        transport.abort()


def cork(transport: asyncio.Transport) -> None:
    """Let the kernel keep what is written until `uncork`, so that it leaves in one piece, where it can (Linux)."""
    _set_cork(transport, 1)


def uncork(transport: asyncio.Transport) -> None:
    """Let leave what was kept."""
    _set_cork(transport, 0)


def _set_cork(transport: asyncio.Transport, value: int) -> None:
    connected = asked(transport, "socket")
    if connected is None or not isinstance(asked(transport, "sockname"), tuple) or not hasattr(socket, "TCP_CORK"):
        return
    with contextlib.suppress(Exception):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)
