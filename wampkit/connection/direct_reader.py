"""The direct reader: aiohttp's parser hands each frame to the connection, and the 101 response leaves with WELCOME.

It allows 1.5 times as many calls a second at 64 connections as the queued reader, since no task is woken and nothing is
queued. All private names of aiohttp stand here; where one is missing, importing this module raises ImportError.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any

from aiohttp import WebSocketError, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import _serialize_headers
from aiohttp.web_protocol import RequestHandler

from ..protocol.websocket import CloseCode, FrameHeaders
from .sockets import FRAME_BATCH, OnFrame, Reader, Socket

__all__ = ["DirectSocket"]

_USED = {
    web.WebSocketResponse: ("_handshake", "force_close", "set_status"),
    web.Request: ("_prepare_hook",),
    RequestHandler: ("set_parser", "keep_alive"),
    WebSocketReader: ("feed_data", "feed_eof"),
    WebSocketDataQueue: ("feed_data", "feed_eof", "set_exception"),
}

for _class, _names in _USED.items():
    for _name in _names:
        if not hasattr(_class, _name):
            raise ImportError(f"aiohttp's {_class.__name__} has no {_name}")

LARGE = 64 * 1024
"""Bytes of a chunk after which other callbacks have their turn: uvloop reads up to 32 chunks of 250 kB at a time."""

COMPILED = WebSocketDataQueue.__module__.endswith("_c")
"""Whether aiohttp's parser is the compiled one, whose fields are 0 and None from the start."""


class _DirectReader(WebSocketDataQueue):
    """Replaces aiohttp's queue of frames and hands each frame to the connection.

    Until `read_into` is called, while it is paused, and where one chunk holds more than a batch, frames are kept and
    the transport is paused.
    """

    __slots__ = (
        "_batch_left",
        "_done",
        "_event_loop",
        "_kept",
        "_may_read",
        "_on_frame",
        "_paused",
        "_started",
        "_transport",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        # Not aiohttp's own: its queue is never used here, and would be 1 kB of each idle connection.
        if not COMPILED:
            self._size = self._limit = 0
            self._stalled_reader = None
        self._transport = transport
        self._event_loop = loop
        self._on_frame: OnFrame = _ignore
        self._kept: deque[tuple[WSMsgType, Any, Any]] | None = None
        self._paused = False
        self._batch_left = 0  # frames of this batch that may still be handed on at once
        self._started = False
        self._may_read = True
        self._done: asyncio.Future[None] = loop.create_future()

    def read_into(self, on_frame: OnFrame) -> Awaitable[None]:
        self._on_frame, self._started = on_frame, True
        self._hand_on_kept()
        return self._done

    def close(self) -> None:
        self._finish()
        self._on_frame = _ignore

    def pause(self) -> None:
        self._may_read = False
        self._batch_left = 0
        self._pause_transport()

    def resume(self) -> None:
        if not self._may_read:
            self._may_read = True
            self._event_loop.call_soon(self._hand_on_kept)

    # called by the parser

    def feed_data(self, data: Any, size: int) -> None:
        if self._batch_left > 0:
            self._batch_left -= 1
            if not self._on_frame(data[0], data[1], data[2]):
                self._finish()
        else:
            self._keep(data)

    def feed_eof(self) -> None:
        self._end((WSMsgType.CLOSED, None, None))

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self._end((WSMsgType.ERROR, exc, None))

    # called by _CheckedParser

    def begin_chunk(self) -> None:
        if self._started and self._may_read and not self._kept:
            self._batch_left = FRAME_BATCH

    def end_turn(self) -> None:
        """Read on in the next turn of the loop, also if the chunk held fragments alone, which are not handed on."""
        if not self._paused:
            self._pause_transport()
            self._event_loop.call_soon(self._hand_on_kept)

    def _keep(self, frame: tuple[WSMsgType, Any, Any]) -> None:
        if self._done.done():
            return
        if self._kept is None:
            self._kept = deque()
        self._kept.append(frame)
        if not self._paused:
            self._pause_transport()
            if self._started and self._may_read:
                self._event_loop.call_soon(self._hand_on_kept)

    def _end(self, last: tuple[WSMsgType, Any, Any]) -> None:
        # No more frames can come: a pause would only delay this one.
        self._batch_left = 0
        self._keep(last)
        self._may_read = True
        if self._started:
            self._hand_on_kept()

    def _hand_on_kept(self) -> None:
        kept = self._kept
        for _ in range(FRAME_BATCH):
            if not kept or not self._may_read or not self._started:
                break
            frame = kept.popleft()
            if not self._on_frame(frame[0], frame[1], frame[2]):
                self._finish()
                return
        if kept:
            if self._may_read and self._started:
                self._event_loop.call_soon(self._hand_on_kept)
        elif self._may_read:
            self._resume_transport()

    def _finish(self) -> None:
        self._batch_left = 0
        self._started = False
        self._kept = None
        if not self._done.done():
            self._done.set_result(None)

    def _pause_transport(self) -> None:
        if not self._paused:
            self._paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def _resume_transport(self) -> None:
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


def _ignore(kind: WSMsgType, data: Any, extra: Any) -> bool:
    return True


class _CheckedParser:
    """Begins a batch with each chunk of bytes, and rejects unmasked frames, which aiohttp's parser would take."""

    __slots__ = ("_begin", "_end_turn", "_fail", "_failed", "_feed", "_find_unmasked", "feed_eof")

    def __init__(self, reader: _DirectReader, parser: WebSocketReader) -> None:
        self._begin = reader.begin_chunk
        self._end_turn = reader.end_turn
        self._fail = reader.set_exception
        self._feed = parser.feed_data
        self._find_unmasked = FrameHeaders().find_unmasked
        self._failed = False
        self.feed_eof = parser.feed_eof

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if self._failed:
            return True, b""
        self._begin()
        unmasked = self._find_unmasked(data)
        if unmasked < 0:
            if len(data) >= LARGE:
                self._end_turn()
            return self._feed(data)
        self._failed = True
        self._feed(data[:unmasked])
        self._fail(WebSocketError(CloseCode.PROTOCOL_ERROR, "Unmasked frame"))
        return True, b""


class DirectSocket(Socket):
    """A WebSocket with the direct reader, whose 101 response leaves with WELCOME.

    aiohttp's own upgrade and close took a fifth of the time of a client that connects, calls and leaves, and 1 kB of
    each idle connection.
    """

    direct_reader: _DirectReader

    def reader(self, transport: asyncio.Transport) -> Reader:
        return self.direct_reader

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        if self._payload_writer is not None:
            return self._payload_writer
        headers, self._ws_protocol, _, _ = self._handshake(request)
        writer = self._payload_writer = request._payload_writer
        self.set_status(101)
        self.headers.update(headers)
        self.force_close()
        await request._prepare_hook(self)
        if request.transport is None:
            raise ConnectionResetError("the connection was lost")
        self.pending_response: bytes = _serialize_headers("HTTP/1.1 101 Switching Protocols", self.headers)
        self.direct_reader = _DirectReader(request.transport, request._loop)
        self._parser = WebSocketReader(self.direct_reader, self._max_msg_size, compress=False, decode_text=False)
        request.protocol.set_parser(_CheckedParser(self.direct_reader, self._parser))  # type: ignore[arg-type]  # it has what is called
        request.protocol.keep_alive(False)
        return writer
