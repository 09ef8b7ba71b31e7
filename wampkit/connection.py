"""One socket: what comes in, what goes out, and how it ends.

Everything that goes out passes `Connection.send`, which never waits: frames of one turn of the loop leave in one
write, in the order in which they were sent. Everything that comes in is taken by one reader that never awaits a
handler. A close has a deadline after which the transport is aborted, because a peer that does not read can hold up
any politer way (aiohttp's `ws.close()` waits for it without bound).
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import WebSocketError, WSMsgType, web

from .complaints import Complaints
from .errors import ProtocolError, quote
from .frames import close_frame, ping_frame, pong_frame, text_frame
from .inlet import Socket, read
from .messages import Message
from .protocol import Protocol
from .work import Work

__all__ = ["Connection", "Connections", "SocketOptions"]

ABNORMAL = 1006
NOT_ACCEPTED = 1003
SLOW_READER = 4008


PONG_WAIT = 0.4
"""The share of the keepalive interval in which a ping must be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """How the app's sockets behave; see `App` for what each means."""

    malformed: Literal["close", "ignore"] = "close"
    max_message_size: int = 2 * 1024 * 1024
    max_queue: int = 1024 * 1024
    close_timeout: float = 3.0


class Flusher:
    """Writes what all connections sent in one turn of the loop, in one callback for all of them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._marked: list[Connection] = []

    def mark(self, connection: Connection) -> None:
        """Flush a connection at the end of this turn."""
        if not self._marked:
            self._loop.call_soon(self._flush)
        self._marked.append(connection)

    def _flush(self) -> None:
        marked, self._marked = self._marked, []
        for connection in marked:
            connection.flush()


class Connection:
    """A client, from the handshake until its socket is gone.

    Attributes:
        id: The session id of WELCOME: unguessable, but an address and no credential, as others learn it.
        attributes: Whatever the app keeps about this client; middlewares fill it at the handshake.
        request: The aiohttp request of the handshake: headers, cookies, query, `remote`.
        close_code: The WebSocket close code once the connection has ended, 1006 where no close was agreed.
        close_reason: Why it ended, in words: the peer's, the server's or the keepalive's.
    """

    __slots__ = (
        "_closing",
        "_deadline",
        "_ended",
        "_flusher",
        "_loop",
        "_options",
        "_outbox",
        "_ping",
        "_ping_at",
        "_ping_due",
        "_transport",
        "attributes",
        "close_code",
        "close_reason",
        "complaints",
        "id",
        "left",
        "protocol",
        "request",
        "subscriptions",
        "work",
    )

    def __init__(self, request: web.Request, protocol: Protocol, options: SocketOptions, flusher: Flusher) -> None:
        self.id = protocol.session
        self.attributes: dict[str, Any] = {}
        self.request = request
        self.protocol = protocol
        self.subscriptions: dict[str, None] = {}
        self.left = False  # whether it has left its topics for good
        self.close_code: int | None = None
        self.close_reason = ""
        self.complaints = Complaints(f"connection {self.id[:8]} from {quote(request.remote or 'a unix socket', 64)}")
        self.work = Work()
        self._options = options
        self._flusher = flusher
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outbox: list[bytes] = []
        self._closing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._ended = self._loop.create_future()
        self._ping: bytes | None = None
        self._ping_at = 0.0
        self._ping_due = math.inf  # until somebody reads the pongs

    def __repr__(self) -> str:
        return f"<Connection {self.id} from {self.request.remote}{' (closed)' if self.closed else ''}>"

    @property
    def connection(self) -> Connection:
        """Itself: a subscription may stand for a connection, and this is both."""
        return self

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending; nothing more can be sent then."""
        return self._closing or self._ended.done()

    @property
    def topics(self) -> tuple[str, ...]:
        """The URIs of the topics that this client is subscribed to."""
        return tuple(self.subscriptions)

    # ---- out

    def open(self, transport: asyncio.Transport) -> None:
        """Take over the sending side of an upgraded socket and send WELCOME."""
        self._transport = transport
        self.send(text_frame(self.protocol.welcome()))

    def send(self, frame: bytes) -> None:
        """Send one frame, whole, in order, without waiting. Ignored once the connection is closing."""
        if self._closing:
            return
        if not self._outbox:
            self._flusher.mark(self)
        self._outbox.append(frame)

    def flush(self) -> None:
        """Write what was sent, at once."""
        outbox, transport = self._outbox, self._transport
        if not outbox or transport is None:
            return
        if transport.is_closing():
            # The peer has gone, or half of it; what waits for it would only pile up.
            outbox.clear()
            self._arm(self._options.close_timeout)
            return
        if transport.get_write_buffer_size() > self._options.max_queue:
            self.cut(SLOW_READER, f"the client reads too slowly: over {self._options.max_queue} bytes wait for it")
            return
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        transport.write(data)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return buffered + sum(map(len, self._outbox))

    # ---- in

    async def serve(self, socket: Socket, on_message: Callable[[Connection, Message], None]) -> None:
        """Read until the connection ends, handing each message to `on_message`, which must not block."""

        def take(kind: WSMsgType, data: Any, extra: Any) -> bool:
            if kind is WSMsgType.TEXT:
                self._take(data, on_message)
                return True
            return self._take_other(kind, data, extra)

        await read(socket, take)

    def _take_other(self, kind: WSMsgType, data: Any, extra: Any) -> bool:
        match kind:
            case WSMsgType.PING:
                self.send(pong_frame(data))
            case WSMsgType.PONG:
                self._take_pong(data)
            case WSMsgType.BINARY:
                self._malformed(ProtocolError(NOT_ACCEPTED, "WAMP v1 is JSON in text messages, not binary"))
            case WSMsgType.CLOSE:
                self._answer_close(data, extra)
                return False
            case _:
                self._lost(data)
                return False
        return True

    def _take(self, data: bytes, on_message: Callable[[Connection, Message], None]) -> None:
        if self._closing:
            return
        try:
            message = self.protocol.receive(data)
        except ProtocolError as error:
            self._malformed(error)
        else:
            on_message(self, message)

    def _malformed(self, error: ProtocolError) -> None:
        self.complaints.add("malformed", f"malformed message: {error}")
        if self._options.malformed == "close":
            self.close(error.code, error.reason)

    def _answer_close(self, code: int | None, reason: str | None) -> None:
        if not self._closing:
            self.close_code, self.close_reason = code or 1005, reason or ""
            self.close(code or 1000)
        self._finish_transport()

    def _lost(self, error: object) -> None:
        if self.close_code is not None:
            return
        if isinstance(error, WebSocketError):
            self.close_code, self.close_reason = error.code, f"broken frame: {error}"
            self.complaints.add("malformed", f"{self.close_reason} (close code {error.code})")
            self.close(error.code, self.close_reason)
        else:
            self.close_code, self.close_reason = ABNORMAL, "the connection was lost"

    # ---- keepalive

    def keep_alive(self, now: float, interval: float, late: float) -> None:
        """Send the ping that is due, or cut a peer that has not answered the last one.

        Only the answer to our ping proves that the peer both reads and writes: data that it sends on its own
        does not, and bytes that the kernel took do not either.

        Args:
            now: The loop's time.
            interval: Seconds between pings.
            late: Seconds for which the loop could neither send the ping nor read its answer.
        """
        if self._transport is None or self._ended.done():
            return
        if self._ping is None:
            if now >= self._ping_due:
                self._ping_at, self._ping_due = now, now + interval
                self._ping = os.urandom(4)
                self.send(ping_frame(self._ping))
            return
        self._ping_at += late
        if now - self._ping_at >= interval * PONG_WAIT:
            self.cut(ABNORMAL, f"keepalive: no pong within {interval * PONG_WAIT:g} s")

    def start_keepalive(self, interval: float) -> None:
        """Let the first ping be due one interval from now."""
        self._ping_due = self._loop.time() + interval

    def _take_pong(self, payload: bytes) -> None:
        if payload == self._ping:
            self._ping = None

    # ---- the end

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye with a close code (RFC 6455 section 7.4) and end the connection; does not wait.

        What was sent before still leaves. A peer that does not answer in time is cut.
        """
        if self._closing:
            return
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self.send(close_frame(code, reason))
        self._closing = True
        self.flush()
        self._arm(self._options.close_timeout)

    def cut(self, code: int, reason: str) -> None:
        """End the connection at once, without a word to the peer; what was not sent is lost."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self.complaints.add("cut", reason)
        self._closing = True
        self._abort()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        await asyncio.shield(self._ended)

    def _finish_transport(self) -> None:
        """Close once what is buffered has left, and by force if it does not leave."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._arm(self._options.close_timeout)

    def _arm(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self._loop.call_later(seconds, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """Nobody reads any more: whatever happens now, the socket is freed."""
        self._closing = True
        if self.close_code is None:
            self.close_code, self.close_reason = ABNORMAL, "the server stopped"
        transport = self._transport
        if transport is not None:
            transport.close()
        if transport is None or not transport.get_write_buffer_size():
            if self._deadline is not None:
                self._deadline.cancel()
        else:
            self._arm(self._options.close_timeout)
        self._outbox.clear()
        if not self._ended.done():
            self._ended.set_result(None)


class Connections:
    """The live connections of this node, by session id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        self._by_id[connection.id] = connection

    def discard(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._by_id.pop(connection.id, None)

    def get(self, session: str) -> Connection | None:
        """The live connection with this session id, or None."""
        return self._by_id.get(session)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return isinstance(connection, Connection) and self._by_id.get(connection.id) is connection
