"""The client with servers that misbehave or are not wampkit: malformed messages, no WELCOME, CURIEs."""

import asyncio
import gc
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from wampkit import App, CallError, ConnectionLost, connect

from ..support.foreign import Foreign, foreign
from ..support.hostile import EXPECTED, ROWS, misbehave
from ..support.wire import serve

# ---- servers that misbehave


async def test_no_message_of_a_server_is_raised_where_nobody_catches(other: Foreign) -> None:
    """After any text a call is answered, or raises ConnectionLost and the client is closed; nothing else is raised."""
    other.script = misbehave
    wrong: list[tuple[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(("uncaught", context)))
    for row, (name, expected) in enumerate(EXPECTED):
        client = connect(f"{other.url}?row={row}", reconnect=False, prefixes={"a": "http://a/"})
        try:
            async with client, client.subscribe("t"):
                seen: Any = await client.call("echo", timeout=5)
        except ConnectionLost as lost:
            seen = lost.code if lost.code != 1007 else 1002  # what is no JSON at all
            if row < len(ROWS) and "the server broke WAMP v1" not in lost.reason:
                wrong.append((name, lost.reason))
        if seen != (expected[0] if expected[0] == "answered" else expected[1]):
            wrong.append((name, seen))
    gc.collect()
    await asyncio.sleep(0)
    assert wrong == []


async def test_binary_and_huge_messages_end_the_connection(other: Foreign) -> None:
    """A binary message, and one over `max_message_size`, are not taken."""
    frames: list[Any] = [b"\x00", '[3, "x", "' + "x" * 5000 + '"]']

    async def speak(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await ws.receive()
        frame = frames.pop()
        await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
        await ws.receive()

    other.script = speak
    for _ in range(2):
        async with connect(other.url, reconnect=False, max_message_size=1000) as client:
            with pytest.raises(ConnectionLost, match="broke"):
                await client.call("echo", timeout=5)


async def test_a_message_may_have_four_mebibytes(other: Foreign) -> None:
    """A larger one ends the connection, unless `max_message_size` is raised."""
    other.answers = {"large": [3, "x" * (5 << 20)]}
    async with connect(other.url, reconnect=False, max_message_size=6 << 20) as client:
        assert len(await client.call("large")) == 5 << 20
    async with connect(other.url, reconnect=False) as client:
        with pytest.raises(ConnectionLost, match="exceeds limit|too large|size"):
            await client.call("large")


@pytest.mark.parametrize("first", ['[8, "t", 1]', "hello", '[0, 1, 1, "x"]'])
async def test_what_does_not_welcome_is_no_server(other: Foreign, first: str) -> None:
    """A server whose first message is no WELCOME is refused with an error that says what it is not."""

    async def speak(ws: web.WebSocketResponse) -> None:
        await ws.send_str(first)
        await ws.receive()

    other.script = speak
    with pytest.raises(ConnectionLost, match="no WAMP v1 server"):
        await connect(other.url).open()


async def test_a_server_that_says_nothing_is_not_waited_for(other: Foreign) -> None:
    """Without WELCOME within `open_timeout` the attempt fails."""

    async def mute(ws: web.WebSocketResponse) -> None:
        await ws.receive()

    other.script = mute
    with pytest.raises(ConnectionLost, match="no WELCOME within 0.1 s"):
        await connect(other.url, open_timeout=0.1).open()


async def test_a_server_without_subprotocol_is_accepted() -> None:
    """wamp.io selects no subprotocol; if it welcomes, it is a WAMP v1 server."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str('[0, "s", 1]')
        message = json.loads((await ws.receive()).data)
        await ws.send_str(json.dumps([3, message[1], "yes"]))
        await ws.receive()
        return ws

    web_app = web.Application()
    web_app.router.add_get("/", handle)
    runner = web.AppRunner(web_app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    try:
        async with connect("ws://{}:{}/".format(*runner.addresses[0])) as client:
            assert await client.call("anything") == "yes"
    finally:
        await runner.cleanup()


# ---- what other servers do


async def test_names_that_a_server_shortened_are_understood(other: Foreign) -> None:
    """The error URI of a CALLERROR and the topic of an EVENT may be CURIEs of the client's own prefixes."""
    other.answers = {"teapot": [4, "err:teapot", "short"], "full": [4, "http://err/full", "and stout"]}
    async with (
        connect(other.url, prefixes={"err": "http://err/", "t": "http://t/"}) as client,
        client.subscribe("http://t/a") as events,
    ):
        for procedure in ("teapot", "full"):
            with pytest.raises(CallError) as failed:
                await client.call(procedure)
            assert failed.value.uri == f"http://err/{procedure}"
        await other.sockets[0].send_json([1, "t", "http://theirs/"])
        await other.sockets[0].send_json([8, "t:a", 1])
        assert await events.get(timeout=5) == 1


async def test_a_server_without_welcome_is_spoken_to(other: Foreign) -> None:
    """As the League of Legends client: with `welcome=False` the client is open at once, and empty texts are nothing."""

    async def league(ws: web.WebSocketResponse) -> None:
        await ws.send_str("")
        async for frame in ws:
            if frame.data == '[5,"OnJsonApiEvent"]':
                await ws.send_str("")
                await ws.send_str('[8,"OnJsonApiEvent",{"data":1,"eventType":"Update","uri":"/lol"}]')

    other.script = league
    async with connect(other.url, welcome=False) as client, client.subscribe("OnJsonApiEvent") as events:
        assert (await events.get(timeout=5))["uri"] == "/lol"
        assert (client.session_id, client.server_ident, events.accepted) == ("", "", None)
    with pytest.raises(ConnectionLost, match="no WAMP v1 server"):
        await connect(other.url).open()


async def test_what_a_server_calls_itself_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A wampkit server that is called otherwise tells refusals, and another that is called wampkit is asked nothing."""
    app = App(ident="my shop")
    app.topic("open", relay=True)
    async with (
        serve(app) as server,
        connect(server.url) as client,
        client.subscribe("open") as taken,
        client.subscribe("nowhere") as refused,
    ):
        assert (taken.accepted, refused.accepted) == (True, False)
    async with foreign() as other:
        other.ident = "wampkit/9"
        async with connect(other.url) as client, client.subscribe("t") as events:
            assert (events.accepted, other.sent(2)) == (None, [])
