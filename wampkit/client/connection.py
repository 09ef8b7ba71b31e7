"""One connection of a client, from the handshake until it is lost: calls, events, pings and the reader task.

A connection is not repaired; `client.py` replaces it. Each wait for the server is bounded, and the memory that the
server can claim is that of one message and one pong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType
from aiohttp.http import WSMessageNoDecodeText

from ..errors import CallError, ConnectionLost, ProtocolError, quote
from ..protocol import messages
from ..protocol.extensions import PUBLISH, RESTART, SESSION_ID_SUFFIX
from ..protocol.v1 import WampV1
from ..protocol.websocket import PONG_WAIT, CloseCode
from .handshake import WebSocket
from .options import ClientOptions

__all__ = ["ClientConnection", "OnEvent"]

OnEvent = Callable[["ClientConnection", messages.Event, int], None]
"""Called for each EVENT with the connection, the message and its bytes."""

PONG_CHECKS = 8
"""Checks for a pong in that time. After the event loop was blocked, however long, one more check is still to come,
and finds the pong."""


class ClientConnection:
    """One connection, which reads from the moment it is made.

    Args:
        websocket: The open WebSocket.
        options: The client's options.
        on_event: Called for each event.

    Attributes:
        protocol: The session's WAMP state: session id, prefixes, the server's ident.
        welcomed: Done when WELCOME has come, or is not expected.
        lost: Done when the connection has ended; its result is the reason.
        permissions: The server's answer to the login, or None without a login.
        server_restarts: Whether the server has said that it restarts and that unanswered calls have not run.
    """

    def __init__(self, websocket: WebSocket, options: ClientOptions, on_event: OnEvent) -> None:
        loop = asyncio.get_running_loop()
        self.protocol: WampV1 = WampV1("client", welcome=options.welcome)
        self.welcomed: asyncio.Future[None] = loop.create_future()
        if not options.welcome:
            self.welcomed.set_result(None)
        self.lost: asyncio.Future[ConnectionLost] = loop.create_future()
        self.permissions: Any = None
        self.server_restarts: bool = False
        self._websocket = websocket
        self._socket = _socket_of(websocket)
        self._options = options
        self._on_event = on_event
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._writes: set[asyncio.Future[None]] = set()
        self._unanswered_ping: bytes | None = None
        self._ponging: asyncio.Future[None] | None = None
        self._reason: ConnectionLost | None = None
        self._reader = asyncio.ensure_future(self._read())
        self._pinging = asyncio.ensure_future(self._keep_alive())

    @property
    def is_wampkit(self) -> bool:
        """Whether the server is wampkit and has the procedures of `protocol/extensions.py`."""
        return self.protocol.session_id.endswith(SESSION_ID_SUFFIX)

    # ---- sending

    async def send(self, text: bytes) -> None:
        """Send one message; cancelling the caller does not unsend it. Raises ConnectionLost."""
        await self._write(text, WSMsgType.TEXT)

    async def _write(self, data: bytes, kind: WSMsgType) -> None:
        if self.lost.done():
            raise _copy(self.lost.result())
        write = self._start_write(data, kind)
        await asyncio.wait({write})
        error = write.exception()
        if error is not None:
            raise _copy(self.lost.result()) if self.lost.done() else ConnectionLost(_lost_by(error), CloseCode.ABNORMAL)

    def _start_write(self, data: bytes, kind: WSMsgType) -> asyncio.Future[None]:
        # A task of its own: aiohttp's senders share one future, and cancelling one of them would cancel them all.
        write = asyncio.ensure_future(self._websocket.send_frame(data, kind))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        write.add_done_callback(_retrieve)
        return write

    async def call(self, uri: str, *args: Any) -> Any:
        """Call a procedure and wait for its answer. Raises CallError and ConnectionLost."""
        call_id = secrets.token_urlsafe(9)
        answer = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            await self.send(self.protocol.call(call_id, uri, *args))
            return await answer
        finally:
            self._calls.pop(call_id, None)
            _retrieve(answer)

    async def publish(self, message: messages.Publish, *, confirm: bool) -> bool:
        """Send a PUBLISH; with `confirm`, wait for the answer of a wampkit server, and give whether there was one.

        Raises CallError, for a refusal, and ConnectionLost.
        """
        if confirm and self.is_wampkit:
            await self.call(PUBLISH, *self.protocol.publish_elements(message)[1:])
            return True
        await self.send(self.protocol.publish(message))
        return False

    async def round_trip(self, timeout: float) -> bool:
        """Ping the server: whether it answered within `timeout` seconds, and so has read all that was sent before.

        Raises ConnectionLost.
        """
        pong = self._ping()
        try:
            # `_end` cancels the pongs that are waited for, so a lost connection ends this at once.
            await asyncio.wait({pong}, timeout=timeout)
        finally:
            answered = not pong.cancel()
        if self.lost.done():
            raise _copy(self.lost.result())
        return answered

    def _ping(self) -> asyncio.Future[None]:
        payload = os.urandom(8)
        pong = self._pings[payload] = asyncio.get_running_loop().create_future()
        pong.add_done_callback(lambda _: self._pings.pop(payload, None))
        self._start_write(payload, WSMsgType.PING)
        return pong

    async def _keep_alive(self) -> None:
        await self.welcomed
        interval = self._options.keepalive
        if interval is None:
            return
        timeout = interval * PONG_WAIT
        while not self.lost.done():
            await asyncio.sleep(interval)
            pong = self._ping()
            for _ in range(PONG_CHECKS):
                await asyncio.wait({pong}, timeout=timeout / PONG_CHECKS)
                if pong.done():
                    break
            else:
                self.abort(f"the server did not answer a ping within {timeout:g} s")

    # ---- receiving

    async def _read(self) -> None:
        code: int = CloseCode.NORMAL
        try:
            while self._on_frame(await self._websocket.receive()):
                pass
        except ProtocolError as error:
            code = error.code
            who = "the server broke WAMP v1" if self.welcomed.done() else "this is no WAMP v1 server"
            self._set_reason(f"{who}: {error.reason}", code)
        except Exception as error:
            self._set_reason(_lost_by(error))
        finally:
            await self._end(code)

    def _on_frame(self, frame: WSMessageNoDecodeText) -> bool:
        """Handle one frame; False if it is the last."""
        match frame.type:
            case WSMsgType.TEXT:
                if frame.data or self._options.welcome:
                    self._on_message(self.protocol.receive(frame.data), len(frame.data))
            case WSMsgType.PING:
                self._on_ping(frame.data)
            case WSMsgType.PONG:
                pong = self._pings.get(frame.data)
                if pong is not None and not pong.done():
                    pong.set_result(None)
            case WSMsgType.BINARY:
                raise ProtocolError(CloseCode.UNSUPPORTED_DATA, "it sent a binary message")
            case WSMsgType.CLOSE:
                self.server_restarts = frame.data == CloseCode.SERVICE_RESTART and frame.extra == RESTART
                when = "" if self.welcomed.done() else " before WELCOME"
                why = quote(frame.extra) if frame.extra else "no reason given"
                self._set_reason(f"the server closed the connection{when}: {why}", frame.data or CloseCode.NO_STATUS)
                return False
            case WSMsgType.ERROR:
                self._set_reason(f"the server broke the WebSocket protocol: {frame.data}")
                return False
            case _:
                return False
        return True

    def _on_message(self, message: messages.Message, size: int) -> None:
        if isinstance(message, messages.Event):
            self._on_event(self, message, size)
        elif isinstance(message, messages.CallResult | messages.CallFailed):
            answer = self._calls.get(message.id)
            if answer is None or answer.done():
                return  # its caller has timed out or was cancelled
            if isinstance(message, messages.CallResult):
                answer.set_result(message.result)
            else:
                # Some servers, as the reference does, shorten it with this client's own prefixes.
                uri = self.protocol.resolve(message.uri)
                answer.set_exception(CallError(uri, message.description, message.details))
        elif isinstance(message, messages.Welcome) and not self.welcomed.done():
            self.welcomed.set_result(None)

    def _on_ping(self, payload: bytes) -> None:
        # RFC 6455, 5.5.3: of several pings only the latest need be answered. So at most one pong waits to be sent,
        # however many pings come from a server that does not read.
        self._unanswered_ping = payload
        if self._ponging is None or self._ponging.done():
            self._ponging = asyncio.ensure_future(self._pong())

    async def _pong(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while self._unanswered_ping is not None:
                payload, self._unanswered_ping = self._unanswered_ping, None
                await self._write(payload, WSMsgType.PONG)

    # ---- ending

    async def close(self) -> None:
        """Close with a closing handshake, within the close timeout."""
        if not self.lost.done():
            self._set_reason("this client closed the connection", CloseCode.NORMAL)
            # Not by cancelling the reader: aiohttp would take the connection for lost, and not wait for the answer.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._options.close_timeout):
                    await self._websocket.close()
                    await self.wait_closed()
            self._shut_down()
        await self.wait_closed()

    def abort(self, reason: str) -> None:
        """Close the socket without a closing handshake."""
        self._set_reason(reason)
        self._shut_down()

    async def discard(self, reason: str) -> None:
        """Abort a connection and wait until its socket is closed."""
        self.abort(reason)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed, at most the close timeout after the connection was lost."""
        await asyncio.wait({self._reader})

    def _set_reason(self, reason: str, code: int = CloseCode.ABNORMAL) -> None:
        if self._reason is None:
            self._reason = ConnectionLost(reason, code)

    def _shut_down(self) -> None:
        """Shut the socket itself: closing its transport would wait for a server that does not read."""
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):  # the latter is what a closed one raises on uvloop
                self._socket.shutdown(socket.SHUT_RDWR)

    async def _end(self, code: int) -> None:
        """Fail all that waits for the server, then close the socket."""
        reason = self._reason or ConnectionLost("the connection was lost", CloseCode.ABNORMAL)
        self.lost.set_result(reason)
        for answer in [self.welcomed, *self._calls.values()]:
            if not answer.done():
                answer.set_exception(_copy(reason))
                _retrieve(answer)
        for pong in list(self._pings.values()):
            pong.cancel()
        self._pinging.cancel()
        try:
            async with asyncio.timeout(self._options.close_timeout):
                await self._websocket.close(code=code)
        except Exception:
            pass  # the socket is shut below in any case
        finally:
            self._shut_down()
            if isinstance(self._socket, socket.socket):
                self._socket.close()


def _copy(reason: ConnectionLost) -> ConnectionLost:
    """The same loss for another caller: a raised exception remembers where it was raised."""
    return ConnectionLost(reason.reason, reason.code)


def _lost_by(error: BaseException) -> str:
    return f"the connection was lost: {str(error) or type(error).__name__}"


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Retrieve an exception that may have no reader, so that asyncio does not log it."""
    if answer.done() and not answer.cancelled():
        answer.exception()


def _socket_of(websocket: WebSocket) -> TransportSocket | socket.socket | None:
    """The socket of a WebSocket, to shut it down.

    uvloop's object for it cannot be shut down, and keeps its file number after the socket was closed and the number
    was reused: there the result is a duplicate that this connection owns.
    """
    raw = websocket.get_extra_info("socket")
    if raw is None or isinstance(raw, TransportSocket):
        return raw
    try:
        return socket.fromfd(raw.fileno(), raw.family, raw.type)
    except (OSError, ValueError):  # it is closed already
        return None
