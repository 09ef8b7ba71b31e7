"""Opens the WebSocket of a handshake, with the direct reader where aiohttp's version allows it, else the queued one.

With the queued reader aiohttp queues the frames, and a task in `socket.receive()` is woken for each. It uses only
public names of aiohttp. Both readers pass the same tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from functools import cache
from typing import Any

import aiohttp
from aiohttp import WebSocketError, web
from aiohttp.abc import AbstractStreamWriter

from ..protocol.websocket import CloseCode
from ..telemetry.logs import logger_of
from .sockets import FRAME_BATCH, OnFrame, Reader, Socket, cork, uncork

__all__ = ["READER_VARIABLES", "can_read_directly", "explain_broken_frame", "open_socket"]

logger: logging.Logger = logger_of(__name__)

DIRECT_VERSIONS = ((3, 14, 5), (3, 15))
"""The aiohttp versions, from the first to before the second, whose private names the direct reader may use."""

READER_VARIABLES = ("WAMPKIT_READER", "WAMPKIT_INLET")
"""The environment variable that chooses the reader, and its old name; "queued" (once "public") forces that one."""


def can_read_directly() -> bool:
    """Whether to open sockets with the direct reader; logs why aiohttp does not allow it."""
    chosen = (os.environ.get(name) for name in READER_VARIABLES)
    return (
        not any(value in ("queued", "public") for value in chosen) and _direct_socket(aiohttp.__version__) is not None
    )


@cache
def _direct_socket(version: str) -> type[Socket] | None:
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    first, before = (".".join(map(str, each)) for each in DIRECT_VERSIONS)
    if DIRECT_VERSIONS[0] <= numbers < DIRECT_VERSIONS[1]:
        try:
            from .direct_reader import DirectSocket

            return DirectSocket
        except (ImportError, AttributeError, TypeError) as error:
            reason = str(error)
    else:
        reason = f"wampkit knows aiohttp {first} and later, before {before}, from the inside"
    logger.warning("with aiohttp %s frames take a slower way in, for about a third fewer calls: %s", version, reason)
    return None


def open_socket(directly: bool, *, compress: bool, **options: Any) -> Socket:
    """A WebSocket that is not upgraded yet; one that may compress always has the queued reader."""
    options |= {"compress": compress, "autoclose": False, "autoping": False, "decode_text": False}
    direct = _direct_socket(aiohttp.__version__) if directly and not compress else None
    return (direct or QueuedSocket)(**options)


# ---- the queued reader


LOST_POLL = 0.1
"""Seconds between two checks whether a connection was lost while reading is paused."""


class _QueuedReader(Reader):
    """Receives the frames that aiohttp has queued; aiohttp pauses the transport when it has many."""

    __slots__ = ("_resumed", "_socket", "_transport")

    def __init__(self, socket: Socket, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._resumed = asyncio.Event()
        self._resumed.set()

    async def read_into(self, on_frame: OnFrame) -> None:
        count = 0
        while True:
            count += 1
            if count % FRAME_BATCH == 0:
                await asyncio.sleep(0)
            while not self._resumed.is_set() and not self._transport.is_closing():
                # aiohttp does not report a lost socket while nothing is received from it.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._resumed.wait(), LOST_POLL)
            frame = await self._socket.receive()
            if not on_frame(frame.type, frame.data, frame.extra):
                return

    def close(self) -> None:
        self._resumed.set()

    def pause(self) -> None:
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()


class QueuedSocket(Socket):
    """A WebSocket with the queued reader."""

    def reader(self, transport: asyncio.Transport) -> Reader:
        return _QueuedReader(self, transport)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        transport = request.transport
        if transport is None or self.prepared:
            return await super().prepare(request)
        # Clients that read once want the response and WELCOME in one piece.
        cork(transport)
        try:
            return await super().prepare(request)
        except BaseException:
            uncork(transport)
            raise


# ---- broken frames


_EXPLAINED = {
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
"""Explanations for the author of a client, by the beginning of aiohttp's message."""


def explain_broken_frame(error: object) -> tuple[int, str] | None:
    """The close code and the reason for a frame that could not be read, or None where the connection was lost."""
    if isinstance(error, WebSocketError):
        text = str(error)
        words = (plain for begin, plain in _EXPLAINED.items() if text.startswith(begin))
        return int(error.code), next(words, "it breaks RFC 6455")
    if error is None or isinstance(error, OSError) or not isinstance(error, Exception):
        return None
    # zlib's error, or that of the library that aiohttp uses in its place.
    return CloseCode.INVALID_DATA, "compressed data that cannot be inflated"
