"""Malformed messages and WebSocket frames: their close codes, the log, the largest message."""

import asyncio
import logging
import re
from typing import Any

import pytest

from wampkit import Limits

from ..support.connection import Ends, T, make
from ..support.tables import rows
from ..support.wire import CALL, ERROR, PUBLISH, RESULT, SUBSCRIBE, UNSUBSCRIBE, eventually, frame, message, serve

# ---- malformed messages


MALFORMED: list[tuple[str, int]] = [
    ("", 1007),
    ("   ", 1007),
    ("hello", 1007),
    ("[", 1007),
    ("[2,", 1007),
    ("[2]]", 1007),
    ("[NaN]", 1007),
    ('[7,"t",Infinity]', 1007),
    ('[2,"1","t:echo",1e400]', 1007),
    ('[2,"1","t:echo",' + "9" * 5000 + "]", 1007),
    ("[" * 100_000, 1007),
    ("[" * 900 + "]" * 900, 1007),
    ("null", 1002),
    ("5", 1002),
    ('"[2]"', 1002),
    ('{"0":2}', 1002),
    ("[]", 1002),
    ("[null]", 1002),
    ('[true,"a","b"]', 1002),
    ('[2.0,"1","t:echo"]', 1002),
    ('["2","1","t:echo"]', 1002),
    ("[9]", 1002),
    ("[-1]", 1002),
    ("[1" + "0" * 300 + "]", 1002),
    ('[0,"session",1,"me"]', 1002),
    ('[3,"1",null]', 1002),
    ('[4,"1","u","d"]', 1002),
    ('[8,"t",1]', 1002),
    ("[1]", 1002),
    ('[1,"a"]', 1002),
    ('[1,"a",5]', 1002),
    ('[1,null,"b"]', 1002),
    ('[1,"a","b","c"]', 1002),
    ("[2]", 1002),
    ('[2,"1"]', 1002),
    ('[2,5,"t:echo"]', 1002),
    ('[2,"1",[]]', 1002),
    ('[2,null,"t:echo"]', 1002),
    ("[5]", 1002),
    ("[5,5]", 1002),
    ('[5,{"a":1}]', 1002),
    ('[5,"a","b"]', 1002),
    ("[6]", 1002),
    ("[6,null]", 1002),
    ("[7]", 1002),
    ('[7,"t:relay"]', 1002),
    ("[7,[],1]", 1002),
    ('[7,"t:relay",1,"x"]', 1002),
    ('[7,"t:relay",1,5]', 1002),
    ('[7,"t:relay",1,[5]]', 1002),
    ('[7,"t:relay",1,[["x"]]]', 1002),
    ('[7,"t:relay",1,[],{}]', 1002),
    ('[7,"t:relay",1,[],true]', 1002),
    ('[7,"t:relay",1,[],[null]]', 1002),
    ('[7,"t:relay",1,[],[],[]]', 1002),
]


@rows(("text", "code"), MALFORMED)
async def test_a_malformed_message_closes_its_connection(
    text: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no WAMP message ends its connection with 1007 or 1002 and a reason, one log line, and no other's."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer, neighbour = await server.peer(), await server.peer()
        await neighbour.subscribe("t:relay")
        await peer.subscribe("t:relay")
        await peer.send_text(text)
        close_code, reason = await peer.closed()
        assert close_code == code
        assert len(reason) > 5
        assert await ends.first() == (code, reason)
        assert await neighbour.result("t:echo", 1) == 1
        await app.publish("t:relay", "on")
        assert await neighbour.events(1) == ["on"]
        assert len(app.topics[T + "relay"]) == 1
        assert app.counters.malformed == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert len(lines[0]) < 400
    assert str(code) in lines[0]
    assert "Traceback" not in caplog.text


@rows(("text", "code"), MALFORMED)
async def test_malformed_messages_may_be_ignored(text: str, code: int) -> None:
    """With malformed="ignore" a broken message is answered with nothing and costs nothing."""
    async with serve(make(malformed="ignore")) as server:
        peer = await server.peer()
        await peer.send_text(text)
        assert await peer.result("t:echo", "still here") == "still here"
        await peer.nothing()
        assert server.app.counters.malformed == 1


async def test_a_binary_message_closes_with_1003() -> None:
    """WAMP v1 is JSON in text messages; a binary one ends its connection with 1003."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.peer()
        await peer.socket.send_bytes(b'[2,"1","t:echo",1]')
        code, reason = await peer.closed()
        assert code == 1003
        assert "binary" in reason
        assert await ends.first() == (1003, reason)


async def test_a_binary_message_may_be_ignored() -> None:
    """With malformed="ignore" a binary message is ignored too."""
    async with serve(make(malformed="ignore")) as server:
        peer = await server.peer()
        await peer.socket.send_bytes(b"\x00\xff")
        assert await peer.result("t:echo", 1) == 1
        await peer.nothing()


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xfe", '[2,"1","t:echo","ü"]'.encode("latin-1"), b'["' + b"\xed\xa0\x80" + b'"]', "[9]".encode("utf-16")],
)
async def test_text_that_is_not_utf_8_closes_with_1007(payload: bytes) -> None:
    """Text that is not UTF-8 is refused with 1007 before anybody reads it."""
    async with serve(make()) as server:
        peer = await server.raw()
        await peer.send_frame(1, payload)
        assert (await peer.read_close())[0] == 1007


async def test_what_follows_a_malformed_message_is_not_run() -> None:
    """Messages behind a malformed one, even in the same packet, do nothing."""
    app = make()
    async with serve(app) as server:
        listener = await server.peer()
        await listener.subscribe("t:relay")
        peer = await server.raw()
        await peer.send(message(PUBLISH, "t:relay", 1) + frame(1, b"nonsense") + message(PUBLISH, "t:relay", 2))
        await peer.read_close()
        assert await listener.events(1) == [1]
        await listener.nothing()


async def test_repeated_malformed_messages_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand malformed messages of one connection are a few lines with a count, and no traceback."""
    async with serve(make(malformed="ignore")) as server:
        peer = await server.peer()
        for number in range(1000):
            await peer.send_text(f'[{number + 100}, "\\u001b[2J\\r\\n\u2028{"x" * 3000}"]')
            await peer.send_text(f'{{"forged {number}": "\n2026-01-01 CRITICAL root: all is lost"}}')
        assert await peer.result("t:echo", 1) == 1
        await peer.close()
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= len(lines) <= 40
    told = sum(1 + int(re.findall(r"\((\d+) more", line)[0]) if " more " in line else 1 for line in lines)
    assert told == 2000, lines
    assert all(line.isprintable() and len(line) < 400 for line in lines), lines
    assert "Traceback" not in caplog.text


async def test_a_peers_text_is_escaped_and_shortened_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Topics and procedures of a peer reach the log in one short printable line each."""
    app = make()

    @app.rpc("http://example.com/fail/{name}")
    async def fail(name: str) -> None:
        raise ValueError("nothing of the peer's")

    nasty = "\r\n\x1b[31mCRITICAL\u2028\u202e" + "x" * 5000
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, nasty)
        await peer.send(PUBLISH, nasty, 1)
        await peer.send(UNSUBSCRIBE, nasty)
        assert (await peer.call("http://example.com/fail/" + nasty))[0] == ERROR
        assert (await peer.call(nasty))[0] == ERROR
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= 3
    assert all(line.isprintable() and len(line) < 400 for line in lines), lines


# ---- frames


@rows(
    ("data", "code"),
    [
        (frame(0, b"x"), 1002),
        (frame(3, b"x"), 1002),
        (frame(11, b"x"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"x", final=False), 1002),
        (b"\xc1" + frame(1, b"x")[1:], 1002),
        (frame(8, b"\x03"), 1002),
        (frame(8, b"\x03\xed"), 1002),
        (frame(8, b"\x03\xe8\xff"), 1007),
        (frame(1, b"[", final=False) + frame(1, b"]"), 1002),
    ],
)
async def test_broken_frames_close_the_connection(data: bytes, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """What breaks RFC 6455 ends the connection with its code, which on_disconnect is told, in one line."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send(data)
        assert (await peer.read_close())[0] == code
        assert (await ends.first())[0] == code
        assert await peer.read_to_end() == b""
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
async def test_the_largest_message_is_what_the_option_says(size: int, fits: bool) -> None:
    """A message of max_message_size bytes is taken, in one frame or in fragments; one byte more closes with 1009."""
    app = make(limits=Limits(message_size=1000))
    head, tail = b'[2,"1","t:echo","', b'"]'
    text = head + b"x" * (size - len(head) - len(tail)) + tail
    async with serve(app) as server:
        for frames in frame(1, text), frame(1, text[:600], final=False) + frame(0, text[600:]):
            peer = await server.raw()
            await peer.send(frames)
            if fits:
                assert (await peer.read_message())[0] == RESULT
            else:
                assert (await peer.read_close())[0] == 1009


async def test_a_message_too_long_for_its_announced_size_is_not_awaited() -> None:
    """A frame that announces more than the limit is refused before its payload comes."""
    app = make(limits=Limits(message_size=1000))
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send(b"\x81\xff" + (2**40).to_bytes(8, "big") + b"mask")
        assert (await peer.read_close())[0] == 1009


async def test_pings_are_answered_while_a_handler_runs() -> None:
    """A client's ping is answered at once, whatever its calls and publishes are doing."""
    app = make()
    gate = asyncio.Event()

    @app.rpc("t:wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    @app.topic("t:slow")
    async def slow(event: Any) -> None:
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "t:wait")
        await peer.send(PUBLISH, "t:slow", 1)
        await peer.socket.ping(b"hello")
        await eventually(lambda: peer.pongs == [b"hello"])
        gate.set()
        assert await peer.answer("1") == [RESULT, "1", "done"]


async def test_a_flood_of_pings_is_answered_in_order() -> None:
    """Thousands of pings get as many pongs, and a call behind them its answer."""
    async with serve(make()) as server:
        peer = await server.peer()
        for number in range(3000):
            await peer.socket.ping(b"%d" % number)
        assert await peer.result("t:echo", 1) == 1
        assert peer.pongs == [b"%d" % number for number in range(3000)]
