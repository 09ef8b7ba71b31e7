"""The HTTP side of the handshake: which are accepted, and how the others are refused."""

import asyncio
import logging
import re
from typing import Any

import aiohttp
import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from wampkit import AllowAddresses, AllowHosts, App, Sessions, Tickets, TrustedProxies

from ..interop.demo_app import make_app
from ..support.tables import rows
from ..support.wire import eventually, fds, handshake, serve, sockets_of


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


HANDSHAKE_HEADERS = (
    *("Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol"),
    *(
        "Sec-WebSocket-Extensions",
        "Origin",
        "Cookie",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "Forwarded",
        "User-Agent",
    ),
    *("Authorization", "Content-Length", "Accept", "X-Other"),
)


ODD = (
    *(b"\xff", b"a\x80b", b"\xc3\xa4", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"", b" ", b"\t", b'"', b",", b";", b"="),
    *(b"%00", b"\\", b"\x7f", b"1" * 5000, b"null", b"[", b"::", b"websocket, \xff", b"Upgrade, \xff", b"wamp, \xff"),
    *(
        b"13\xff",
        b"permessage-deflate; \xff=1",
        b"AIOHTTP_SESSION=\xff",
        b"for=\xff",
        b'for="[::\xff]"',
        b"http://\xff",
    ),
    b"dGhlIHNhbXBsZSBub25jZQ=\xff",
)


@pytest.mark.parametrize("compression", [False, True], ids=["direct", "queued"])
async def test_odd_bytes_in_a_handshake_get_a_plain_answer(compression: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever stands in any header or in the URL: 101 or a 4xx, no 500, no traceback, no versions."""
    fernet = Fernet(Fernet.generate_key())
    gates = [
        AllowAddresses("127.0.0.0/8", "::/0", "0.0.0.0/0"),
        AllowHosts("localhost", "*.example.com", "127.0.0.1"),
        Tickets(Fernet.generate_key()),
        Sessions(EncryptedCookieStorage(fernet, max_age=60)),
    ]
    app = App(
        middlewares=gates,
        trusted_proxies=TrustedProxies("127.0.0.1", header="X-Forwarded-For"),
        compression=compression,
        require_subprotocol=False,
    )
    requests = {(name, odd): _with(name, odd) for name in HANDSHAKE_HEADERS for odd in ODD}
    requests |= {("URL", odd): _raw("GET /ws?ticket=@ HTTP/1.1", *LINES).replace(b"@", odd) for odd in ODD}
    wrong = []
    async with serve(app, web_app=app.web_app()) as server:
        for row, request in requests.items():
            peer = await server.tcp()
            await peer.send(request)
            try:
                head = await peer.read_head()
            except EOFError:
                head = b""
            peer.close()
            # What is no HTTP never reaches the application: aiohttp answers by itself.
            told = b"aiohttp" in head and not head.startswith(b"HTTP/1.0 400 ")
            if told or not re.match(rb"HTTP/1\.[01] (101|4\d\d) ", head):
                wrong.append((row, head))
    assert wrong == []
    assert [each for each in caplog.records if each.exc_info and each.name != "aiohttp.server"] == []
    assert "Unhandled" not in caplog.text
    internal = [
        each for each in caplog.records if each.exc_info and not isinstance(each.exc_info[1], HttpProcessingError)
    ]
    assert internal == []


LINES = tuple(f"{name}: {value}" for name, value in GOOD.items())


def _with(name: str, value: bytes) -> bytes:
    """A handshake with this value of a header in the place of the good one."""
    lines = [*(line for line in LINES if not line.startswith(f"{name}:")), f"{name}: @"]
    return _raw("GET /ws HTTP/1.1", *lines).replace(b"@", value)


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


# ---- headers that come twice, and other versions


async def test_subprotocols_in_several_lines_are_one_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wamp` in a second Sec-WebSocket-Protocol line is taken, as RFC 6455 wants, and answered."""
    wrong = {}
    for reader in ("direct", "queued"):
        monkeypatch.setenv("WAMPKIT_READER", reader)
        async with serve(make_app()) as server:
            for lines in (
                ["wamp.2.json", "wamp"],
                ["wamp", "wamp.2.json"],
                ["a, b", "c,wamp , d"],
                ["wamp", "wamp"],
            ):
                peer = await server.tcp()
                offer = [f"Sec-WebSocket-Protocol: {line}" for line in lines]
                await peer.send(handshake("/ws", *offer, protocol=None))
                head = (await peer.read_head()).decode()
                if not head.startswith("HTTP/1.1 101 ") or "Sec-WebSocket-Protocol: wamp\r\n" not in head + "\r\n":
                    wrong[reader, str(lines)] = head
                    continue
                assert (await peer.read_message())[0] == 0
                await peer.send_message(2, "c", "ping")
                assert await peer.read_message() == [3, "c", "pong"]
            assert b" 400 " in (await server.ask(handshake("/ws", "Sec-WebSocket-Protocol: b", protocol="a")))[:20]
    assert wrong == {}


async def test_another_version_of_websocket_is_told_which_one_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any version but 13 is answered with 426 and the version that is spoken: older clients name their origin in a
    header that no gate looks at."""
    wrong = {}
    for reader in ("direct", "queued"):
        monkeypatch.setenv("WAMPKIT_READER", reader)
        async with serve(make_app()) as server:
            for lines in (["8"], ["7"], ["0"], ["14"], ["13, 8"], ["013"], [""], ["x"], ["13", "8"], ["8", "13"]):
                whole = handshake("/ws", *[f"Sec-WebSocket-Version: {line}" for line in lines])
                answer = await server.ask(whole.replace(b"Sec-WebSocket-Version: 13\r\n", b"", 1))
                if not answer.startswith(b"HTTP/1.1 426 ") or b"Sec-WebSocket-Version: 13\r\n" not in answer:
                    wrong[reader, str(lines)] = answer
            peer = await server.tcp()
            await peer.send(handshake("/ws", "Sec-WebSocket-Version: 13"))
            assert b" 101 " in await peer.read_head()
    assert wrong == {}


async def test_two_different_keys_are_refused() -> None:
    """A handshake with two keys has no answer that is right for both."""
    async with serve(make_app()) as server:
        answer = await server.ask(handshake("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"one Sec-WebSocket-Key" in answer
