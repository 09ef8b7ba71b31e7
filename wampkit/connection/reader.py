"""The way in: how the frames of one socket reach its connection by the public road, which is aiohttp's own.

A task waits in `socket.receive()` and is woken for each message. `direct.py` has the other road, and `roads.py` says
which is taken. Both are under the same tests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from aiohttp import WebSocketError, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from ..protocol.websocket import CloseCode
from .sockets import cork, uncork

__all__ = ["BATCH", "OnFrame", "Reader", "Socket", "describe_broken", "is_handshake"]

OnFrame = Callable[[WSMsgType, Any, Any], bool]
"""Takes one frame: its type, data and extra; False once there is nothing more to take."""

BATCH = 32
"""Messages taken from one socket before the others have their turn."""


def is_handshake(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


class Reader(Protocol):
    """Where the frames of one socket come from."""

    def read_into(self, take: OnFrame) -> Awaitable[None]:
        """Hand each frame to `take` until it returns False; an ERROR or CLOSED frame is the last."""

    def close(self) -> None:
        """Hand on nothing any more."""

    def hold(self) -> None:
        """Hand on nothing more for now, so that TCP holds the peer back."""

    def release(self) -> None:
        """Go on."""


HELD_LOOK = 0.1
"""Seconds between two looks at whether a connection that is held back was lost."""


class _QueuedReader(Reader):
    """The public road: aiohttp queues the frames and pauses the transport when it has many."""

    __slots__ = ("_free", "_socket", "_transport")

    def __init__(self, socket: Socket, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._free = asyncio.Event()
        self._free.set()

    async def read_into(self, take: OnFrame) -> None:
        taken = 0
        while True:
            taken += 1
            if taken % BATCH == 0:
                await asyncio.sleep(0)
            while not self._free.is_set() and not self._transport.is_closing():
                # Nobody is told when a socket is lost that nobody receives from.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._free.wait(), HELD_LOOK)
            received = await self._socket.receive()
            if not take(received.type, received.data, received.extra):
                return

    def close(self) -> None:
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()


# ---- what was wrong with a frame


_PLAIN_WORDS = {
    "Continuation frame for non started": "a continuation of no message",
    "The opcode in non-fin": "a message that begins before the last one has ended",
    "Compressed message has too many": "a compressed message of too many parts",
    "Decompressed message exceeds": "a compressed message that is too long when it is inflated",
    "Invalid close code": "a close code that may not be sent",
    "Invalid close frame": "a close frame of one byte",
    "Invalid UTF-8": "a close reason that is not UTF-8",
    "Unexpected opcode": "an unknown opcode",
    "Received frame with non-zero reserved bits": "reserved bits that mean nothing here",
    "Received fragmented control frame": "a control frame in fragments",
    "Control frame payload": "a control frame of more than 125 bytes",
    "Message size": "a message that is too long",
    "Unmasked frame": "an unmasked frame; clients mask what they send",
}
"""What aiohttp says, by how it begins, in words for those who wrote the client."""


def describe_broken(error: object) -> tuple[int, str] | None:
    """The close code and the reason for a frame that could not be read, or None where the connection was lost."""
    if isinstance(error, WebSocketError):
        text = str(error)
        words = (plain for begin, plain in _PLAIN_WORDS.items() if text.startswith(begin))
        return int(error.code), next(words, "it breaks RFC 6455")
    if error is None or isinstance(error, OSError) or not isinstance(error, Exception):
        return None
    # zlib's error, or that of what aiohttp uses in its place.
    return CloseCode.INVALID_DATA, "compressed data that cannot be inflated"


class Socket(web.WebSocketResponse[Literal[False]]):
    """A server's WebSocket on the public road, which is closed by its connection alone.

    Attributes:
        head: What must leave before anything else: the answer to the handshake, if it has not left.
    """

    head = b""

    def reader(self, transport: asyncio.Transport) -> Reader:
        """The way in that it has once it is upgraded."""
        return _QueuedReader(self, transport)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        transport = request.transport
        if transport is None or self.prepared:
            return await super().prepare(request)
        # Clients that read once want the answer and WELCOME in one piece.
        cork(transport)
        try:
            return await super().prepare(request)
        except BaseException:
            uncork(transport)
            raise

    async def close(self, **options: Any) -> bool:
        """Leave the close to the connection, which says why and does not wait for the peer without bound."""
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written when aiohttp asks for it."""
