"""The HTTP side: which handshakes get in, what the others are told, and that nobody is kept waiting."""

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from wampkit import App, Connection

from .tables import rows
from .wire import CALL, Peer, eventually, fds, handshake, message, serve, sockets_of


def _raw(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


GOOD = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "wamp",
}


def _request(line: str = "GET /ws HTTP/1.1", *, extra: tuple[str, ...] = (), **changes: str | None) -> bytes:
    headers: dict[str, Any] = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return _raw(line, *[f"{name}: {value}" for name, value in headers.items() if value is not None], *extra)


async def _head(server: Any, request: bytes) -> bytes:
    peer = await server.tcp()
    await peer.send(request)
    head: bytes = await peer.read_head()
    peer.close()
    return head


# ---- who gets in


@pytest.mark.parametrize("offer", ["wamp", "wamp.2.json, wamp", "wamp , x", "x,wamp", " wamp "])
async def test_a_client_that_offers_wamp_gets_it(offer: str) -> None:
    """Whatever else a client offers, the answer names exactly `wamp`."""
    async with serve(App()) as server:
        head = (await _head(server, _request(Sec_WebSocket_Protocol=offer))).lower()
        assert head.startswith(b"http/1.1 101 ")
        assert head.count(b"sec-websocket-protocol:") == 1
        assert b"\r\nsec-websocket-protocol: wamp" in head


@rows("offer", [None, "", "WAMP", "wamp.2.json", "xwamp", "wamp2, wam", ","])
@rows("required", [True, False])
async def test_a_client_without_wamp_is_refused(offer: str | None, required: bool) -> None:
    """A client that offers other subprotocols gets 400; one that offers none too, unless the app lets it in."""
    async with serve(App(require_subprotocol=required)) as server:
        head = await _head(server, _request(Sec_WebSocket_Protocol=offer))
        if offer is None and not required:
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"protocol" not in head.lower().replace(b"switching protocols", b"")
        else:
            assert head.startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_offers_nothing_is_served_where_the_app_says_so() -> None:
    """With require_subprotocol=False clients such as wamp1 are welcomed like any other."""
    app = App(require_subprotocol=False)
    app.add_rpc("one", lambda: 1)
    async with serve(app) as server:
        peer = await server.peer(protocols=())
        assert await peer.result("one") == 1


# ---- who does not


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_plain_request_is_told_what_this_is(method: str) -> None:
    """A browser that opens the path gets 426 and a text that says what to do."""
    async with serve(App()) as server:
        answer = await server.ask(_raw(f"{method} /ws HTTP/1.1", "Host: localhost"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 426 ")
        assert b"upgrade: websocket" in head.lower()
        assert b"connection: close" in head.lower()
        assert (b"WAMP" in body and b"WebSocket" in body) is (method == "GET")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(method: str) -> None:
    """Only GET opens a WebSocket."""
    async with (
        serve(App()) as server,
        aiohttp.ClientSession() as session,
        session.request(method, server.url.replace("ws:", "http:"), headers={"Upgrade": "websocket"}) as answer,
    ):
        assert answer.status == 405


@rows(
    "changes",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": "not base64 !!!!!!!!!!!!!"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "12"},
        {"Sec_WebSocket_Version": "99"},
        {"Connection": "keep-alive"},
        {"Upgrade": "h2c"},
        {"line": "GET /ws HTTP/1.0"},
    ],
)
async def test_a_bad_handshake_is_refused_and_closed(
    changes: dict[str, str | None], caplog: pytest.LogCaptureFixture
) -> None:
    """What is no WebSocket handshake gets one 4xx answer, no traceback, and a closed connection."""
    line = changes.pop("line", None) or "GET /ws HTTP/1.1"
    async with serve(App()) as server:
        answer = await server.ask(_request(line, **changes))
        assert answer.startswith(b"HTTP/1.0 4" if line.endswith("1.0") else b"HTTP/1.1 4"), answer
        assert answer.count(b"HTTP/1.") == 1
    assert "Traceback" not in caplog.text


@rows(
    "request_bytes",
    [
        _request(extra=("X: " + "x" * 9000,)),
        _request(extra=tuple(f"X-{number}: x" for number in range(200))),
        _request(extra=("Host: evil.example",)),
        _request(extra=("X: \x00",)),
        _request("GET /ws HTTP/9.9"),
        _request("GET /ws"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"\x00\xff\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_closed(request_bytes: bytes) -> None:
    """Bytes that are no HTTP, or more of it than one may send, get one 4xx answer and a closed connection."""
    async with serve(App()) as server:
        answer = await server.ask(request_bytes)
        assert answer.startswith(b"HTTP/")
        assert answer.split()[1].startswith(b"4"), answer
        assert answer.count(b"HTTP/1.1 ") + answer.count(b"HTTP/1.0 ") <= 1
        assert len(server.app.connections) == 0


async def test_an_upgrade_with_a_body_is_not_taken_as_two() -> None:
    """A body on the upgrade request never runs as a request or a message of its own."""
    ran: list[str] = []
    app = App()

    @app.rpc("run")
    async def run() -> None:
        ran.append("run")

    smuggled = b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serve(app) as server:
        peer = await server.tcp()
        await peer.send(_request(extra=(f"Content-Length: {len(smuggled)}",)) + smuggled)
        head = await peer.read_head()
        peer.close()
        assert b" 426 " not in head
    assert ran == []


async def test_a_refusal_is_one_line_for_many(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred handshakes without subprotocol are a few log lines with a count, from wampkit and aiohttp together."""
    caplog.set_level(logging.INFO)
    async with serve(App()) as server:
        for _ in range(100):
            await _head(server, _request(Sec_WebSocket_Protocol="other"))
    assert 1 <= len([record for record in caplog.records if record.name != "asyncio"]) <= 5
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_answers_do_not_tell_versions() -> None:
    """Neither a welcome nor a refusal tells the versions of Python and aiohttp."""
    async with serve(App()) as server:
        for request in _request(), _request(Sec_WebSocket_Protocol=None), _raw("GET /ws HTTP/1.1", "Host: x"):
            head = await _head(server, request)
            assert b"python" not in head.lower()
            assert b"aiohttp" not in head.lower()


async def test_thousands_of_refused_handshakes_leave_nothing() -> None:
    """Refused handshakes leave no socket, no connection and no task."""
    async with serve(App()) as server:
        before, tasks = fds(), len(asyncio.all_tasks())
        for _ in range(10):
            await asyncio.gather(*[server.ask(_request(Sec_WebSocket_Protocol="no")) for _ in range(50)])
        await eventually(lambda: fds() <= before)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert sockets_of(server) == 0
        assert len(server.app.connections) == 0


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
        await eventually(lambda: fds() == before)
        gate.set()
        await eventually(lambda: sockets_of(server) == 0)
        assert len(app.connections) == 0
        assert seen == []


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
