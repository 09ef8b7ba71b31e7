"""The direct road: aiohttp's parser hands each frame to the connection, and the answer leaves with WELCOME.

It takes 1.5 times as many calls a second at 64 connections as the public road, since no task is woken and nothing is
queued. All that is private of aiohttp stands here; where it is not found, importing this module raises ImportError.
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
from .reader import BATCH, OnFrame, Reader, Socket

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
"""Bytes of a chunk behind which others have their turn: uvloop reads up to 32 full ones, of 250 kB, at a time."""

COMPILED = WebSocketDataQueue.__module__.endswith("_c")
"""Whether aiohttp's parser is the compiled one, whose fields are 0 and None from the start."""


class _DirectReader(WebSocketDataQueue):
    """Stands where aiohttp queues messages, and hands them on instead.

    Until `read_into` begins, while it is held, and where one chunk holds more than a batch, frames are kept and the
    transport reads no more.
    """

    __slots__ = ("_begun", "_done", "_free", "_kept", "_left", "_paused", "_take", "_transport", "_turns")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        # Not aiohttp's own: its queue is never used here, and would be 1 kB of each idle connection.
        if not COMPILED:
            self._size = self._limit = 0
            self._stalled_reader = None
        self._transport = transport
        self._turns = loop
        self._take: OnFrame = _keep_all
        self._kept: deque[tuple[WSMsgType, Any, Any]] | None = None
        self._paused = False
        self._left = 0  # how many more of this batch may be handed on at once
        self._begun = False
        self._free = True
        self._done: asyncio.Future[None] = loop.create_future()

    def read_into(self, take: OnFrame) -> Awaitable[None]:
        self._take, self._begun = take, True
        self._work_off()
        return self._done

    def close(self) -> None:
        self._finish()
        self._take = _keep_all

    def hold(self) -> None:
        self._free = False
        self._left = 0
        self._pause()

    def release(self) -> None:
        if not self._free:
            self._free = True
            self._turns.call_soon(self._work_off)

    # what the parser calls

    def feed_data(self, data: Any, size: int) -> None:
        if self._left > 0:
            self._left -= 1
            if not self._take(data[0], data[1], data[2]):
                self._finish()
        else:
            self._keep(data)

    def feed_eof(self) -> None:
        self._end((WSMsgType.CLOSED, None, None))

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self._end((WSMsgType.ERROR, exc, None))

    # batches

    def begin_chunk(self) -> None:
        if self._begun and self._free and not self._kept:
            self._left = BATCH

    def rest(self) -> None:
        """Read on in the next turn of the loop, even if the chunk held fragments alone, which are not handed on."""
        if not self._paused:
            self._pause()
            self._turns.call_soon(self._work_off)

    def _keep(self, frame: tuple[WSMsgType, Any, Any]) -> None:
        if self._done.done():
            return
        if self._kept is None:
            self._kept = deque()
        self._kept.append(frame)
        if not self._paused:
            self._pause()
            if self._begun and self._free:
                self._turns.call_soon(self._work_off)

    def _end(self, last: tuple[WSMsgType, Any, Any]) -> None:
        # There is no reader left to be held back.
        self._left = 0
        self._keep(last)
        self._free = True
        if self._begun:
            self._work_off()

    def _work_off(self) -> None:
        kept = self._kept
        for _ in range(BATCH):
            if not kept or not self._free or not self._begun:
                break
            frame = kept.popleft()
            if not self._take(frame[0], frame[1], frame[2]):
                self._finish()
                return
        if kept:
            if self._free and self._begun:
                self._turns.call_soon(self._work_off)
        elif self._free:
            self._resume()

    def _finish(self) -> None:
        self._left = 0
        self._begun = False
        self._kept = None
        if not self._done.done():
            self._done.set_result(None)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


def _keep_all(kind: WSMsgType, data: Any, extra: Any) -> bool:
    return True


class _Chunks:
    """Tells the queue where a chunk of the wire begins, and keeps unmasked frames from the parser, which takes them."""

    __slots__ = ("_begin", "_fail", "_failed", "_feed", "_find_unmasked", "_rest", "feed_eof")

    def __init__(self, queue: _DirectReader, parser: WebSocketReader) -> None:
        self._begin = queue.begin_chunk
        self._rest = queue.rest
        self._fail = queue.set_exception
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
                self._rest()
            return self._feed(data)
        self._failed = True
        self._feed(data[:unmasked])
        self._fail(WebSocketError(CloseCode.PROTOCOL_ERROR, "Unmasked frame"))
        return True, b""


class DirectSocket(Socket):
    """A WebSocket whose parser feeds our queue from its first byte on, and whose answer leaves with WELCOME.

    aiohttp's own way to the upgrade and out of it took a fifth of the time of a client that connects, calls and
    leaves, and 1 kB of an idle connection.
    """

    queue: _DirectReader

    def reader(self, transport: asyncio.Transport) -> Reader:
        return self.queue

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
        self.head = _serialize_headers("HTTP/1.1 101 Switching Protocols", self.headers)
        self.queue = _DirectReader(request.transport, request._loop)
        self._parser = WebSocketReader(self.queue, self._max_msg_size, compress=False, decode_text=False)
        request.protocol.set_parser(_Chunks(self.queue, self._parser))  # type: ignore[arg-type]  # it has what is called
        request.protocol.keep_alive(False)
        return writer
