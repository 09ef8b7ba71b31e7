"""The way in: how the frames of one socket reach its connection, by one of two roads.

The public road is aiohttp's own: a task waits in `socket.receive()` and is woken for each message. The direct road
hands each frame to the connection from within the parser, so that nothing is woken and nothing is queued: 1.5 times
as many calls a second at 64 connections. It needs private names of aiohttp and is taken only on versions that it
was written for; everything else, and `WAMPKIT_INLET=public`, takes the public road. Both are under the same tests.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
from aiohttp import WSMsgType, web

__all__ = ["Take", "direct_road", "open_socket", "read"]

Socket = web.WebSocketResponse[Literal[False]]

Take = Callable[[WSMsgType, Any, Any], bool]
"""Takes one frame: its type, data and extra; False once there is nothing more to take."""

BATCH = 32
"""Messages taken from one socket before the others have their turn."""

WRITTEN_FOR = ((3, 14, 5), (3, 15))
"""The aiohttp versions, from the first to before the second, whose private names the direct road knows."""


def direct_road() -> bool:
    """Whether new sockets take the direct road."""
    if os.environ.get("WAMPKIT_INLET") == "public":
        return False
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    return WRITTEN_FOR[0] <= version < WRITTEN_FOR[1]


def open_socket(**options: Any) -> Socket:
    """A server's WebSocket with what WAMP needs of it."""
    options |= {"compress": False, "autoclose": False, "autoping": False, "decode_text": False}
    return _DirectSocket(**options) if direct_road() else web.WebSocketResponse(**options)


async def read(socket: Socket, take: Take) -> None:
    """Hand each frame to `take` until it returns False; an ERROR or CLOSED frame is the last."""
    if isinstance(socket, _DirectSocket):
        await socket.queue.read_into(take)
        return
    taken = 0
    while True:
        taken += 1
        if taken % BATCH == 0:
            await asyncio.sleep(0)
        received = await socket.receive()
        if not take(received.type, received.data, received.extra):
            return


# ---- the direct road: all that is private of aiohttp stands below


from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader  # noqa: E402


class _Queue(WebSocketDataQueue):
    """Stands where aiohttp queues messages, and hands them on instead.

    Until `read_into` begins, and where one chunk holds more than a batch, frames are kept and reading is paused.
    """

    def prepare(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._turns = loop
        self._take: Take | None = None
        self._kept: deque[tuple[WSMsgType, Any, Any]] = deque()
        self._held = False
        self._taken = 0
        self._done: asyncio.Future[None] = loop.create_future()

    async def read_into(self, take: Take) -> None:
        self._take = take
        self._work_off()
        try:
            await self._done
        finally:
            self._take = None
            self._kept.clear()

    # what the parser calls

    def feed_data(self, data: Any, size: int) -> None:
        if self._take is None or self._kept or self._taken >= BATCH:
            self._keep(data)
        else:
            self._taken += 1
            self._hand_on(data)

    def feed_eof(self) -> None:
        self._end(None)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self._end(exc)

    def _end(self, error: BaseException | None) -> None:
        kind = WSMsgType.CLOSED if error is None else WSMsgType.ERROR
        if self._take is None or self._kept:
            self._keep((kind, error, None))
        else:
            self._hand_on((kind, error, None))

    # batches

    def begin_chunk(self) -> None:
        self._taken = 0

    def _hand_on(self, data: Any) -> None:
        if self._done.done():
            return
        if self._take is not None and not self._take(data[0], data[1], data[2]):
            self._done.set_result(None)

    def _keep(self, data: Any) -> None:
        self._kept.append(data)
        if not self._held:
            self._held = True
            if not self._transport.is_closing():
                self._transport.pause_reading()
            if self._take is not None:
                self._turns.call_soon(self._work_off)

    def _work_off(self) -> None:
        for _ in range(BATCH):
            if not self._kept or self._take is None:
                break
            self._hand_on(self._kept.popleft())
        if self._kept:
            self._turns.call_soon(self._work_off)
        elif self._held:
            self._held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


class _Chunks:
    """Tells the queue where a chunk of the wire begins."""

    __slots__ = ("_begin", "_feed", "feed_eof")

    def __init__(self, queue: _Queue, parser: WebSocketReader) -> None:
        self._begin = queue.begin_chunk
        self._feed = parser.feed_data
        self.feed_eof = parser.feed_eof

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._begin()
        return self._feed(data)


class _DirectSocket(web.WebSocketResponse[Literal[False]]):
    """A WebSocket whose parser feeds our queue from its first byte on."""

    queue: _Queue

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        loop, transport = self._loop, request.transport
        assert loop is not None
        if transport is None:
            raise ConnectionResetError("the connection was lost")
        self._ws_protocol = protocol
        self._writer = writer
        self.queue = self._reader = _Queue(request.protocol, 2**16, loop=loop)
        self.queue.prepare(transport, loop)
        self._parser = WebSocketReader(self.queue, self._max_msg_size, compress=False, decode_text=False)
        request.protocol.set_parser(_Chunks(self.queue, self._parser))  # type: ignore[arg-type]  # it has what is called
        request.protocol.keep_alive(False)
