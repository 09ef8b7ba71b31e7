"""One connection of a client: the handshake, WELCOME, calls in flight, and the reader, until it is lost.

A link is never repaired: `client.py` makes a new one. Nothing here waits for a peer without bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import aiohttp
from aiohttp import WSMsgType

from . import messages
from .errors import CallError, ConnectionLost, HandshakeRefused, ProtocolError
from .protocol import SUBPROTOCOL, Protocol

__all__ = ["Link", "LinkOptions"]

Socket = aiohttp.ClientWebSocketResponse[Literal[False]]
OnEvent = Callable[[str, Any], None]

PONG_WAIT = 0.5
"""The share of the keepalive interval in which the server must answer a ping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """What every connection of a client has in common; see `connect` for what each means."""

    origin: str | None = None
    ssl: ssl.SSLContext | bool = True
    open_timeout: float = 10.0
    close_timeout: float = 1.0
    keepalive: float | None = 25.0
    max_message_size: int = 16 * 1024 * 1024
    headers: Mapping[str, str] = field(default_factory=dict)


class Link:
    """A welcomed connection.

    Attributes:
        protocol: The session's WAMP state: session id, prefixes, the server's ident.
        lost: Done when the connection has ended, with the reason as its result.
    """

    def __init__(self, ws: Socket, options: LinkOptions, on_event: OnEvent) -> None:
        self.protocol = Protocol("client")
        self.lost: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()
        self._ws = ws
        self._options = options
        self._on_event = on_event
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._writes: set[asyncio.Future[None]] = set()
        self._reader: asyncio.Future[None] | None = None
        self._clock: asyncio.Future[None] | None = None
        self._reason: ConnectionLost | None = None

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str, options: LinkOptions, on_event: OnEvent) -> Link:
        """Connect and wait for WELCOME.

        Raises:
            HandshakeRefused: The server answered with an HTTP error.
            ConnectionLost: There is no server, or it did not welcome us in time.
            ValueError: The URL is none.
        """
        try:
            async with asyncio.timeout(options.open_timeout):
                ws = await _handshake(session, url, options)
                link = cls(ws, options, on_event)
                try:
                    await link._wait_for_welcome()
                except BaseException:
                    link._shut()
                    await link._free()
                    raise
        except TimeoutError:
            raise ConnectionLost(f"{url}: no WELCOME within {options.open_timeout:g} s") from None
        link._start()
        return link

    async def _wait_for_welcome(self) -> None:
        while not self.protocol.session:
            received = await self._ws.receive()
            if received.type is WSMsgType.PING:
                await self._ws.pong(received.data)
            elif received.type is WSMsgType.TEXT:
                try:
                    self.protocol.receive(received.data)
                except ProtocolError as error:
                    raise ConnectionLost(f"this is no WAMP v1 server: {error.reason}", error.code) from None
            elif received.type is not WSMsgType.PONG:
                raise ConnectionLost("the server closed the connection before WELCOME", self._ws.close_code)

    def _start(self) -> None:
        self._reader = asyncio.ensure_future(self._read())
        if self._options.keepalive is not None:
            self._clock = asyncio.ensure_future(self._keep_alive(self._options.keepalive))

    def _keep(self, write: asyncio.Future[None]) -> asyncio.Future[None]:
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return write

    # ---- out

    async def send(self, text: bytes) -> None:
        """Send one message. Raises ConnectionLost."""
        await self._write(text, WSMsgType.TEXT)

    async def _write(self, data: bytes, kind: WSMsgType) -> None:
        if self.lost.done():
            raise self.lost.result()
        # Shielded: aiohttp's senders share one future, and cancelling one of them cancels them all.
        try:
            await asyncio.shield(self._keep(asyncio.ensure_future(self._ws.send_frame(data, kind))))
        except (ConnectionError, RuntimeError) as error:
            raise ConnectionLost(f"the connection was lost: {error}", 1006) from None

    async def call(self, uri: str, *args: Any) -> Any:
        """Call a procedure and wait for its answer. Raises CallError and ConnectionLost."""
        if self.lost.done():
            raise self.lost.result()
        call_id = secrets.token_urlsafe(9)
        answer = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            await self.send(self.protocol.call(call_id, uri, *args))
            return await answer
        finally:
            self._calls.pop(call_id, None)
            _seen(answer)

    async def round_trip(self, patience: float) -> bool:
        """Whether a ping came back within `patience` seconds: what was sent before it has been read then."""
        token = os.urandom(8)
        pong = self._pings[token] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience):
                await self._write(token, WSMsgType.PING)
                await pong
        except TimeoutError:
            return False
        finally:
            self._pings.pop(token, None)
            _seen(pong)
        return True

    # ---- in

    async def _read(self) -> None:
        try:
            while True:
                received = await self._ws.receive()
                match received.type:
                    case WSMsgType.TEXT:
                        self._take(received.data)
                    case WSMsgType.PING:
                        self._keep(asyncio.ensure_future(self._pong(received.data)))
                    case WSMsgType.PONG:
                        self._take_pong(received.data)
                    case WSMsgType.BINARY:
                        raise ProtocolError(1003, "a binary message")
                    case WSMsgType.CLOSE:
                        self._give_reason(f"the server closed the connection: {received.extra or 'no reason given'}")
                        self._closed_by_server(received.data)
                        break
                    case WSMsgType.ERROR:
                        self._give_reason(f"the server broke the WebSocket protocol: {received.data}")
                        break
                    case _:
                        break
        except ProtocolError as error:
            self._give_reason(f"the server broke WAMP v1: {error.reason}", error.code)
        except Exception as error:
            self._give_reason(f"the connection was lost: {error or type(error).__name__}")
        finally:
            await self._end()

    def _take(self, data: bytes) -> None:
        message = self.protocol.receive(data)
        if isinstance(message, messages.Event):
            self._on_event(message.uri, message.event)
        elif isinstance(message, messages.CallResult | messages.CallFailed):
            # An answer to nobody comes late: its call has been given up.
            answer = self._calls.get(message.id)
            if answer is None or answer.done():
                return
            if isinstance(message, messages.CallResult):
                answer.set_result(message.result)
            else:
                answer.set_exception(CallError(message.uri, message.description, message.details))

    async def _pong(self, payload: bytes) -> None:
        with contextlib.suppress(ConnectionLost):
            await self._write(payload, WSMsgType.PONG)

    def _take_pong(self, payload: bytes) -> None:
        pong = self._pings.get(payload)
        if pong is not None and not pong.done():
            pong.set_result(None)

    async def _keep_alive(self, interval: float) -> None:
        while not self.lost.done():
            await asyncio.sleep(interval)
            try:
                answered = await self.round_trip(interval * PONG_WAIT)
            except ConnectionLost:
                return
            if not answered:
                self.cut(f"the server did not answer a ping within {interval * PONG_WAIT:g} s")

    # ---- the end

    async def close(self) -> None:
        """Close politely, within the close timeout."""
        self._give_reason("this client closed the connection", 1000)
        try:
            async with asyncio.timeout(self._options.close_timeout):
                await self._write(b"\x03\xe8", WSMsgType.CLOSE)
                await asyncio.shield(self.lost)
        except (TimeoutError, ConnectionLost):
            self._shut()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def cut(self, reason: str) -> None:
        """Cut the wire without a closing handshake."""
        self._give_reason(reason)
        self._shut()

    def _closed_by_server(self, code: int | None) -> None:
        if self._reason is not None and self._reason.code == 1006:
            self._reason.code = code or 1005

    def _give_reason(self, reason: str, code: int = 1006) -> None:
        if self._reason is None:
            self._reason = ConnectionLost(reason, code)

    def _shut(self) -> None:
        """Shut the socket itself: closing a transport politely would wait for a peer that does not read."""
        wire = self._ws.get_extra_info("socket")
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)

    async def _end(self) -> None:
        reason = self._reason or ConnectionLost("the connection was lost", 1006)
        if not self.lost.done():
            self.lost.set_result(reason)
        for answer in [*self._calls.values(), *self._pings.values()]:
            if not answer.done():
                answer.set_exception(ConnectionLost(reason.reason, reason.code))
        await self._free()

    async def _free(self) -> None:
        """Let aiohttp free its side; it may wait for the peer, so only for a while."""
        try:
            async with asyncio.timeout(self._options.close_timeout):
                await self._ws.close()
        except Exception:
            self._shut()
        if self._clock is not None:
            self._clock.cancel()


def _status(error: aiohttp.WSServerHandshakeError) -> str:
    try:
        return f"HTTP {error.status} {HTTPStatus(error.status).phrase}"
    except ValueError:
        return f"HTTP {error.status}"


def _seen(answer: asyncio.Future[Any]) -> None:
    """Look at a failed answer, so that asyncio does not warn that nobody did."""
    if answer.done() and not answer.cancelled():
        answer.exception()


async def _handshake(session: aiohttp.ClientSession, url: str, options: LinkOptions) -> Socket:
    try:
        return await session.ws_connect(
            url,
            protocols=(SUBPROTOCOL,),
            headers=options.headers,
            origin=options.origin,
            ssl=options.ssl,
            autoclose=False,
            autoping=False,
            compress=0,
            decode_text=False,
            max_msg_size=options.max_message_size,
        )
    except aiohttp.WSServerHandshakeError as error:
        raise HandshakeRefused(f"{url}: the server refused the handshake: {_status(error)}", error.status) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise ValueError(f"{url!r} is no WebSocket URL; write ws://host:port/path") from error
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno
        raise ConnectionLost(f"{url}: {os.strerror(number) if number else error.os_error}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLost(f"{url}: {error or type(error).__name__}") from error
