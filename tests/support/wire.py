"""A WAMP v1 peer without any of wampkit in it, and a server to point it at: what the tests of the core stand on.

`Peer` is an aiohttp WebSocket that speaks JSON; `RawPeer` is a socket with hand-made frames, for what no client
library would do. `serve` runs an app on a port of its own and holds it to its promises when it ends: no connection,
no topic, no task may be left.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import aiohttp
from aiohttp import WSMsgType, web

from wampkit import App, Connection

__all__ = ["PATIENCE", "Peer", "RawPeer", "Server", "eventually", "fds", "has_ipv6", "serve", "sockets_of"]

PATIENCE = 20.0
"""Seconds after which something that should come at once hangs: what a loaded machine never needs, and no measure."""

WELCOME, PREFIX, CALL, RESULT, ERROR, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, EVENT = range(9)


async def eventually(condition: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail if it never does."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"never came true: {what or condition}"
        await asyncio.sleep(0.005)


def fds() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def has_ipv6() -> bool:
    """Whether this machine has IPv6 on loopback."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Peer:
    """A WAMP client over aiohttp that reads all the time, so that its pings are answered and its close is seen.

    Attributes:
        welcome: The WELCOME message.
        pings: How many pings the server has sent.
        pongs: The payloads of the server's pongs.
        close_code: The code of the server's close frame, or 1006 where the wire ended without one; None before.
        close_reason: Its reason.
    """

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self.socket = socket
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._held: list[Any] = []
        self.welcome: list[Any] = []
        self.pings = 0
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._calls = 0
        self._ended = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        """Connect and take WELCOME; options are those of aiohttp's `ws_connect`."""
        session = aiohttp.ClientSession()
        options.setdefault("protocols", ("wamp",))
        try:
            peer = cls(
                session, await session.ws_connect(url, autoping=False, autoclose=False, max_msg_size=0, **options)
            )
        except BaseException:
            await session.close()
            raise
        try:
            peer.welcome = await peer.next()
            assert peer.welcome[0] == WELCOME
        except BaseException:
            await peer._leave()
            raise
        return peer

    @property
    def id(self) -> str:
        """The session id."""
        return str(self.welcome[1])

    async def _read(self) -> None:
        try:
            while True:
                message = await self.socket.receive()
                match message.type:
                    case WSMsgType.TEXT:
                        self._messages.put_nowait(json.loads(message.data, parse_constant=_refuse_constant))
                    case WSMsgType.PING:
                        self.pings += 1
                        await self.socket.pong(message.data)
                    case WSMsgType.PONG:
                        self.pongs.append(message.data)
                    case WSMsgType.CLOSE:
                        self.close_code, self.close_reason = message.data, message.extra
                        await self.socket.close()
                        return
                    case _:
                        return
        except (ConnectionError, RuntimeError):
            return
        finally:
            self.close_code = 1006 if self.close_code is None else self.close_code
            self._ended.set()

    # ---- out

    async def send(self, *elements: Any) -> None:
        """Send one message."""
        await self.socket.send_str(json.dumps(elements))

    async def send_text(self, text: str) -> None:
        """Send a text message as it is."""
        await self.socket.send_str(text)

    async def subscribe(self, uri: str) -> None:
        """Subscribe, and wait until the server has decided."""
        await self.send(SUBSCRIBE, uri)
        await self.settle()

    async def settle(self) -> None:
        """Wait until the server has run the topic messages sent so far."""
        assert (await self.call("wampkit:subscription", ""))[0] == RESULT

    async def call(self, uri: str, *args: Any) -> list[Any]:
        """Call, and return the answer; whatever else arrives meanwhile is kept."""
        self._calls += 1
        call_id = f"call-{self._calls}"
        await self.send(CALL, call_id, uri, *args)
        return await self.answer(call_id)

    async def result(self, uri: str, *args: Any) -> Any:
        """Call, and return the result of a call that succeeds."""
        answer = await self.call(uri, *args)
        assert answer[0] == RESULT, answer
        return answer[2]

    async def answer(self, call_id: str) -> list[Any]:
        """The answer to a call; whatever else arrives meanwhile is kept."""
        return await self.find(lambda message: message[0] in (RESULT, ERROR) and message[1] == call_id)

    async def find(self, wanted: Callable[[list[Any]], bool]) -> list[Any]:
        """The next message that is wanted; the others are kept."""
        for index, message in enumerate(self._held):
            if wanted(message):
                found: list[Any] = self._held.pop(index)
                return found
        while True:
            message = await asyncio.wait_for(self._messages.get(), PATIENCE)
            if wanted(message):
                found = message
                return found
            self._held.append(message)

    # ---- in

    async def next(self) -> list[Any]:
        """The next message."""
        if self._held:
            first: list[Any] = self._held.pop(0)
            return first
        message: list[Any] = await asyncio.wait_for(self._messages.get(), PATIENCE)
        return message

    async def events(self, count: int) -> list[Any]:
        """The next events, without their frame; other messages are kept."""
        return [(await self.find(lambda message: message[0] == EVENT))[2] for _ in range(count)]

    def rest(self) -> list[list[Any]]:
        """All messages that have arrived and nobody has taken."""
        arrived = [*self._held, *[self._messages.get_nowait() for _ in range(self._messages.qsize())]]
        self._held.clear()
        return arrived

    async def nothing(self) -> None:
        """Fail if something has arrived, or is on its way when the server answers its next message."""
        await self.settle()
        assert self.rest() == []

    # ---- the end

    async def closed(self) -> tuple[int | None, str]:
        """Wait for the end: the code and reason of the server's close frame, 1006 without one."""
        await asyncio.wait_for(self._ended.wait(), PATIENCE)
        return self.close_code, self.close_reason

    async def close(self, code: int = 1000, reason: bytes = b"") -> None:
        """Say goodbye and leave."""
        if not self.socket.closed and not self._ended.is_set():
            # The reader takes the server's close frame; `socket.close` would race it for that.
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self.socket._writer.close(code, reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), PATIENCE)
        await self._leave()

    async def reset(self) -> None:
        """Vanish: the server sees a connection reset."""
        transport = self.socket._response.connection.transport if self.socket._response.connection else None
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await self._leave()

    async def _leave(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        # The session does not release the connection of a socket that got no close frame.
        self.socket._response.close()
        await self._session.close()
        # Until the transport has really gone, the loop owes it a call.
        await asyncio.sleep(0)


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"the server sent {name}, which is no JSON")


class RawPeer:
    """A socket on which the test makes each frame itself; it reads only when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self.head = b""

    @classmethod
    async def connect(cls, port: int, *, rcvbuf: int | None = None, source: str = "127.0.0.1") -> Self:
        """A TCP connection, nothing said yet."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((source, 0))
        if rcvbuf is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        peer = cls(sock)
        await peer._loop.sock_connect(sock, ("127.0.0.1", port))
        return peer

    @classmethod
    async def open(cls, port: int, path: str = "/ws", *, behind: bytes = b"", **options: Any) -> Self:
        """Connect, shake hands and take WELCOME; `behind` is sent in one go with the handshake."""
        peer = await cls.connect(port, **options)
        await peer.send(handshake(path) + behind)
        peer.head = await peer.read_head()
        assert b" 101 " in peer.head.splitlines()[0] + b" ", peer.head
        welcome = await peer.read_message()
        assert welcome[0] == WELCOME
        peer.id = welcome[1]
        return peer

    id = ""

    # ---- out

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        await asyncio.wait_for(self._loop.sock_sendall(self.sock, data), PATIENCE)

    def send_now(self, data: bytes) -> None:
        """Bytes that the server finds when the loop looks next, whatever else it finds then."""
        assert self.sock.send(data) == len(data), "the kernel's buffer is too small for that"

    async def send_frame(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        """One frame."""
        await self.send(frame(opcode, payload, final=final))

    async def send_message(self, *elements: Any) -> None:
        """One WAMP message."""
        await self.send(message(*elements))

    # ---- in

    async def _more(self) -> None:
        data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 65536), PATIENCE)
        if not data:
            raise EOFError
        self._buffer += data

    async def read_head(self) -> bytes:
        """An HTTP response's head."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    async def read_to_end(self) -> bytes:
        """Everything until the server closes."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await self._more()
        data, self._buffer = self._buffer, b""
        return data

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def read_frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. Raises EOFError or ConnectionError at the end."""
        first, size = await self._exactly(2)
        if size == 126:
            (size,) = struct.unpack(">H", await self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self._exactly(8))
        return first & 0x0F, await self._exactly(size)

    async def read_message(self) -> list[Any]:
        """The next WAMP message; pings are left unanswered."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == 1:
                parsed: list[Any] = json.loads(payload)
                return parsed
            assert opcode in (9, 10), (opcode, payload)

    async def read_close(self) -> tuple[int, str]:
        """The code and reason of the server's close frame, whatever comes before it."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == 8:
                return struct.unpack(">H", payload[:2])[0], payload[2:].decode()

    # ---- the end

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish: the server sees a connection reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close the socket without a word."""
        self.sock.close()


def handshake(path: str = "/ws", *extra: str, protocol: str | None = "wamp") -> bytes:
    """A WebSocket handshake with further header lines."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if protocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    return "\r\n".join([*lines, *extra, "", ""]).encode()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A client's frame: masked."""
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    stream = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
    return head + mask + masked


def message(*elements: Any) -> bytes:
    """A client's frame around one WAMP message."""
    return frame(1, json.dumps(elements).encode())


def close(code: int = 1000, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return frame(8, struct.pack(">H", code) + reason)


class Server:
    """An app that serves on a loopback port.

    Attributes:
        port: The port.
        url: The WebSocket's URL.
        runner: aiohttp's runner, for tests of the shutdown.
        trouble: What reached the loop's exception handler.
    """

    def __init__(self, app: App, web_app: web.Application, path: str) -> None:
        self.app = app
        self.path = path
        self.runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=2.0)
        self.port = 0
        self.trouble: list[Mapping[str, Any]] = []
        self._peers: list[Peer | RawPeer] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{self.path}"

    async def peer(self, **options: Any) -> Peer:
        """A client that is connected and welcomed."""
        peer = await Peer.open(self.url, **options)
        self._peers.append(peer)
        return peer

    async def raw(self, **options: Any) -> RawPeer:
        """A raw client that is connected and welcomed."""
        peer = await RawPeer.open(self.port, self.path, **options)
        self._peers.append(peer)
        return peer

    async def tcp(self, **options: Any) -> RawPeer:
        """A raw TCP connection."""
        peer = await RawPeer.connect(self.port, **options)
        self._peers.append(peer)
        return peer

    async def ask(self, request: bytes) -> bytes:
        """What the server answers to bytes, until it closes."""
        peer = await self.tcp()
        await peer.send(request)
        answer = await peer.read_to_end()
        peer.close()
        return answer

    def connection(self, peer: Peer | RawPeer) -> Connection:
        """The server's side of a peer."""
        found = self.app.connections.get(peer.id)
        assert found is not None
        return found

    async def start(self) -> None:
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def disconnect(self) -> None:
        """Let all peers leave and wait until the app has noticed."""
        for peer in self._peers:
            if isinstance(peer, Peer):
                await peer.close()
            else:
                peer.close()
        self._peers.clear()
        if self.app.running:
            await eventually(lambda: not self.app.running or len(self.app.connections) == 0, "all connections gone")


@contextlib.asynccontextmanager
async def serve(
    app: App, path: str = "/ws", *, web_app: web.Application | None = None, drain: float = 2.0
) -> AsyncIterator[Server]:
    """Serve an app on 127.0.0.1 for the length of a block, and check that it leaves nothing behind.

    When the block ends all peers leave; then no connection, no topic and no task may be left, and nothing may
    have reached the loop's exception handler.
    """
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    if web_app is None:
        web_app = web.Application()
        app.setup(web_app, path, drain=drain)
    server = Server(app, web_app, path)
    loop.set_exception_handler(lambda _, context: server.trouble.append(context))
    try:
        await server.start()
        yield server
        await server.disconnect()
        if app.running:
            await eventually(lambda: not app.running or dict(app.topics) == {}, "no topics without subscribers left")
    finally:
        await server.disconnect()
        await server.runner.cleanup()
        await eventually(lambda: asyncio.all_tasks() <= before, f"no tasks left: {asyncio.all_tasks() - before}")
        loop.set_exception_handler(None)
    assert server.trouble == []


def sockets_of(server: Server) -> int:
    """How many sockets aiohttp holds for clients."""
    assert server.runner.server is not None
    return len(server.runner.server.connections)
