"""One connection of a client: what a server can do to it by frames that no library would send."""

import asyncio
import base64
import hashlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import WSMsgType, web

from wampkit import Client, ConnectionLost, State, connect
from wampkit.testing import drop

from ..support.foreign import Foreign, foreign
from ..support.wire import PATIENCE, eventually

WELCOME = '[0, "s", 1, "Other/1.0"]'
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A server's frame: not masked."""
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(payload)
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + b"\x7e" + struct.pack(">H", size) + payload
    return head + b"\x7f" + struct.pack(">Q", size) + payload


@asynccontextmanager
async def raw(talk: Talk, *, welcome: bool = True) -> AsyncIterator[str]:
    """The URL of a server that shakes hands and then leaves the bytes to `talk`."""
    running: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            key = next(line.split(b":")[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-key:"))
            accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            if welcome:
                writer.write(frame(1, WELCOME.encode()))
            await talk(reader, writer)
        except ConnectionError:
            pass

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.ensure_future(handle(reader, writer)))

    server = await asyncio.start_server(start, "127.0.0.1", 0)
    try:
        yield "ws://{}:{}/".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def lost_in_a_call(client: Client) -> ConnectionLost:
    """What a call in flight learns of the loss."""
    with pytest.raises(ConnectionLost) as lost:
        await asyncio.wait_for(client.call("anything"), 5)
    return lost.value


# ---- servers that break the protocol


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xf1\x00", id="reserved bits"),
        pytest.param(b"\x83\x00", id="unknown opcode"),
        pytest.param(b"\x89\x7e\x00\xff" + b"x" * 255, id="long ping"),
        pytest.param(frame(1, b"\xff\xfe"), id="not UTF-8"),
        pytest.param(b"\x81\x7f" + struct.pack(">Q", 1 << 62), id="4 EiB announced"),
        pytest.param(frame(1, b"x" * 9000, final=False) * 3, id="too large in pieces"),
        pytest.param(frame(8, b"\x00"), id="half a close code"),
        pytest.param(frame(2, b"x"), id="binary"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no frame at all"),
    ],
)
async def test_broken_frames_end_the_connection(data: bytes) -> None:
    """Frames that WebSocket or WAMP forbid end the connection, and what says so names the server."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(data)
        await asyncio.Event().wait()  # never closes its side

    options: dict[str, Any] = {"reconnect": False, "close_timeout": 0.2, "max_message_size": 20_000}
    async with raw(talk) as url, connect(url, **options) as client:
        assert "the server broke" in (await lost_in_a_call(client)).reason


async def test_data_without_end_after_an_error_does_not_hold_the_client() -> None:
    """A server that goes on sending after its error is left within the close timeout."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(frame(1, b"nonsense"))
        while True:
            writer.write(frame(1, b"x" * 60_000))
            await writer.drain()

    async with raw(talk) as url:
        client = await connect(url, reconnect=False, close_timeout=0.2).open()
        await lost_in_a_call(client)
        await client.wait_for(State.CLOSED, timeout=5)
        await asyncio.wait_for(client.close(), 5)


async def test_pings_without_end_that_nobody_reads_answers_to_do_not_pile_up() -> None:
    """A server that sends pings and reads nothing makes the client hold one answer, not one for each."""
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(frame(9, b"p" * 125) * 1000)
            sent += 1000
            await writer.drain()

    async with raw(talk) as url:
        before = len(asyncio.all_tasks())
        async with connect(url, reconnect=False, keepalive=None, close_timeout=0.2):
            most = 0
            end = time.monotonic() + 10
            while sent < 150_000 and time.monotonic() < end:
                most = max(most, len(asyncio.all_tasks()))
                await asyncio.sleep(0)
        assert sent >= 150_000
        assert most - before < 10


@pytest.mark.parametrize(("text", "code"), [("nonsense", 1007), ("[99]", 1002)])
async def test_the_server_is_told_what_it_broke(other: Foreign, text: str, code: int) -> None:
    """The close frame carries the code that RFC 6455 has for the fault."""
    told: list[object] = []

    async def speak(ws: web.WebSocketResponse) -> None:
        await ws.send_str(WELCOME)
        await ws.send_str(text)
        frame = await ws.receive()
        told.append((frame.type, frame.data))

    other.script = speak
    async with connect(other.url, reconnect=False) as client:
        await client.wait_for(State.CLOSED, timeout=5)
        assert client.error is not None
        assert client.error.code == code
    await eventually(lambda: told == [(WSMsgType.CLOSE, code)])


async def test_closing_sends_one_close_frame() -> None:
    """`close` shakes hands: one close frame goes out, the server's is awaited, and nothing follows."""
    received = b""
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = await reader.read(1000)
        writer.write(frame(8, struct.pack(">H", 1000)))
        received += await reader.read()
        ended.set()

    async with raw(talk) as url:
        client = await connect(url).open()
        await client.close()
        await asyncio.wait_for(ended.wait(), 5)
    assert (received[:2], len(received)) == (b"\x88\x82", 8)


# ---- servers that never become one


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(frame(2, b"x"), "no WAMP v1 server.*binary", id="binary"),
        pytest.param(frame(1, b"hello"), "no WAMP v1 server", id="no JSON"),
        pytest.param(frame(8, struct.pack(">H", 1013) + b"full"), "before WELCOME.*full", id="close"),
        pytest.param(b"\xf1\x00", "broke the WebSocket protocol", id="bad frame"),
    ],
)
async def test_what_comes_in_place_of_welcome_is_named(data: bytes, says: str) -> None:
    """Whatever a server does before WELCOME, opening fails and says what it was."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await asyncio.Event().wait()

    async with raw(talk, welcome=False) as url:
        with pytest.raises(ConnectionLost, match=says):
            await asyncio.wait_for(connect(url, close_timeout=0.2).open(), 5)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 101 Yes\r\n\r\n", b""])
async def test_what_is_no_handshake_is_a_lost_connection(answer: bytes) -> None:
    """A port where something else answers gives ConnectionLost that names the place."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionLost, match=f"127.0.0.1:{port}"):
        await asyncio.wait_for(connect(f"ws://127.0.0.1:{port}/").open(), 5)
    server.close()


async def test_why_there_is_no_connection_is_told_truly() -> None:
    """A port that speaks no TLS, a name that is none and a port where nobody listens are told apart."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionLost, match=f"ws://127.0.0.1:{port}/: Connection refused$"):
        await connect(f"ws://127.0.0.1:{port}/").open()
    with pytest.raises(ConnectionLost, match="(?i)[^:]/: (?!.*errno).*name"):
        await connect("ws://no-such-host.invalid/").open()
    plain = await asyncio.start_server(_speak_plainly, "127.0.0.1", 0)
    port = plain.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionLost, match="there is no TLS; is it ws://"):
        await connect(f"wss://127.0.0.1:{port}/").open()
    plain.close()


async def _speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"this is no TLS")
    await reader.read()
    writer.close()


async def test_a_missing_welcome_leaves_nothing_open() -> None:
    """A server that shakes hands and says no more is left: no socket stays, in the caller's session either."""
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        left.set()

    async with raw(talk, welcome=False) as url, aiohttp.ClientSession() as session:
        before = asyncio.all_tasks()
        with pytest.raises(ConnectionLost, match="no WELCOME within"):
            await connect(url, session=session, open_timeout=0.1, close_timeout=0.1).open()
        await asyncio.wait_for(left.wait(), PATIENCE)
        await eventually(lambda: len(asyncio.all_tasks() - before) <= 1, "no task is left but the server's")


async def test_leaving_does_not_wait_for_a_server_that_has_not_told(other: Foreign) -> None:
    """A subscription of which the server has not said whether it stands can be left at once."""
    other.hold_pings = True
    async with connect(other.url, reconnect=False, close_timeout=0.1) as client:
        subscription = client.subscribe("news")
        starting = asyncio.ensure_future(subscription.start())
        await eventually(lambda: [5, "news"] in other.received)
        await subscription.stop()
        assert not starting.done()
        starting.cancel()


async def test_an_unanswered_handshake_is_not_waited_for() -> None:
    """A port that accepts and stays silent is given up after `open_timeout`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"ws://127.0.0.1:{silent.getsockname()[1]}/", open_timeout=0.1)
        with pytest.raises(ConnectionLost, match=r"no WELCOME within 0\.1 s"):
            await client.open()


async def test_errors_do_not_show_secrets_of_the_url() -> None:
    """Neither the query nor the user of the URL is in the error, for it ends in logs."""
    with pytest.raises(ConnectionLost) as lost:
        await connect("ws://user:pass@127.0.0.1:1/ws?token=hush").open()
    assert "ws://127.0.0.1:1/ws" in str(lost.value)
    assert not any(secret in str(lost.value) for secret in ("user", "pass", "hush"))


# ---- keepalive and other loops


def hold_up_the_loop(seconds: float) -> None:
    """What a careless callback does."""
    time.sleep(seconds)


async def test_a_loop_that_was_held_up_is_not_held_against_the_server() -> None:
    """When the client's own loop stood still while a pong arrived, the pong still counts."""
    pinged, held = threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()
    urls: list[str] = []
    pongs = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pongs
        while True:
            head = await reader.readexactly(6)
            mask, payload = head[2:], await reader.readexactly(head[1] & 0x7F)
            if head[0] == 0x88:
                return
            pinged.set()
            held.wait(5)
            writer.write(frame(10, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))))
            pongs += 1

    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with raw(talk) as url:
            urls.append(url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(5)
        states: list[State] = []
        async with connect(urls[0], keepalive=0.2, close_timeout=0.2, on_state=states.append):
            await eventually(pinged.is_set)
            held.set()
            hold_up_the_loop(0.3)
            await eventually(lambda: pongs >= 3)
        assert states == [State.OPEN, State.CLOSED]
    finally:
        held.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


def test_it_runs_on_uvloop() -> None:
    """On uvloop, where a transport's socket cannot be shut, `drop` cuts the wire as well."""

    async def run() -> list[State]:
        states: list[State] = []
        async with (
            foreign() as server,
            connect(server.url, backoff=(0.01, 0.02), on_state=states.append) as client,
            client.subscribe("t") as events,
        ):
            await drop(client)
            await client.wait_for(State.OPEN, timeout=5)
            await client.publish("t", 1)
            assert await events.get(timeout=5) == 1
        return states

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == [State.OPEN, State.RECONNECTING, State.OPEN, State.CLOSED]
