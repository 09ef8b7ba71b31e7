"""One socket: what comes in, and how it ends; what goes out stands in `outbox.py`.

Everything that comes in is taken by one reader that never awaits a handler. A close has a deadline after which the
transport is aborted, because a peer that does not read can hold up any politer way (aiohttp's `ws.close()` waits for
it without bound).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from aiohttp import WSMsgType, web

from ..concurrency.threads import ThreadPools
from ..errors import ProtocolError, quote
from ..limits import TokenBucket
from ..networks import client_network, describe_address
from ..protocol.cra import Permissions
from ..protocol.messages import Message
from ..protocol.v1 import WampV1
from ..protocol.websocket import CloseCode, close_frame, is_close_code, ping_frame, pong_frame, text_frame
from ..telemetry.logs import KIND, PeerLog
from .context import ConnectionContext
from .keepalive import Heartbeat
from .outbox import DeflatingOutbox, Outbox, make_outbox
from .reader import explain_broken_frame
from .sockets import Reader, Socket, abort, abort_with_reset, buffered_bytes, has_failed, prepare_socket, uncork
from .tasks import ConnectionTasks

if TYPE_CHECKING:
    from ..sessions.session import Session

__all__ = ["Connection"]

LONGEST_PAUSE = 1.0
"""Seconds for which nothing is read at most because too much was sent."""


class Handler(Interface):
    """What takes a connection's messages: the dispatcher. Must not block."""

    def receive(self, connection: Connection, message: Message, text: bytes) -> None:
        """OnFrame one message."""

    def refuse(self, connection: Connection, data: bytes) -> None:
        """Refuse the text of a message beyond the rate, which has not been decoded."""

    def refuse_frame(self, connection: Connection, what: str) -> None:
        """Refuse a frame beyond the rate that is no text message."""


class _Nobody:
    def receive(self, connection: Connection, message: Message, text: bytes) -> None:
        pass

    def refuse(self, connection: Connection, data: bytes) -> None:
        pass

    def refuse_frame(self, connection: Connection, what: str) -> None:
        pass


NOBODY = _Nobody()


class Connection:
    """A client, from the handshake until its socket is gone.

    Attributes:
        id: The session id of WELCOME: unguessable, but an address and no credential, as others learn it.
        attributes: Whatever the app keeps about this client; middlewares fill it at the handshake.
        request: The aiohttp request of the handshake: headers, cookies, query. Its `remote` may be a proxy's.
        remote: The client's address, taken from a trusted proxy where there is one; None for a unix socket.
        secure: Whether the client speaks TLS, to this server or to a trusted proxy.
        rights_version: Counts the changes of `user`, `roles` and `permissions`, and each `app.recheck`.
        session: The web front end's `Session`, or None without the middleware `Sessions`.
        close_code: The WebSocket close code once the connection has ended, 1006 where no close was agreed.
        close_reason: Why it ended, in words: the peer's, the server's or the keepalive's.
    """

    __slots__ = (
        "__weakref__",
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
        "_permissions",
        "_reader",
        "_roles",
        "_transport",
        "_user",
        "attributes",
        "close_code",
        "close_reason",
        "id",
        "listed",
        "outbox",
        "protocol",
        "remote",
        "request",
        "rights_version",
        "secure",
        "session",
        "subscriptions",
        "subscriptions_size",
        "tasks",
        "unsubscribed",
    )

    def __init__(
        self, request: web.Request, protocol: WampV1, context: ConnectionContext, remote: str | None, secure: bool
    ) -> None:
        self.id = protocol.session_id
        self.attributes: dict[str, Any] = {}
        self.request = request
        self.remote, self.secure = remote, secure
        self.session: Session | None = None
        self._user: Any = None
        self._roles: frozenset[str] = frozenset()
        self._permissions: Permissions | None = None
        self.rights_version = 0
        self.listed = False  # whether it stands in the register of live connections
        self.protocol = protocol
        self.subscriptions: dict[str, int] = {}  # URIs, and the bytes of each
        self.subscriptions_size = 0
        self.unsubscribed = False  # whether it has left its topics for good
        self.close_code: int | None = None
        self.close_reason = ""
        self.tasks = ConnectionTasks(context.eager, context.limits, self)
        self._context = context
        self.outbox = self._make_outbox(0)
        self._bucket = self._rate()
        self._control_bucket: TokenBucket | None = None
        self._log: PeerLog | None = None
        self._handler: Handler = NOBODY
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._over = False
        self._ended: asyncio.Future[None] | None = None
        self._heartbeat: Heartbeat | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} from {self.remote}{' (closed)' if self.closed else ''}>"

    @property
    def user(self) -> Any:
        """Who the client is, as a middleware or WAMP-CRA established it; None while nobody. Must be hashable."""
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        hash(user)
        before, self._user = self._user, user
        if user != before:
            self.rights_version += 1
        if self.listed:
            self._context.users.leave(self, before)
            self._context.users.enter(self)

    @property
    def roles(self) -> frozenset[str]:
        """What the user may do, by name; for `requires`."""
        return self._roles

    @roles.setter
    def roles(self, roles: Iterable[str]) -> None:
        if isinstance(roles, str):
            raise TypeError(f"roles are a set of names, not the text {roles!r}")
        before, self._roles = self._roles, frozenset(roles)  # so that none is taken out of it unnoticed
        if self._roles != before:
            self.rights_version += 1

    @property
    def permissions(self) -> Permissions | None:
        """What WAMP-CRA granted, or None without a login by it."""
        return self._permissions

    @permissions.setter
    def permissions(self, permissions: Permissions | None) -> None:
        if permissions != self._permissions:
            self.rights_version += 1
        self._permissions = permissions

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending; nothing more can be sent then."""
        return self.outbox.closed

    @property
    def topics(self) -> tuple[str, ...]:
        """The URIs of the topics that this client is subscribed to."""
        return tuple(self.subscriptions)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return self.outbox.unsent

    @property
    def dropped(self) -> int:
        """How many events were dropped because the peer read too slowly; see `Limits.slow_reader`."""
        return self.outbox.dropped

    @property
    def threads(self) -> ThreadPools:
        """The app's worker threads."""
        return self._context.threads

    @property
    def log(self) -> PeerLog:
        """What is logged about this peer."""
        if self._log is None:
            subject = f"connection {self.id[:8]} from {quote(describe_address(self.remote), 64)}"
            self._log = PeerLog(self._context.throttle, subject, client_network(self.remote))
        return self._log

    # ---- out

    def open(self, transport: asyncio.Transport, head: bytes = b"", window: int = 0) -> None:
        """OnFrame over the sending side of an upgraded socket and send WELCOME.

        Args:
            transport: Where the bytes go.
            head: What goes before them.
            window: The bits of the window if compression was negotiated, else 0.
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
        """More waits for the peer than may."""
        self._context.counters.slow_readers += 1
        self.cut(CloseCode.SLOW_READER, f"{why}: over {self._context.limits.queue} bytes wait for it")

    def events_dropped(self, count: int, why: str) -> None:
        """So many events, which waited for the peer, were dropped."""
        self._context.counters.events_dropped += count
        bound = self._context.limits.queue
        self.log.add(("dropped", why), f"{why}: over {bound} bytes wait for it, so the oldest events are dropped")

    def write_failed(self, error: Exception) -> None:
        """Writing to the peer raised what was not expected."""
        self.log.add("write", "writing to the client failed", level=logging.ERROR, error=error)
        self._context.report(error, self)
        self.cut(CloseCode.ABNORMAL, "it could not be written to")

    def keepalive_failed(self, error: Exception) -> None:
        """Looking after the connection raised what was not expected: it is cut, and not looked at again."""
        self._heartbeat = None
        self.log.add("keepalive", "the keepalive of the client failed", level=logging.ERROR, error=error)
        self._context.report(error, self)
        self.cut(CloseCode.ABNORMAL, "its keepalive failed")

    def peer_gone(self) -> None:
        """Nothing can be written any more; what waits is given a little time to leave."""
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

    def _rate(self) -> TokenBucket | None:
        limits = self._context.limits
        rate = limits.messages_per_second
        return None if rate is None else TokenBucket(rate, limits.burst)

    def _may_control(self, what: str) -> bool:
        """Whether one more PING, or PONG that answers no ping, may pass: they have an allowance of their own."""
        if self._bucket is None or self.outbox.closed:
            return True
        if self._control_bucket is None:
            self._control_bucket = self._rate()
        if self._control_bucket is None or self._control_bucket.take():
            return True
        self._handler.refuse_frame(self, what)
        return False

    # ---- back-pressure

    def pause_reading(self) -> None:
        """Too much is under way: let the peer wait."""
        # Once the socket is lost its end stands behind what has been read, where calls that never end would keep it.
        if self._reader is not None and self._transport is not None and not self._transport.is_closing():
            self._reader.pause()

    def resume_reading(self) -> None:
        """There is room again."""
        if self._reader is not None and self._pause is None:
            self._reader.resume()

    def _slow_down(self) -> None:
        """Read nothing for a moment where messages may be compressed: they are inflated before they can be counted."""
        rate = self._context.limits.messages_per_second
        if self._pause is None and self._reader is not None and rate is not None and self._compressed:
            self._reader.pause()
            self._pause = asyncio.get_running_loop().call_later(min(LONGEST_PAUSE, 1 / rate), self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if not self.tasks.full:
            self.resume_reading()

    @property
    def _compressed(self) -> bool:
        return isinstance(self.outbox, DeflatingOutbox)

    @property
    def _reading_paused(self) -> bool:
        """Whether reading from the peer is paused."""
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
            self.close_code, self.close_reason = code or CloseCode.NO_STATUS, reason or ""
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
            self.close_code, self.close_reason = CloseCode.ABNORMAL, "the connection was lost"

    def _break_off(self, code: int, what: str) -> None:
        """Close because of a frame that is none."""
        self._context.counters.malformed += 1
        self.log.add("malformed", f"broken frame: {what} (close code {code:d})")
        self.close(code, f"broken frame: {what}")

    # ---- keepalive

    def keep_alive(self, now: float, stalled: float) -> None:
        """Send the ping that is due, or cut a peer that has not answered the last one.

        Args:
            now: The loop's time.
            stalled: Seconds for which the loop has stood still so far, all together.
        """
        transport, heartbeat = self._transport, self._heartbeat
        if transport is None or heartbeat is None or self._over:
            return
        if self._reading_paused:
            # Nobody reads its pongs, but a peer that has gone shows in the socket once something was sent.
            heartbeat.defer(now, stalled)
            if has_failed(transport):
                self.cut(CloseCode.ABNORMAL, "the connection was lost")
        elif heartbeat.is_overdue(now, stalled, self.outbox.bytes_sent):
            self.cut(CloseCode.ABNORMAL, f"keepalive: no pong within {heartbeat.patience:g} s")
        if heartbeat.is_due(now, reading_paused=self._reading_paused):
            self.outbox.send(ping_frame(heartbeat.ping(now, stalled)))
            heartbeat.queued(self.outbox.bytes_sent, self.outbox.unsent)

    def start_keepalive(self, interval: float) -> None:
        """Let the first ping be due one interval from now."""
        self._heartbeat = Heartbeat(asyncio.get_running_loop().time(), interval)

    # ---- the end

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Say goodbye with a close code (RFC 6455 section 7.4) and end the connection; does not wait.

        What was sent before still leaves. A peer that does not answer in time is cut. The door refuses one that is
        still arriving.
        """
        if self.closed:
            return
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self.outbox.send(close_frame(code, reason))
        self.outbox.close()
        self._arm(self._context.options.close_timeout)

    def hang_up(self, code: int, reason: str) -> None:
        """End the connection without a closing handshake, once what was sent has left; does not wait.

        Args:
            code: What `close_code` will be; the peer does not learn it.
            reason: Why it ended.
        """
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self.outbox.close()
        self._finish_transport()

    def cut(self, code: int, reason: str, *, reset: bool = True) -> None:
        """End the connection at once, without a word to the peer; what was not sent is lost.

        Args:
            code: What `close_code` will be; the peer does not learn it.
            reason: Why it ended.
            reset: Whether what the kernel has not delivered is given up too, so that it keeps no memory for it.
        """
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self.log.add("cut", reason)
        self.outbox.closed = True
        if reset:
            self._abort()
        elif self._transport is not None:
            abort(self._transport)

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        if self._over:
            return
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ended)

    def _finish_transport(self) -> None:
        """Close once what is buffered has left, and by force if it does not leave."""
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
        """Nobody reads any more: whatever happens now, the socket is freed."""
        if self.close_code is None:
            self.close_code, self.close_reason = CloseCode.ABNORMAL, "the server stopped"
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
        """Everybody has been told that it ended: let go of what refers back to it.

        What is left in cycles would wait for the garbage collector, which took a third of the time of connections
        that come and go.
        """
        self.tasks.forget()
        self._handler = NOBODY
