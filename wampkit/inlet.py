"""The way in: how the frames of one socket reach its connection, by one of two roads.

The public road is aiohttp's own: a task waits in `socket.receive()` and is woken for each message. The direct road
hands each frame to the connection from within the parser, so that nothing is woken and nothing is queued: 1.5 times
as many calls a second at 64 connections. It needs private names of aiohttp and is taken only on versions that it
was written for; everything else, and `WAMPKIT_INLET=public`, takes the public road. Both are under the same tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

__all__ = ["INLET", "Inlet", "Socket", "Take", "direct_road", "head_of", "inlet_of", "is_handshake", "open_socket"]

Socket = web.WebSocketResponse[Literal[False]]

Take = Callable[[WSMsgType, Any, Any], bool]
"""Takes one frame: its type, data and extra; False once there is nothing more to take."""

BATCH = 32
"""Messages taken from one socket before the others have their turn."""

WRITTEN_FOR = ((3, 14, 5), (3, 15))
"""The aiohttp versions, from the first to before the second, whose private names the direct road knows."""


INLET = "WAMPKIT_INLET"
"""The environment variable that takes the public road in any case, where its value is "public"."""


def direct_road() -> bool:
    """Whether new sockets take the direct road."""
    if os.environ.get(INLET) == "public":
        return False
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    return WRITTEN_FOR[0] <= version < WRITTEN_FOR[1]


def is_handshake(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def open_socket(*, direct: bool, compress: bool, **options: Any) -> Socket:
    """A server's WebSocket with what WAMP needs of it. One that may compress takes the public road in any case."""
    options |= {"compress": compress, "autoclose": False, "autoping": False, "decode_text": False}
    return _DirectSocket(**options) if direct and not compress else _Socket(**options)


class Inlet(Protocol):
    """Where the frames of one socket come from."""

    def read_into(self, take: Take) -> Awaitable[None]:
        """Hand each frame to `take` until it returns False; an ERROR or CLOSED frame is the last."""

    def close(self) -> None:
        """Hand on nothing any more."""

    def hold(self) -> None:
        """Hand on nothing more for now, so that TCP holds the peer back."""

    def release(self) -> None:
        """Go on."""


def inlet_of(socket: Socket, transport: asyncio.Transport) -> Inlet:
    """The way in that an upgraded socket has."""
    return socket.queue if isinstance(socket, _DirectSocket) else _PublicInlet(socket, transport)


def head_of(socket: Socket) -> bytes:
    """What must leave before anything else: the answer to the handshake, if it has not left."""
    return socket.head if isinstance(socket, _DirectSocket) else b""


class _Socket(web.WebSocketResponse[Literal[False]]):
    """A WebSocket that is closed by its connection alone."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written when aiohttp asks for it."""


HELD_LOOK = 0.1
"""Seconds between two looks at whether a connection that is held back was lost."""


class _PublicInlet(Inlet):
    """The public road: aiohttp queues the frames and pauses the transport when it has many."""

    __slots__ = ("_free", "_socket", "_transport")

    def __init__(self, socket: Socket, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._free = asyncio.Event()
        self._free.set()

    async def read_into(self, take: Take) -> None:
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


# ---- the direct road: all that is private of aiohttp stands below


from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader  # noqa: E402
from aiohttp.http_writer import _serialize_headers  # noqa: E402

COMPILED = WebSocketDataQueue.__module__.endswith("_c")
"""Whether aiohttp's parser is the compiled one, whose fields are 0 and None from the start."""


class _Queue(WebSocketDataQueue):
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
        self._take: Take = _keep_all
        self._kept: deque[tuple[WSMsgType, Any, Any]] | None = None
        self._paused = False
        self._left = 0  # how many more of this batch may be handed on at once
        self._begun = False
        self._free = True
        self._done: asyncio.Future[None] = loop.create_future()

    def read_into(self, take: Take) -> Awaitable[None]:
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
        # Nobody is left to be held back.
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
    """Tells the queue where a chunk of the wire begins."""

    __slots__ = ("_begin", "_feed", "feed_eof")

    def __init__(self, queue: _Queue, parser: WebSocketReader) -> None:
        self._begin = queue.begin_chunk
        self._feed = parser.feed_data
        self.feed_eof = parser.feed_eof

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._begin()
        return self._feed(data)


class _DirectSocket(_Socket):
    """A WebSocket whose parser feeds our queue from its first byte on, and whose answer leaves with WELCOME.

    aiohttp's own way to the upgrade and out of it took a fifth of the time of a client that connects, calls and
    leaves, and 1 kB of an idle connection.
    """

    queue: _Queue
    head = b""

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
        self.queue = _Queue(request.transport, request._loop)
        self._parser = WebSocketReader(self.queue, self._max_msg_size, compress=False, decode_text=False)
        request.protocol.set_parser(_Chunks(self.queue, self._parser))  # type: ignore[arg-type]  # it has what is called
        request.protocol.keep_alive(False)
        return writer
