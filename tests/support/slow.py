"""What the tests of slow and dead peers share: the limits under test, and what a client costs the server."""

from __future__ import annotations

import socket
import struct
from typing import Any, Literal

from wampkit import Connection, Limits

__all__ = ["MIB", "cost", "limits"]

MIB = 1024 * 1024

_SO_MEMINFO, _FIELDS, _WMEM_QUEUED = 55, 9, 5


def limits(*, queue: int = MIB, slow_reader: Literal["close", "drop"] = "close") -> dict[str, Any]:
    """The options of an app with these limits: the one place that knows what they are called."""
    return {"limits": Limits(queue=queue, slow_reader=slow_reader)}


def cost(connection: Connection) -> int:
    """The bytes that a client who reads slowly costs the server: what waits for it here, and the kernel's memory for
    what it has taken over and not got rid of."""
    transport = connection.request.transport
    if transport is None or transport.is_closing():
        return 0
    info = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _FIELDS)
    return connection.unsent + int(struct.unpack(f"{_FIELDS}I", info)[_WMEM_QUEUED])
