"""What the kernel is asked to do for a connection's socket, where the platform can do it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

__all__ = ["buffered_bytes", "give_up", "has_failed", "prepare_socket"]

NOT_SENT = 64 * 1024
"""Bytes that the kernel takes beyond what is on its way to the peer. Without this bound it takes 2.7 to 3.8 MiB for
a peer that reads nothing (Linux, loopback) before any of it counts as waiting."""

PATIENCE = 1.4
"""Keepalive intervals after which the kernel gives up a peer that acknowledges nothing."""


def prepare_socket(transport: asyncio.Transport, keepalive: float | None) -> None:
    """Bound what a peer that stalls costs the kernel, and for how long.

    Args:
        transport: The connection's transport; one without a TCP socket is left alone.
        keepalive: Seconds between pings, or None.
    """
    connected = transport.get_extra_info("socket")
    if connected is None or not isinstance(transport.get_extra_info("sockname"), tuple):
        return  # a unix socket
    with contextlib.suppress(OSError):
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        if hasattr(socket, "TCP_USER_TIMEOUT") and keepalive is not None:
            milliseconds = int(keepalive * PATIENCE * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def buffered_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written to a transport and have not left for the kernel."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        # A TLS transport, of asyncio and of uvloop, that was closed twice has let go of what it would ask.
        return 0


def has_failed(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset the connection or is out of reach, while nobody reads from the socket."""
    if transport.is_closing():
        return True
    connected = transport.get_extra_info("socket")
    try:
        return connected is not None and bool(connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except OSError:
        return True


def give_up(transport: asyncio.Transport) -> None:
    """Have the kernel reset the connection when it is closed, instead of trying on for minutes."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
