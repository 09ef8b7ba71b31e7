"""One connection of a client: the handshake, WELCOME, calls in flight, and the reader, until it is lost.

A link is never repaired: `client.py` makes a new one. Nothing here waits for a peer without bound, and nothing that
a peer sends makes it hold more than one message and one answer to a ping.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
from aiohttp import WSMsgType
from aiohttp.http import WSMessageNoDecodeText

from ..errors import CallError, ConnectionLost, HandshakeRefused, ProtocolError, quote
from ..protocol import messages
from ..protocol.extensions import RESTART, SESSION_ID_SUFFIX
from ..protocol.v1 import SUBPROTOCOL, WampV1

__all__ = ["Link", "LinkOptions", "OnEvent"]

Socket = aiohttp.ClientWebSocketResponse[Literal[False]]

OnEvent = Callable[["Link", messages.Event, int], None]
"""Told of an event: the connection on which it came, its message, and the bytes of that."""

SERVICE_RESTART = 1012

PONG_WAIT = 0.4
"""The share of the keepalive interval in which the server must answer a ping."""

PONG_LOOKS = 8
"""How often is looked for a pong in that time. A loop that was held up is late by one look, however long it was
held up, and finds the pong at the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """What every connection of a client has in common; see `connect` for what each means."""

    origin: str | None = None
    ssl: ssl.SSLContext | bool = True
    open_timeout: float = 10.0
    close_timeout: float = 1.0
    keepalive: float | None = 25.0
    max_message_size: int = 4 * 1024 * 1024
    welcome: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


class Link:
    """A welcomed connection.

    Attributes:
        protocol: The session's WAMP state: session id, prefixes, the server's ident.
        lost: Done when the connection has ended, with the reason as its result.
        permissions: What the server said to a login, or None without one.
        restarts: Whether the server has said that it restarts, and that what it left unanswered has not run.
    """

    def __init__(self, ws: Socket, options: LinkOptions, on_event: OnEvent) -> None:
        loop = asyncio.get_running_loop()
        self.protocol = WampV1("client", welcome=options.welcome)
        self.lost: asyncio.Future[ConnectionLost] = loop.create_future()
        self.permissions: Any = None
        self.restarts = False
        self._ws = ws
        self._wire = _wire(ws)
        self._options = options
        self._on_event = on_event
        self._welcomed: asyncio.Future[None] = loop.create_future()
        if not options.welcome:
            self._welcomed.set_result(None)
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._writes: set[asyncio.Future[None]] = set()
        self._pinged: bytes | None = None
        self._ponging: asyncio.Future[None] | None = None
        self._reason: ConnectionLost | None = None
        self._clock: asyncio.Future[None] | None = None
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str, options: LinkOptions, on_event: OnEvent) -> Link:
        """Connect and wait for WELCOME.

        Raises:
            HandshakeRefused: The server answered with an HTTP error.
            ConnectionLost: There is no server, or it did not welcome us in time.
            ValueError: The URL is none.
        """
        deadline = asyncio.get_running_loop().time() + options.open_timeout
        late = f"{_shown(url)}: no WELCOME within {options.open_timeout:g} s"
        try:
            async with asyncio.timeout_at(deadline):
                ws = await _handshake(session, url, options)
        except TimeoutError:
            raise ConnectionLost(f"{late}; the handshake was not answered") from None
        link = cls(ws, options, on_event)
        try:
            async with asyncio.timeout_at(deadline):
                await link._welcomed
        except TimeoutError:
            await link._give_up()
            raise ConnectionLost(late) from None
        except BaseException:
            await link._give_up()
            raise
        if options.keepalive is not None:
            link._clock = asyncio.ensure_future(link._keep_alive(options.keepalive))
        return link

    @property
    def is_wampkit(self) -> bool:
        """Whether the server is wampkit, and has procedures of its own that tell what WAMP v1 does not."""
        return self.protocol.session_id.endswith(SESSION_ID_SUFFIX)

    async def _give_up(self) -> None:
        if not self.lost.done():
            self.cut("the connection was given up before WELCOME")
        await self.ended()

    # ---- out

    async def send(self, text: bytes) -> None:
        """Send one message; cancelling this does not unsend it. Raises ConnectionLost."""
        await self._write(text, WSMsgType.TEXT)

    async def _write(self, data: bytes, kind: WSMsgType) -> None:
        if self.lost.done():
            raise _again(self.lost.result())
        write = self._begin_write(data, kind)
        await asyncio.wait({write})
        error = write.exception()
        if error is not None:
            raise _again(self.lost.result()) if self.lost.done() else ConnectionLost(_lost(error), 1006)

    def _begin_write(self, data: bytes, kind: WSMsgType) -> asyncio.Future[None]:
        # A task of its own: aiohttp's senders share one future, and cancelling one of them would cancel them all.
        write = asyncio.ensure_future(self._ws.send_frame(data, kind))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        write.add_done_callback(_seen)
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
            _seen(answer)

    async def round_trip(self, patience: float) -> bool:
        """Whether a ping came back within `patience` seconds: what was sent before it has been read then.

        Raises ConnectionLost.
        """
        pong = self._ping()
        try:
            # `_end` cancels the pongs that are waited for, so a lost connection ends this at once.
            await asyncio.wait({pong}, timeout=patience)
        finally:
            answered = not pong.cancel()
        if self.lost.done():
            raise _again(self.lost.result())
        return answered

    def _ping(self) -> asyncio.Future[None]:
        token = os.urandom(8)
        pong = self._pings[token] = asyncio.get_running_loop().create_future()
        pong.add_done_callback(lambda _: self._pings.pop(token, None))
        self._begin_write(token, WSMsgType.PING)
        return pong

    # ---- in

    async def _read(self) -> None:
        code = 1000
        try:
            while self._take(await self._ws.receive()):
                pass
        except ProtocolError as error:
            code = error.code
            who = "the server broke WAMP v1" if self._welcomed.done() else "this is no WAMP v1 server"
            self._give_reason(f"{who}: {error.reason}", code)
        except Exception as error:
            self._give_reason(_lost(error))
        finally:
            await self._end(code)

    def _take(self, received: WSMessageNoDecodeText) -> bool:
        """Take in one frame; False if it is the last."""
        match received.type:
            case WSMsgType.TEXT:
                if received.data or self._options.welcome:
                    self._take_message(self.protocol.receive(received.data), len(received.data))
            case WSMsgType.PING:
                self._answer_ping(received.data)
            case WSMsgType.PONG:
                pong = self._pings.get(received.data)
                if pong is not None and not pong.done():
                    pong.set_result(None)
            case WSMsgType.BINARY:
                raise ProtocolError(1003, "it sent a binary message")
            case WSMsgType.CLOSE:
                self.restarts = received.data == SERVICE_RESTART and received.extra == RESTART
                when = "" if self._welcomed.done() else " before WELCOME"
                why = quote(received.extra) if received.extra else "no reason given"
                self._give_reason(f"the server closed the connection{when}: {why}", received.data or 1005)
                return False
            case WSMsgType.ERROR:
                self._give_reason(f"the server broke the WebSocket protocol: {received.data}")
                return False
            case _:
                return False
        return True

    def _take_message(self, message: messages.Message, size: int) -> None:
        if isinstance(message, messages.Event):
            self._on_event(self, message, size)
        elif isinstance(message, messages.CallResult | messages.CallFailed):
            # An answer to nobody comes late: its call has been given up.
            answer = self._calls.get(message.id)
            if answer is None or answer.done():
                return
            if isinstance(message, messages.CallResult):
                answer.set_result(message.result)
            else:
                # Some servers, as the reference does, shorten it with this client's own prefixes.
                uri = self.protocol.resolve(message.uri)
                answer.set_exception(CallError(uri, message.description, message.details))
        elif isinstance(message, messages.Welcome) and not self._welcomed.done():
            self._welcomed.set_result(None)

    def _answer_ping(self, payload: bytes) -> None:
        # RFC 6455, 5.5.3: of several pings only the latest need be answered. So one answer waits at most, however
        # many pings come from a server that reads nothing.
        self._pinged = payload
        if self._ponging is None or self._ponging.done():
            self._ponging = asyncio.ensure_future(self._pong())

    async def _pong(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while self._pinged is not None:
                payload, self._pinged = self._pinged, None
                await self._write(payload, WSMsgType.PONG)

    async def _keep_alive(self, interval: float) -> None:
        patience = interval * PONG_WAIT
        while not self.lost.done():
            await asyncio.sleep(interval)
            pong = self._ping()
            for _ in range(PONG_LOOKS):
                await asyncio.wait({pong}, timeout=patience / PONG_LOOKS)
                if pong.done():
                    break
            else:
                self.cut(f"the server did not answer a ping within {patience:g} s")

    # ---- the end

    async def close(self) -> None:
        """Close politely, within the close timeout."""
        if not self.lost.done():
            self._give_reason("this client closed the connection", 1000)
            # Not by cancelling the reader: aiohttp would take the connection for lost, and not wait for the answer.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._options.close_timeout):
                    await self._ws.close()
                    await self.ended()
            self._shut()
        await self.ended()

    def cut(self, reason: str) -> None:
        """Cut the wire without a closing handshake."""
        self._give_reason(reason)
        self._shut()

    async def ended(self) -> None:
        """Wait until the socket has been given back, at most the close timeout after the connection was lost."""
        await asyncio.wait({self._reader})

    def _give_reason(self, reason: str, code: int = 1006) -> None:
        if self._reason is None:
            self._reason = ConnectionLost(reason, code)

    def _shut(self) -> None:
        """Shut the socket itself: closing a transport politely would wait for a peer that does not read."""
        if self._wire is not None:
            with contextlib.suppress(OSError, ValueError):  # the latter is what a closed one raises on uvloop
                self._wire.shutdown(socket.SHUT_RDWR)

    async def _end(self, code: int) -> None:
        """Tell everybody who waits, then let go of the socket."""
        reason = self._reason or ConnectionLost("the connection was lost", 1006)
        self.lost.set_result(reason)
        for answer in [self._welcomed, *self._calls.values()]:
            if not answer.done():
                answer.set_exception(_again(reason))
                _seen(answer)
        for pong in list(self._pings.values()):
            pong.cancel()
        if self._clock is not None:
            self._clock.cancel()
        try:
            async with asyncio.timeout(self._options.close_timeout):
                await self._ws.close(code=code)
        except Exception:
            pass  # what matters is done below
        finally:
            self._shut()
            if isinstance(self._wire, socket.socket):
                self._wire.close()


def _again(reason: ConnectionLost) -> ConnectionLost:
    """The same loss for another caller: a raised exception remembers where it was raised."""
    return ConnectionLost(reason.reason, reason.code)


def _lost(error: BaseException) -> str:
    return f"the connection was lost: {str(error) or type(error).__name__}"


def _seen(answer: asyncio.Future[Any]) -> None:
    """Look at a failed answer, so that asyncio does not warn that nobody did."""
    if answer.done() and not answer.cancelled():
        answer.exception()


def _wire(ws: Socket) -> TransportSocket | socket.socket | None:
    """The socket under a WebSocket, to shut it.

    uvloop's stand-in for it cannot be shut, and keeps its number when the socket is closed and the number another's:
    there it is a duplicate of our own.
    """
    wire = ws.get_extra_info("socket")
    if wire is None or isinstance(wire, TransportSocket):
        return wire
    try:
        return socket.fromfd(wire.fileno(), wire.family, wire.type)
    except (OSError, ValueError):  # it has gone already
        return None


# ---- the handshake


_ELSEWHERE = "another path"


class _RedirectedError(Exception):
    """The server answers a handshake with a redirect."""


_shaking_hands: ContextVar[bool] = ContextVar("_shaking_hands", default=False)


async def _refuse_redirect(_: object, __: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
    """aiohttp would follow it, to any host, with the headers that the caller meant for this one."""
    if _shaking_hands.get():
        redirect.response.close()
        where = urlsplit(redirect.response.headers.get("Location", "")).netloc.rpartition("@")[2]
        status = redirect.response.status
        raise _RedirectedError(status, f"HTTP {status}, a redirect to {quote(where) if where else _ELSEWHERE}")


_NO_REDIRECTS = aiohttp.TraceConfig()

_NO_REDIRECTS.on_request_redirect.append(_refuse_redirect)

_NO_REDIRECTS.freeze()


async def _handshake(session: aiohttp.ClientSession, url: str, options: LinkOptions) -> Socket:
    # The only public way: `ws_connect` takes no `allow_redirects`. Other requests of the session are not concerned.
    if _NO_REDIRECTS not in session.trace_configs:
        session.trace_configs.append(_NO_REDIRECTS)
    token = _shaking_hands.set(True)
    try:
        return await session.ws_connect(
            url,
            protocols=(SUBPROTOCOL,),
            headers=options.headers,
            origin=options.origin,
            ssl=options.ssl,
            timeout=aiohttp.ClientWSTimeout(ws_close=options.close_timeout),
            autoclose=False,
            autoping=False,
            compress=0,
            decode_text=False,
            max_msg_size=options.max_message_size,
        )
    except aiohttp.WSServerHandshakeError as error:
        hint = "; is the socket at another path, such as /ws?" if error.status == 404 else ""
        reason = f"{_shown(url)}: the server refused the handshake: {_status(error)}{hint}"
        raise HandshakeRefused(reason, error.status) from None
    except _RedirectedError as error:
        status, what = error.args
        reason = f"{_shown(url)}: the server refused the handshake: {what}, which is not followed"
        if what.endswith(_ELSEWHERE):
            reason += "; is the socket there, such as at /ws?"
        raise HandshakeRefused(reason, status) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise ValueError(f"{quote(url)} is no WebSocket URL; write ws://host:port/path") from None
    except aiohttp.ClientConnectorError as error:
        raise ConnectionLost(f"{_shown(url)}: {_why(error.os_error)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLost(f"{_shown(url)}: {str(error) or type(error).__name__}") from None
    finally:
        _shaking_hands.reset(token)


def _shown(url: str) -> str:
    """A URL as logs may show it: without the query and the user, where tokens and passwords are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _why(error: OSError) -> str:
    """The system's own words. TLS and the resolver count their errors otherwise, and bring words of their own."""
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "there is no TLS; is it ws:// instead of wss://?"
    if error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _status(error: aiohttp.WSServerHandshakeError) -> str:
    if error.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return error.message
    try:
        return f"HTTP {error.status} {HTTPStatus(error.status).phrase}"
    except ValueError:
        return f"HTTP {error.status}"
