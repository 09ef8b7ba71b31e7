"""Both ways in: frames reach their connection alike, and a flood is taken in turns."""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest

from wampkit import App, Limits
from wampkit.connection.reader import can_read_directly
from wampkit.connection.sockets import FRAME_BATCH

from ..interop.demo_app import make_app
from ..support.loops import on_uvloop
from ..support.wire import CALL, PUBLISH, SUBSCRIBE, eventually, frame, handshake, message, serve

FLOODING = 1000
FLOOD = message(CALL, "f", "note", "flood") * FLOODING
"""Calls that come to the server in one chunk."""


@pytest.fixture(params=["direct", "queued"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two readers."""
    monkeypatch.setenv("WAMPKIT_READER", request.param)
    return str(request.param)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct reader serves the aiohttp that it was written for, unless either name asks for the queued one."""
    monkeypatch.delenv("WAMPKIT_READER", raising=False)
    assert can_read_directly()
    monkeypatch.setenv("WAMPKIT_READER", "queued")
    assert not can_read_directly()
    monkeypatch.delenv("WAMPKIT_READER")
    monkeypatch.setenv("WAMPKIT_INLET", "public")
    assert not can_read_directly()


def test_another_aiohttp_takes_the_queued_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aiohttp whose private names are not known is used through its public ones."""
    monkeypatch.delenv("WAMPKIT_READER", raising=False)
    for version in ("3.14.4", "3.15.0", "4.0.0a2"):
        monkeypatch.setattr("aiohttp.__version__", version)
        assert not can_read_directly(), version
    monkeypatch.setattr("aiohttp.__version__", "3.14.9")
    assert can_read_directly()


CHANGED = {
    "another version": "aiohttp.__version__ = '3.15.0'",
    "a module that has gone": "sys.modules['aiohttp._websocket.reader'] = None",
    "a function that has gone": "import aiohttp.http_writer; del aiohttp.http_writer._serialize_headers",
    "a method that has gone": "del aiohttp.web.WebSocketResponse._handshake",
    "a class that cannot be a base": "import aiohttp._websocket.reader as r; r.WebSocketDataQueue = bool",
}
SERVE = """
import sys, aiohttp, aiohttp.web
{change}
import logging
logging.basicConfig(format="%(message)s")
import wampkit
from wampkit.connection.reader import can_read_directly
print(can_read_directly())
app = wampkit.App()
app.setup(aiohttp.web.Application(), "/ws")
assert not can_read_directly()
"""


def test_an_aiohttp_that_is_different_inside_is_told_once_and_read_by_the_queued_reader() -> None:
    """Whatever private name is missing, the package can be imported, and one line says what that costs."""
    wrong = {}
    environment = {name: value for name, value in os.environ.items() if name != "WAMPKIT_READER"}
    for name, change in CHANGED.items():
        done = subprocess.run(
            [sys.executable, "-c", SERVE.format(change=change)], capture_output=True, text=True, env=environment
        )
        lines = done.stderr.splitlines()
        if done.returncode or done.stdout != "False\n" or len(lines) != 1 or "a slower way in" not in lines[0]:
            wrong[name] = (done.stdout, done.stderr)
    assert wrong == {}


def test_the_queued_reader_that_was_asked_for_is_no_complaint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the direct reader nor the queued one where it is asked for leaves a line."""
    for reader in ("queued", ""):
        monkeypatch.setenv("WAMPKIT_READER", reader)
        can_read_directly()
    assert caplog.records == []


def segments_of(sock: socket.socket) -> int:
    """How many segments with data a TCP socket has received (Linux: tcpi_data_segs_in)."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 152)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO and TCP_CORK are Linux's")
async def test_the_answer_and_the_welcome_arrive_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads once has the response and WELCOME, with either reader and where it compresses."""
    wrong = []
    for reader, compression in (("direct", False), ("queued", False), ("direct", True)):
        monkeypatch.setenv("WAMPKIT_READER", reader)
        async with serve(make_app(compression=compression)) as server:
            for _ in range(5):
                peer = await server.tcp()
                await peer.send(handshake("/ws", "Sec-WebSocket-Extensions: permessage-deflate"))
                await peer.read_head()
                await peer.read_frame()
                if (count := segments_of(peer.sock)) != 1:
                    wrong.append((reader, compression, count))
    assert wrong == []


UNMASKED = b"\x81\x13" + b'[2,"c","ping"]     '
MASKED = frame(1, b'[2,"c","ping"]')


async def test_unmasked_frames_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame that is not masked closes with 1002, wherever it stands and however it is cut, and is not taken;
    what came before it is answered."""
    monkeypatch.setenv("WAMPKIT_READER", "direct")
    long = frame(1, json.dumps([2, "c", "ping"]).encode().ljust(70_000))
    medium = frame(1, b'[2,"c","ping"]'.ljust(200))
    cases = {
        "alone": (0, [UNMASKED]),
        "behind others": (3, [MASKED + medium + long + UNMASKED]),
        "in a chunk of its own": (1, [MASKED, UNMASKED]),
        "cut in its head": (1, [MASKED + UNMASKED[:1], UNMASKED[1:]]),
        "behind a head in pieces": (1, [medium[:3], medium[3:7], medium[7:50], medium[50:] + UNMASKED]),
        "behind one in pieces": (2, [long[:9], long[9:40_000], long[40_000:] + MASKED[:5], MASKED[5:] + UNMASKED]),
        "a long one": (0, [b"\x81\x7e\x01\x00" + b" " * 256]),
        "a ping": (1, [MASKED + b"\x89\x00"]),
        "a close": (0, [b"\x88\x02\x03\xe8"]),
    }
    wrong = {}
    async with serve(make_app()) as server:
        for name, (answers, chunks) in cases.items():
            peer = await server.raw()
            taken = server.connection(peer)
            for chunk in chunks:
                await peer.send(chunk)
                await asyncio.sleep(0.01)
            got = [(await peer.read_message())[0] for _ in range(answers)]
            end = await peer.read_close()
            await taken.wait_closed()
            if got != [3] * answers or end != (1002, "broken frame: an unmasked frame; clients mask what they send"):
                wrong[name] = (got, end)
    assert wrong == {}


async def test_masked_frames_pass_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of every length of head, in chunks of every small size, are all taken."""
    monkeypatch.setenv("WAMPKIT_READER", "direct")
    sizes = (14, 125, 126, 127, 300, 66_000, 14)
    stream = b"".join(frame(1, b'[2,"c","ping"]'.ljust(size)) for size in sizes) + frame(9)
    async with serve(make_app()) as server:
        for step in (1, 2, 3, 5, 7, 1000, 70_000):
            peer = await server.raw()
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            small = stream[:800] if step < 1000 else stream
            for start in range(0, len(small), step):
                await peer.send(small[start : start + step])
                if step < 1000:
                    await asyncio.sleep(0)
            if step >= 1000:
                assert [(await peer.read_message())[0] for _ in range(7)] == [3] * 7
            else:
                assert [(await peer.read_message())[0] for _ in range(4)] == [3] * 4
            peer.close()


async def test_close_codes_that_are_not_for_the_wire_are_not_echoed(reader: str) -> None:
    """A close frame with such a code, of one byte or with a reason that is no text, is answered with 1002 or 1007 and
    a reason in plain words."""
    bad_code = (1002, "broken frame: a close code that may not be sent")
    cases: dict[bytes, tuple[int, str]] = {
        struct.pack(">H", code): bad_code for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    }
    cases[b"\x03"] = (1002, "broken frame: a close frame of one byte")
    cases[b"\x03\xe8\xff"] = (1007, "broken frame: a close reason that is not UTF-8")
    for code in (1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999):
        cases[struct.pack(">H", code)] = (code, "")
    cases[b""] = (1000, "")
    wrong = {}
    async with serve(make_app()) as server:
        for payload, wanted in cases.items():
            peer = await server.raw()
            await peer.send_frame(8, payload)
            if (got := await peer.read_close()) != wanted:
                wrong[payload] = got
    assert wrong == {}


async def test_broken_frames_are_told_in_plain_words(reader: str) -> None:
    """The reason of the close says what was wrong, and neither names of Python nor bytes."""
    cases = {
        "an unknown opcode": (1002, frame(3)),
        "reserved bits that mean nothing here": (1002, frame(0x21)),
        "a control frame in fragments": (1002, frame(9, final=False)),
        "a control frame of more than 125 bytes": (1002, frame(9, b"x" * 126)),
        "a continuation of no message": (1002, frame(0, b"x")),
        "a message that begins before the last one has ended": (1002, frame(1, b"x", final=False) * 2),
        "a message that is too long": (1009, frame(1, b"x" * 2_000_000)[:100]),
    }
    wrong = {}
    async with serve(make_app()) as server:
        for words, (code, data) in cases.items():
            peer = await server.raw()
            await peer.send(data)
            if (got := await peer.read_close()) != (code, f"broken frame: {words}"):
                wrong[words] = got
    assert wrong == {}


async def test_compressed_data_that_is_none_is_told_too() -> None:
    """What cannot be inflated closes with 1007 and says so, instead of a connection that seems lost."""
    async with serve(make_app(compression=True)) as server:
        peer = await server.tcp()
        await peer.send(handshake("/ws", "Sec-WebSocket-Extensions: permessage-deflate"))
        await peer.read_head()
        await peer.read_frame()
        await peer.send(frame(0x41, b"\xff\xff\xff\xff"))
        assert await peer.read_close() == (1007, "broken frame: compressed data that cannot be inflated")


async def test_what_comes_before_the_welcome_is_kept(reader: str) -> None:
    """Messages that arrive while on_connect runs are taken after it, in order, and none is lost."""
    app = make_app()
    gate = asyncio.Event()
    app.on_connect(lambda connection: None)

    @app.on_connect
    async def wait(connection: Any) -> None:
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        for number in range(5 * FRAME_BATCH):
            await peer.send(CALL, str(number), "ping")
        gate.set()
        assert [(await peer.next())[1] for _ in range(5 * FRAME_BATCH)] == [
            str(number) for number in range(5 * FRAME_BATCH)
        ]


async def test_a_flood_in_one_chunk_leaves_turns_to_others(reader: str) -> None:
    """Thousands of calls that arrive at once do not keep another client's call waiting until all are done."""
    app = make_app()
    ran: list[str] = []

    @app.rpc("note")
    async def note(who: str) -> None:
        ran.append(who)

    async with serve(app) as server:
        flood, other = await server.raw(), await server.raw()
        flood.send_now(FLOOD)
        other.send_now(message(CALL, "1", "note", "other"))
        assert await other.read_message() == [3, "1", None]
        assert ran.index("other") < 8 * FRAME_BATCH
        await eventually(lambda: len(ran) == FLOODING + 1)


async def test_a_flood_that_was_kept_leaves_turns_to_others(reader: str) -> None:
    """Thousands of calls that came before the welcome are taken in turns with what others send after it."""
    app = make_app()
    ran: list[str] = []
    entered, gate = asyncio.Event(), asyncio.Event()

    @app.rpc("note")
    async def note(who: str) -> None:
        ran.append(who)

    async with serve(app) as server:
        other = await server.raw()

        @app.on_connect
        async def wait(connection: Any) -> None:
            entered.set()
            await gate.wait()

        opening = asyncio.create_task(server.raw(behind=FLOOD))
        await entered.wait()
        await other.send_message(CALL, "0", "ping")
        assert await other.read_message() == [3, "0", "pong"]
        other.send_now(message(CALL, "1", "note", "other"))
        gate.set()
        assert await other.read_message() == [3, "1", None]
        assert ran.index("other") < 8 * FRAME_BATCH
        await opening
        await eventually(lambda: len(ran) == FLOODING + 1)


@on_uvloop
async def test_a_flood_of_empty_fragments_leaves_turns_to_others() -> None:
    """Frames that are handed to nobody take a chunk a turn; uvloop alone would read 32 chunks at a time."""
    flood = frame(0, b"", final=False) * 3_300_000
    async with serve(make_app()) as server:
        loop, peer = asyncio.get_running_loop(), await server.raw()
        await peer.send_frame(1, b"[", final=False)
        turns, flooding = 0, True

        def count() -> None:
            nonlocal turns
            turns += 1
            if flooding:
                loop.call_soon(count)

        peer.sock.setblocking(True)
        loop.call_soon(count)
        await asyncio.to_thread(peer.sock.sendall, flood)
        flooding = False
        assert turns > len(flood) / 256_000 / 4  # what the kernel still holds was not read


async def test_fragments_and_control_frames_between(reader: str) -> None:
    """A message in fragments with a ping between them is put together, and the ping answered first."""
    async with serve(make_app()) as server:
        peer = await server.raw()
        await peer.send_frame(1, b'[2,"c",', final=False)
        await peer.send_frame(9, b"hi")
        await peer.send_frame(0, b'"pi', final=False)
        await peer.send_frame(0, b"", final=False)
        await peer.send_frame(0, b'ng"]')
        assert await peer.read_frame() == (10, b"hi")
        assert await peer.read_message() == [3, "c", "pong"]


async def test_a_client_that_vanishes_while_it_is_held_back_is_noticed(reader: str) -> None:
    """A client that resets while the server reads nothing more of it leaves neither call nor connection."""
    app = App(limits=Limits(calls=3))
    running: list[int] = []

    @app.rpc("wait")
    async def wait(number: int) -> None:
        running.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(number)

    async with serve(app) as server:
        peer = await server.raw()
        for number in range(5):
            await peer.send_message(CALL, str(number), "wait", number)
        await eventually(lambda: len(running) == 3)
        peer.reset()
        await eventually(lambda: not running)
        await eventually(lambda: len(app.connections) == 0)


async def test_a_client_that_vanishes_is_noticed(reader: str) -> None:
    """A reset connection leaves no topic and no connection behind."""
    app = App()
    app.topic("t", relay=True)
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_message(SUBSCRIBE, "t")
        await peer.send_message(PUBLISH, "t", 1)
        await eventually(lambda: len(app.topics) == 1)
        peer.reset()
        await eventually(lambda: len(app.topics) == len(app.connections) == 0)


async def test_signals_of_the_aiohttp_app_reach_the_handshake(reader: str) -> None:
    """Headers that `on_response_prepare` of the surrounding application adds are in the answer, with either reader."""
    from aiohttp import web

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"

    site = web.Application()
    site.on_response_prepare.append(sign)
    app = make_app()
    app.setup(site, "/ws")
    async with serve(app, web_app=site) as server:
        peer = await server.raw()
        head = peer.head.decode().lower()
        assert head.startswith("http/1.1 101 ")
        assert "x-signed: yes" in head
        assert "sec-websocket-protocol: wamp" in head
        assert "server: wampkit" in head
