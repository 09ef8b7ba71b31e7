"""The server under attack: raw sockets send what the grammar draws, and a client beside them must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import re
import socket
import struct
from typing import Any

from tests.support.wire import EVENT, PUBLISH, RESULT, Server, eventually, serve
from wampkit import App, Connection, InvalidArgument, Limits, Topic, WampError
from wampkit.telemetry.http_logs import quiet_http_errors

from .grammar import Grammar
from .report import Report, Until, watched

__all__ = ["CONFIGURATIONS", "fuzz_server"]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "compression": {"compression": True},
    "lenient": {"malformed": "ignore", "require_subprotocol": False, "explain_refusals": True},
    "drop": {"limits": Limits(slow_reader="drop", queue=20_000)},
    "rated": {"limits": Limits(messages_per_second=200, burst=200, calls=10, calls_size=50_000, subscriptions=3)},
}
"""Options of the app under attack; a run takes one after the other."""

AT_ONCE = 16


class WaitingGate:
    """A gate that waits as one with a database does, so that clients leave meanwhile."""

    async def connect(self, connection: Connection) -> None:
        await asyncio.sleep(0.001)
        if connection.request.headers.get("Origin") == "null":
            connection.user = "somebody"


def make_app(**options: Any) -> App:
    """An app with a route of each kind; none of its handlers raises what it did not mean to."""
    app = App(prefixes={"calc": "http://example.com/calc#"}, middlewares=[WaitingGate()], **options)

    @app.rpc("echo")
    async def echo(*args: Any) -> list[Any]:
        return list(args)

    @app.rpc("calc:add")
    async def add(x: int, y: int = 1) -> int:
        return x + y

    @app.rpc("slow", timeout=0.05)
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(0.01)
        conn.attributes["slow"] = True

    @app.rpc("block")
    def block(value: str = "") -> str:
        return value

    @app.rpc("fail")
    async def fail(details: Any = None) -> None:
        raise WampError("calc:error", "as asked", details)

    @app.rpc("item/{number}")
    async def item(number: int) -> int:
        return number

    _declare_topics(app)
    return app


def _declare_topics(app: App) -> None:
    app.topic("relay", relay=True)
    app.topic("calc:relay", relay=True)
    app.topic("canary", relay=True)
    app.topic("mute")

    @app.topic("typed")
    async def typed(event: dict[str, int]) -> dict[str, int]:
        return event

    room = app.topic("room/{name}", relay=True)

    @room.on_subscribe
    async def enter(topic: Topic, name: str, conn: Connection) -> None:
        await asyncio.sleep(0.001)
        if name == "b":
            raise InvalidArgument("not this one")
        await topic.publish({"entered": name}, eligible=[conn.id])

    @room.on_unsubscribe
    async def leave(topic: Topic, name: str) -> None:
        await topic.publish({"left": name})

    @app.topic("careful")
    async def careful(event: Any, topic: Topic) -> None:
        await topic.publish(len(topic))


async def fuzz_server(
    seed: str, seconds: float, only: int | None = None, configurations: list[str] | None = None
) -> Report:
    """Attack a server, and hold it to what it promises.

    It must end with no connection and no topic left, log no error, answer in WAMP v1 alone, and answer a client that
    does nothing wrong throughout.

    Args:
        seed: What decides what is sent.
        seconds: How long, over all configurations.
        only: The number of the one connection to make again, or None.
        configurations: Names of those to run; None for all.
    """
    report = Report()
    quiet_http_errors()
    names = configurations or list(CONFIGURATIONS)
    for name in names:
        with watched(report):
            await _fuzz(f"{seed}-{name}", make_app(**CONFIGURATIONS[name]), Until(seconds / len(names), only), report)
    return report


async def _fuzz(seed: str, app: App, numbers: Until, report: Report) -> None:
    async with serve(app) as server:
        stop = asyncio.Event()
        canary = asyncio.create_task(_canary(server, Grammar(f"{seed}-canary"), stop, report))
        await asyncio.gather(*[_attackers(seed, server, numbers, report) for _ in range(AT_ONCE)])
        stop.set()
        await canary
        try:
            await eventually(lambda: not app.connections and not app.topics, timeout=10)
        except AssertionError:
            report.add("something is left over", f"{seed}: {list(app.connections)} {list(app.topics)}")


async def _attackers(seed: str, server: Server, numbers: Until, report: Report) -> None:
    for number in numbers:
        report.connections += 1
        grammar = Grammar(f"{seed}-{number}", [conn.id for conn in server.app.connections][:4])
        attacker = _Attacker(grammar, report, f"{seed} --only {number}")
        try:
            async with asyncio.timeout(20):
                await attacker.run(server.port)
        except TimeoutError:
            report.add("the connection did not end", attacker.name)
        except OSError as error:
            # The server may hang up at any time.
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise


class _Attacker:
    def __init__(self, grammar: Grammar, report: Report, name: str) -> None:
        self.name = name
        self._grammar = grammar
        self._report = report
        self._loop = asyncio.get_running_loop()

    async def run(self, port: int) -> None:
        """One connection: handshake, messages, and one of the ways to leave."""
        with socket.socket() as sock:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, ("127.0.0.1", port))
            await self._loop.sock_sendall(sock, self._grammar.request())
            if self._grammar.chance(0.1):
                return self._reset(sock)  # before the answer
            reads = not self._grammar.chance(0.15)
            reader = asyncio.create_task(self._read(sock)) if reads else None
            try:
                await self._send_all(sock)
                await self._leave(sock, reader)
            finally:
                if reader is not None:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)

    async def _send_all(self, sock: socket.socket) -> None:
        grammar = self._grammar
        for _ in range(grammar.random.randrange(1, 40)):
            data = grammar.frames(grammar.client_message(), masked=True)
            self._report.messages += 1
            for chunk in grammar.chunks(data):
                await self._loop.sock_sendall(sock, chunk)
            if grammar.chance(0.1):
                await asyncio.sleep(0)

    async def _leave(self, sock: socket.socket, reader: asyncio.Task[None] | None) -> None:
        match self._grammar.random.randrange(4):
            case 0:
                await self._loop.sock_sendall(sock, self._grammar.close(masked=True))
                if reader is not None:
                    await reader
            case 1:
                sock.shutdown(socket.SHUT_WR)
                if reader is not None:
                    await reader
            case 2:
                self._reset(sock)
            case _:
                pass

    def _reset(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # ---- what the server says

    async def _read(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := await self._loop.sock_recv(sock, 65536):
                data += more
                if len(data) > 4_000_000:
                    return
        self._judge(data)

    def _judge(self, data: bytes) -> None:
        """Whether all that the server said is HTTP without a version, or WAMP v1 in whole and plain frames."""
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head:
            return
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        status = found[1] if found is not None else b"?"
        if status not in (b"101", b"200", b"400", b"403", b"404", b"405", b"426", b"431", b"503"):
            self._report.add(f"answered {status!r}", f"{self.name}: {head!r}")
        # The parser of aiohttp and the site around the app answer these; under `wampkit run` they say less.
        others = status in (b"400", b"404", b"405") and b"aiohttp/" in head
        if not others and (b"aiohttp/" in head or b"Python/" in head):
            self._report.add(f"tells its version with {status!r}", f"{self.name}: {head!r}")
        if status == b"101":
            self._judge_frames(rest, b"permessage-deflate" in head)

    def _judge_frames(self, data: bytes, compressed: bool) -> None:
        first = True
        while len(data) >= 2:
            opcode, size, begin = data[0], data[1], 2
            if size & 0x80 or opcode not in (0x81, 0x88, 0x89, 0x8A, 0xC1) or (opcode == 0xC1 and not compressed):
                return self._report.add("a wrong frame", f"{self.name}: {data[:20]!r}")
            if size >= 126:
                width = 2 if size == 126 else 8
                size, begin = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
            payload, complete = data[begin : begin + size], len(data) >= begin + size
            if opcode == 0x81 and complete:
                self._judge_message(payload, first)
                first = False
            data = data[begin + size :]
        return None

    def _judge_message(self, payload: bytes, first: bool) -> None:
        try:
            message = json.loads(payload.decode(), parse_constant=_refused)
        except ValueError as error:
            return self._report.add("no JSON", f"{self.name}: {payload[:80]!r}: {error}")
        if type(message) is not list or message[:1] not in ([0], [3], [4], [8]) or (message[0] == 0) is not first:
            self._report.add("an unexpected message", f"{self.name}: {payload[:80]!r}")
        self._report.answers += 1
        return None


def _refused(word: str) -> None:
    raise ValueError(word)


async def _canary(server: Server, grammar: Grammar, stop: asyncio.Event, report: Report) -> None:
    """A client that does nothing wrong: each call is answered with its arguments, and its own events come back."""
    peer = await server.peer()
    await peer.subscribe("canary")
    count = 0
    try:
        while not stop.is_set():
            count += 1
            value = json.loads(json.dumps(grammar.value()).encode("utf-8", "replace"))
            if _holds_surrogate(value):
                continue
            answer = await _within(peer.call("echo", value))
            if answer[0] != RESULT or json.dumps(answer[2]) != json.dumps([value]):
                report.add("a wrong answer to the bystander", f"{value!r} gave {answer!r}")
            await peer.send(PUBLISH, "canary", count, False)
            event = await _within(peer.find(lambda message: message[0] == EVENT))
            if event != [EVENT, "canary", count]:
                report.add("a wrong event to the bystander", f"{count} came as {event!r}")
            await asyncio.sleep(0.02)
    except Exception as error:
        report.add("the bystander was harmed", repr(error))
        await stop.wait()
    report.answers += count
    await peer.close()


def _holds_surrogate(value: Any) -> bool:
    return "\\ud8" in json.dumps(value)


async def _within(wanted: Any) -> list[Any]:
    return list(await asyncio.wait_for(wanted, 15))
