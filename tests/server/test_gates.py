"""Gates of the handshake that take long, fail or hang, and clients that leave meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web

from wampkit import App, Connection, Limits, NotAllowed

from ..support.wire import CALL, Peer, RawPeer, eventually, fds, handshake, message, serve, sockets_of


def _raw(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def test_a_client_that_leaves_during_its_gates_leaves_nothing() -> None:
    """A client that vanishes while a gate takes its time is never a connection."""
    entered, gate = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    class Slow:
        async def connect(self, connection: Connection) -> None:
            entered.set()
            await gate.wait()

    app = App(middlewares=[Slow()])
    app.on_connect(lambda connection: seen.append("connected"))
    app.on_disconnect(lambda connection: seen.append("disconnected"))
    async with serve(app) as server:
        before = fds()
        peer = await server.tcp()
        await peer.send(handshake())
        await entered.wait()
        peer.reset()
        await eventually(lambda: fds() <= before)
        gate.set()
        await eventually(lambda: sockets_of(server) == 0)
        assert len(app.connections) == 0
        assert seen == []


@pytest.mark.parametrize("compression", [False, True], ids=["direct", "queued"])
@pytest.mark.parametrize("behind", [b"", message(CALL, "1", "one") * 5000], ids=["silent", "talking"])
@pytest.mark.parametrize("vanish", [RawPeer.close, RawPeer.reset], ids=["close", "reset"])
async def test_clients_that_leave_while_a_gate_hangs_free_their_places_at_once(
    compression: bool, behind: bytes, vanish: Callable[[RawPeer], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The gate is cancelled, the place is free for the next, and the log has no line of it."""
    caplog.set_level(logging.INFO, "wampkit")
    hanging: list[Connection] = []
    cancelled: list[Connection] = []

    class Hanging:
        async def connect(self, connection: Connection) -> None:
            if "pass" in connection.request.query:
                return
            hanging.append(connection)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(connection)

    app = App(middlewares=[Hanging()], limits=Limits(connections=10), compression=compression)
    async with serve(app) as server:
        for round in range(1, 4):
            peers = [await server.tcp() for _ in range(10)]
            for peer in peers:
                await peer.send(handshake() + behind)
            await eventually(lambda: len(hanging) == 10 * round)  # noqa: B023  # awaited in this turn
            assert (await server.ask(handshake())).startswith(b"HTTP/1.1 503 ")
            for peer in peers:
                vanish(peer)
            await eventually(lambda: len(cancelled) == 10 * round)  # noqa: B023
            await eventually(lambda: sockets_of(server) == 0)
        await (await server.peer(params={"pass": "1"})).close()
        assert app.counters.refused == 3
    assert [record.getMessage() for record in caplog.records if "as many clients" not in record.getMessage()] == []


@pytest.mark.parametrize("compression", [False, True], ids=["direct", "queued"])
@pytest.mark.parametrize("behind", [b"", message(CALL, "1", "one")], ids=["silent", "talking"])
async def test_a_client_that_leaves_while_on_connect_hangs_frees_its_place_at_once(
    compression: bool, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook is cancelled and the connection ends, though nobody reads from it yet."""
    app = App(limits=Limits(connections=1), compression=compression)
    entered, left = asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def greet(connection: Connection) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with serve(app) as server:
        peer = await server.raw(behind=behind)
        await asyncio.wait_for(entered.wait(), 5)
        peer.close()
        await asyncio.wait_for(left.wait(), 5)
        await eventually(lambda: len(app.connections) == 0)
        await server.raw()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_gate_that_takes_too_long_is_cancelled(stubborn: bool) -> None:
    """A handshake has its time: then it is refused with 503, also where the gate does not heed its cancellation."""

    class Hanging:
        async def connect(self, connection: Connection) -> None:
            with contextlib.suppress(asyncio.CancelledError) if stubborn else contextlib.nullcontext():
                await asyncio.Event().wait()

    app = App(middlewares=[Hanging()], limits=Limits(connections=1, handshake_timeout=0.3))
    async with serve(app) as server:
        for _ in range(2):
            answer = await server.ask(handshake())
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert answer.endswith(b"the handshake took longer than 0.3 s\n")
            assert b"\r\nretry-after: 1\r\n" in answer.lower()


async def test_a_stop_ends_gates_that_hang() -> None:
    """A server that stops is not kept by handshakes that wait."""
    entered = asyncio.Event()

    class Hanging:
        async def connect(self, connection: Connection) -> None:
            entered.set()
            await asyncio.Event().wait()

    app = App(middlewares=[Hanging()])
    async with serve(app) as server:
        peer = await server.tcp()
        await peer.send(handshake())
        await entered.wait()
        assert server.runner.server is not None
        await server.runner.server.shutdown(0.1)


async def _cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.parametrize(
    "error", [SystemExit(3), ConnectionResetError("mine"), ExceptionGroup("x", [ValueError()]), None], ids=repr
)
async def test_whatever_a_gate_raises_is_an_answer(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A gate that fails in any way is HTTP 500 for its client and one traceback in the log, and the server goes on."""

    class Failing:
        async def connect(self, connection: Connection) -> None:
            if error is not None:
                raise error
            await _cancelled()

    async with serve(App(middlewares=[Failing()])) as server:
        for _ in range(3):
            answer = await server.ask(handshake())
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"\r\nServer: wampkit\r\n" in answer
            assert b"Traceback" not in answer
        assert caplog.text.count("Traceback") >= 1
        assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_refusal_keeps_its_headers_and_any_text() -> None:
    """Headers that come twice arrive twice, and a text that no encoding has is no error."""

    class Refusing:
        async def connect(self, connection: Connection) -> None:
            if "odd" in connection.request.query:
                raise NotAllowed("no room \ud800")
            refusal = web.HTTPUnauthorized(text="log in")
            refusal.headers.add("WWW-Authenticate", "Basic")
            refusal.headers.add("WWW-Authenticate", "Bearer")
            refusal.headers.add("Set-Cookie", "a=1")
            refusal.headers.add("Set-Cookie", "b=2")
            raise refusal

    async with serve(App(middlewares=[Refusing()])) as server:
        answer = await server.ask(handshake())
        assert answer.startswith(b"HTTP/1.1 401 ")
        for line in (b"WWW-Authenticate: Basic", b"WWW-Authenticate: Bearer", b"Set-Cookie: a=1", b"Set-Cookie: b=2"):
            assert answer.count(line + b"\r\n") == 1, answer
        for name in (b"Content-Type", b"Content-Length", b"Server", b"Connection"):
            assert answer.count(b"\r\n" + name + b":") == 1, answer
        answer = await server.ask(handshake("/ws?odd=1"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"\r\n\r\nno room ?\n")


async def test_an_application_of_its_own_tells_no_versions_and_closes() -> None:
    """404 and 405 of `app.web_app()` say who answers as the socket's path does, and nothing behind them is read."""
    app = App()
    async with serve(app, web_app=app.web_app()) as server:
        for line, status in (("GET /nowhere HTTP/1.1", b"404"), ("POST /ws HTTP/1.1", b"405")):
            answer = await server.ask(_raw(line, "Host: x") + _raw("GET /ws HTTP/1.1", "Host: x"))
            assert answer.split()[1] == status
            assert answer.count(b"HTTP/1.1 ") == 1
            assert answer.lower().count(b"\r\nconnection: close\r\n") == 1
            assert b"\r\nServer: wampkit\r\n" in answer


async def test_messages_that_come_while_gates_decide_are_kept() -> None:
    """Frames that a client sends before it is let in are taken once it is."""
    entered, gate = asyncio.Event(), asyncio.Event()

    class Slow:
        async def connect(self, connection: Connection) -> None:
            entered.set()
            await gate.wait()

    app = App(middlewares=[Slow()])
    app.add_rpc("one", lambda: 1)
    async with serve(app) as server:
        opening = asyncio.create_task(server.raw(behind=message(CALL, "1", "one")))
        await entered.wait()
        gate.set()
        peer = await opening
        assert await peer.read_message() == [3, "1", 1]


async def test_a_request_after_the_stop_gets_an_answer() -> None:
    """Whoever asks while the app is not running gets 503 and no traceback."""
    app = App()
    async with serve(app) as server:
        await app.stop()
        assert (await server.ask(handshake())).startswith(b"HTTP/1.1 503 ")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await Peer.open(server.url)
