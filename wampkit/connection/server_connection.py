"""The server's side of a connection: it takes frames, keeps the peer alive, and closes. `outbox.py` sends.

Reading never awaits a handler. A close has a deadline after which the transport is aborted, because a peer that does
not read can delay a closing handshake without bound (aiohttp's `ws.close()` waits for it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from ..concurrency.threads import ThreadPools
from ..errors import ProtocolError, quote
from ..limits import TokenBucket
from ..networks import client_network, describe_address
from ..protocol.messages import Message
from ..protocol.v1 import WampV1
from ..protocol.websocket import CloseCode, close_frame, is_close_code, ping_frame, pong_frame, text_frame
from ..telemetry.logs import KIND, PeerLog
from .connection import Connection
from .outbox import Outbox
from .outbox_variants import DeflatingOutbox, make_outbox
from .reader import explain_broken_frame
from .registry import ConnectionContext
from .sockets import (
    Heartbeat,
    Reader,
    Socket,
    abort,
    abort_with_reset,
    buffered_bytes,
    has_failed,
    prepare_socket,
    uncork,
)
from .tasks import ConnectionTasks

__all__ = ["ServerConnection"]

MAX_PAUSE = 1.0
"""Maximum seconds for which reading is paused because a client exceeds its message rate."""


class Handler(Protocol):
    """Takes a connection's messages: the dispatcher. Must not block."""

    def receive(self, connection: ServerConnection, message: Message, text: bytes) -> None:
        """Take one message and the text that it came in."""

    def refuse(self, connection: ServerConnection, data: bytes) -> None:
        """Refuse the text of a message beyond the rate, which has not been decoded."""

    def refuse_frame(self, connection: ServerConnection, what: str) -> None:
        """Refuse a frame beyond the rate that is no text message."""


class ServerConnection(Connection):
    """A connection as the server runs it.

    Attributes:
        protocol: The state of its WAMP session.
        outbox: Its outgoing queue.
        tasks: Its running and queued calls and topic messages.
        rights_version: Number of changes of `user`, `roles` and `permissions`, and each `app.recheck`.
        subscriptions: The URIs of its topics, and the size of each in bytes.
        subscriptions_size: The sum of these sizes.
        unsubscribed: Whether its subscriptions were removed because it has closed; none may be added then.
    """

    __slots__ = (
        "_bucket",
        "_context",
        "_control_bucket",
        "_deadline",
        "_ended",
        "_handler",
        "_heartbeat",
        "_log",
        "_over",
        "_pause",
        "_reader",
        "_transport",
        "outbox",
        "protocol",
        "rights_version",
        "subscriptions",
        "subscriptions_size",
        "tasks",
        "unsubscribed",
    )

    def __init__(
        self, request: web.Request, protocol: WampV1, context: ConnectionContext, remote: str | None, secure: bool
    ) -> None:
        super().__init__(request, protocol.session_id, remote, secure)
        self.protocol: WampV1 = protocol
        self.rights_version: int = 0
        self.subscriptions: dict[str, int] = {}
        self.subscriptions_size: int = 0
        self.unsubscribed: bool = False
        self.tasks: ConnectionTasks = ConnectionTasks(context.eager, context.limits, self)
        self._context = context
        self.outbox: Outbox = self._make_outbox(0)
        self._bucket = self._make_bucket()
        self._control_bucket: TokenBucket | None = None
        self._log: PeerLog | None = None
        self._handler: Handler  # set by `serve`
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._over = False
        self._ended: asyncio.Future[None] | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def closed(self) -> bool:
        return self.outbox.closed

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self.subscriptions)

    @property
    def unsent(self) -> int:
        return self.outbox.unsent

    @property
    def dropped(self) -> int:
        return self.outbox.dropped

    @property
    def threads(self) -> ThreadPools:
        """The app's worker threads."""
        return self._context.threads

    @property
    def log(self) -> PeerLog:
        """The throttled log of this client."""
        if self._log is None:
            subject = f"connection {self.id[:8]} from {quote(describe_address(self.remote), 64)}"
            self._log = PeerLog(self._context.throttle, subject, client_network(self.remote))
        return self._log

    def _user_set(self, before: Any) -> None:
        self._context.connections.update_user(self, before)

    def _rights_changed(self) -> None:
        self.rights_version += 1

    # ---- out

    def open(self, transport: asyncio.Transport, head: bytes = b"", window: int = 0) -> None:
        """Take over the sending side of an upgraded socket and send WELCOME.

        Args:
            transport: The transport of the socket.
            head: Bytes to send before WELCOME, such as the 101 response.
            window: The window size in bits if compression was negotiated, else 0.
        """
        prepare_socket(transport, self._context.options.keepalive)
        self._transport = transport
        if window:
            self.outbox = self._make_outbox(window)
        self.outbox.open(transport)
        self.outbox.send(head + text_frame(self.protocol.welcome()))
        if not head:
            # The answer to the handshake was written before and waits for this.
            self.outbox.flush()
            uncork(transport)

    def _make_outbox(self, window: int) -> Outbox:
        limits = self._context.limits
        return make_outbox(self, self._context.flusher, limits.queue, limits.slow_reader, window)

    def too_slow(self, why: str) -> None:
        """Cut a peer whose queue exceeds its bound."""
        self._context.counters.slow_readers += 1
        self.cut(CloseCode.SLOW_READER, f"{why}: over {self._context.limits.queue} bytes wait for it")

    def events_dropped(self, count: int, why: str) -> None:
        """Count and log dropped events."""
        self._context.counters.events_dropped += count
        bound = self._context.limits.queue
        self.log.add(("dropped", why), f"{why}: over {bound} bytes wait for it, so the oldest events are dropped")

    def write_failed(self, error: Exception) -> None:
        """Report an unexpected error of writing, and cut the peer."""
        self.log.add("write", "writing to the client failed", level=logging.ERROR, error=error)
        self._context.report(error, self)
        self.cut(CloseCode.ABNORMAL, "it could not be written to")

    def keepalive_failed(self, error: Exception) -> None:
        """Report an unexpected error of the keepalive, cut the peer and stop its keepalive."""
        self._heartbeat = None
        self.log.add("keepalive", "the keepalive of the client failed", level=logging.ERROR, error=error)
        self._context.report(error, self)
        self.cut(CloseCode.ABNORMAL, "its keepalive failed")

    def peer_gone(self) -> None:
        """Abort within `close_timeout`: the peer has closed its side."""
        self._arm(self._context.options.close_timeout)

    # ---- in

    def serve(self, socket: Socket, handler: Handler) -> Awaitable[None]:
        """Read until the connection ends, handing each message to `handler`."""
        assert self._transport is not None
        self._handler = handler
        self._reader = socket.reader(self._transport)
        self.tasks.enter_context()
        return self._reader.read_into(self._take)

    def _take(self, kind: WSMsgType, data: Any, extra: Any) -> bool:
        if kind is not WSMsgType.TEXT:
            return self._take_other(kind, data, extra)
        if self.outbox.closed:
            return True
        if self._bucket is not None and not self._bucket.take():
            self._handler.refuse(self, data)
            self._slow_down()
            return True
        try:
            message = self.protocol.receive(data)
        except ProtocolError as error:
            self._malformed(error)
        else:
            self._handler.receive(self, message, data)
        return True

    def _take_other(self, kind: WSMsgType, data: Any, extra: Any) -> bool:
        match kind:
            case WSMsgType.PING:
                if self._may_control("PING"):
                    self.outbox.send(pong_frame(data))
            case WSMsgType.PONG:
                if self._heartbeat is None or not self._heartbeat.pong(data):
                    self._may_control("PONG")
            case WSMsgType.BINARY:
                self._take_binary()
            case WSMsgType.CLOSE:
                self._answer_close(data, extra)
                return False
            case _:
                self._lost(data)
                return False
        return True

    def _take_binary(self) -> None:
        if self.outbox.closed:
            return
        if self._bucket is not None and not self._bucket.take():
            self._handler.refuse_frame(self, "a binary message")
            self._slow_down()
        else:
            self._malformed(ProtocolError(CloseCode.UNSUPPORTED_DATA, "WAMP v1 is JSON in text messages, not binary"))

    def _make_bucket(self) -> TokenBucket | None:
        limits = self._context.limits
        rate = limits.messages_per_second
        return None if rate is None else TokenBucket(rate, limits.burst)

    def _may_control(self, what: str) -> bool:
        """Whether the rate allows one more PING, or PONG that answers no ping; they have a bucket of their own."""
        if self._bucket is None or self.outbox.closed:
            return True
        bucket = self._control_bucket = self._control_bucket or self._make_bucket()
        if bucket is None or bucket.take():
            return True
        self._handler.refuse_frame(self, what)
        return False

    # ---- back-pressure

    def pause_reading(self) -> None:
        """Stop reading, so that TCP holds the peer back."""
        # The end of a lost socket is read after its last frames, so a pause for calls that never end would hide it.
        if self._reader is not None and self._transport is not None and not self._transport.is_closing():
            self._reader.pause()

    def resume_reading(self) -> None:
        """Read on, unless reading is paused for the message rate."""
        if self._reader is not None and self._pause is None:
            self._reader.resume()

    def _slow_down(self) -> None:
        """Pause reading of compressed messages, which are inflated before they can be counted."""
        rate = self._context.limits.messages_per_second
        compressed = isinstance(self.outbox, DeflatingOutbox)
        if self._pause is None and self._reader is not None and rate is not None and compressed:
            self._reader.pause()
            self._pause = asyncio.get_running_loop().call_later(min(MAX_PAUSE, 1 / rate), self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if not self.tasks.full:
            self.resume_reading()

    @property
    def _reading_paused(self) -> bool:
        return self.tasks.full or self._pause is not None

    def _malformed(self, error: ProtocolError) -> None:
        self._context.counters.malformed += 1
        self.log.add(("malformed", str(error)[:KIND]), f"malformed message: {error}")
        if self._context.options.malformed == "close":
            self.close(error.code, error.reason)

    def _answer_close(self, code: int | None, reason: str | None) -> None:
        if not self.closed and code and not is_close_code(code):
            self._break_off(CloseCode.PROTOCOL_ERROR, "a close code that may not be sent")
        elif not self.closed:
            self._set_close(code or CloseCode.NO_STATUS, reason or "")
            self.outbox.send(close_frame(code or CloseCode.NORMAL, ""))
            self.outbox.close()
        self._finish_transport()

    def _lost(self, error: object) -> None:
        if self.close_code is not None:
            return
        broken = explain_broken_frame(error)
        if broken is not None:
            self._break_off(*broken)
        else:
            self._set_close(CloseCode.ABNORMAL, "the connection was lost")

    def _break_off(self, code: int, what: str) -> None:
        """Close because of an invalid frame."""
        self._context.counters.malformed += 1
        self.log.add("malformed", f"broken frame: {what} (close code {code:d})")
        self.close(code, f"broken frame: {what}")

    # ---- keepalive

    def keep_alive(self, now: float, stalled: float) -> None:
        """Send the ping that is due, or cut a peer that has not answered the last one in time.

        Args:
            now: The loop's time.
            stalled: Total seconds for which the loop was blocked so far.
        """
        transport, heartbeat = self._transport, self._heartbeat
        if transport is None or heartbeat is None or self._over:
            return
        if self._reading_paused:
            # Its pongs are not read, but a lost peer shows in the socket once something was sent.
            heartbeat.defer(now, stalled)
            if has_failed(transport):
                self.cut(CloseCode.ABNORMAL, "the connection was lost")
        elif heartbeat.is_overdue(now, stalled, self.outbox.bytes_sent):
            self.cut(CloseCode.ABNORMAL, f"keepalive: no pong within {heartbeat.patience:g} s")
        if heartbeat.is_due(now, reading_paused=self._reading_paused):
            self.outbox.send(ping_frame(heartbeat.ping(now, stalled)))
            heartbeat.queued(self.outbox.bytes_sent, self.outbox.unsent)

    def start_keepalive(self, interval: float) -> None:
        """Send the first ping one interval from now."""
        self._heartbeat = Heartbeat(asyncio.get_running_loop().time(), interval)

    # ---- the end

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        if self.closed:
            return
        self._set_close(code, reason)
        self.outbox.send(close_frame(code, reason))
        self.outbox.close()
        self._arm(self._context.options.close_timeout)

    def hang_up(self, code: int, reason: str) -> None:
        """End the connection without a closing handshake once all sent bytes have left; does not wait.

        Args:
            code: The `close_code`; the peer does not learn it.
            reason: The `close_reason`.
        """
        self._set_close(code, reason)
        self.outbox.close()
        self._finish_transport()

    def cut(self, code: int, reason: str, *, reset: bool = True) -> None:
        """End the connection at once and without a close frame; unsent bytes are lost.

        Args:
            code: The `close_code`; the peer does not learn it.
            reason: The `close_reason`.
            reset: Whether to reset the TCP connection, so that the kernel drops undelivered bytes too.
        """
        if self.close_code is None:
            self._set_close(code, reason)
            self.log.add("cut", reason)
        self.outbox.closed = True
        if self._transport is not None:
            (abort_with_reset if reset else abort)(self._transport)

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        if self._over:
            return
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ended)

    def _finish_transport(self) -> None:
        """Close once all buffered bytes have left; abort after `close_timeout`."""
        self.outbox.flush()
        if self._transport is not None:
            self._transport.close()
            if buffered_bytes(self._transport):
                self._arm(self._context.options.close_timeout)

    def _arm(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            abort_with_reset(self._transport)

    def end(self) -> None:
        """Free the socket once reading has ended."""
        self._set_close(CloseCode.ABNORMAL, "the server stopped")
        transport = self._transport
        if transport is not None:
            transport.close()
        if transport is None or not buffered_bytes(transport):
            if self._deadline is not None:
                self._deadline.cancel()
        else:
            self._arm(self._context.options.close_timeout)
        self.outbox.forget()
        if self._pause is not None:
            self._pause.cancel()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._over = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def forget(self) -> None:
        """Drop references back to it once all hooks have run.

        Cycles wait for the garbage collector, which took a third of the time of connections that come and go.
        """
        self.tasks.forget()
