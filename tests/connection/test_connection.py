"""One socket: what is taken from it, what leaves it, and how it ends."""

import asyncio
import logging
import re
from typing import Any

import aiohttp
import pytest

from wampkit import App, Connection, Connections, Counters, Limits
from wampkit.concurrency.threads import PoolState, ThreadsState

from ..support.tables import rows
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PREFIX,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    close,
    eventually,
    fds,
    frame,
    message,
    serve,
)

T = "http://example.com/topic/"


class Ends:
    """What on_disconnect was told."""

    def __init__(self, app: App) -> None:
        self.seen: list[tuple[int | None, str]] = []
        app.on_disconnect(self.gone)

    async def gone(self, connection: Connection) -> None:
        self.seen.append((connection.close_code, connection.close_reason))

    async def first(self) -> tuple[int | None, str]:
        await eventually(lambda: self.seen)
        assert len(self.seen) == 1
        return self.seen[0]


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay", relay=True)

    @app.rpc("t:echo")
    async def echo(x: Any) -> Any:
        return x

    return app


# ---- WELCOME


SHOWN: dict[type, str] = {
    Connection: (
        "attributes close close_code close_reason closed dropped id permissions remote request roles secure session "
        "topics unsent user"
    ),
    Connections: "arriving get",
    ThreadsState: "handlers hooks logins",
    PoolState: "held limit running waiting",
    Counters: (
        "connections events_dropped failed_logins logins malformed over_limit refused slow_readers throttled_logins"
    ),
}


@rows("kind", list(SHOWN))
def test_a_user_sees_what_is_for_users(kind: type) -> None:
    """An editor offers no internals: after `connection.`, `app.connections.`, `app.threads.` and `app.counters.`."""
    assert " ".join(name for name in dir(kind) if not name.startswith("_")) == SHOWN[kind]


async def test_connections_are_of_the_public_class() -> None:
    """What handlers get by the annotation `Connection`, and what the app lists, are instances of it."""
    app = make()
    seen: list[bool] = []

    @app.rpc("t:look")
    async def look(conn: Connection) -> None:
        seen.append(isinstance(conn, Connection) and conn in app.connections)

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("t:look") is None
    assert seen == [True]


async def test_welcome_comes_first() -> None:
    """WELCOME has four elements: type, session id, version 1 and the app's ident; ids differ and are long."""
    async with serve(make(ident="my server 1.0")) as server:
        peers = [await server.peer() for _ in range(5)]
        for peer in peers:
            assert peer.welcome == [0, peer.id, 1, "my server 1.0"]
        assert len({peer.id for peer in peers}) == 5
        assert all(len(peer.id) >= 22 for peer in peers)


async def test_messages_sent_with_the_handshake_are_taken() -> None:
    """A client that does not wait for WELCOME, nor even for the 101, is served in order."""
    async with serve(make()) as server:
        peer = await server.raw(behind=message(CALL, "1", "t:echo", 1) + message(CALL, "2", "t:echo", 2))
        assert await peer.read_message() == [RESULT, "1", 1]
        assert await peer.read_message() == [RESULT, "2", 2]


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


# ---- the end, as on_disconnect is told


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3000, "ü"), (4999, "x" * 123)])
async def test_a_clients_close_reaches_on_disconnect(code: int, reason: str) -> None:
    """The client's close code and reason reach on_disconnect, and the code is echoed."""
    app = make()
    ends = Ends(app)
    text = reason.encode()[:123]
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send(close(code, text))
        assert await peer.read_close() == (code, "")
        assert await ends.first() == (code, text.decode())
        assert await peer.read_to_end() == b""


async def test_a_close_without_a_code_is_1005() -> None:
    """A close frame without a code is told as 1005, RFC 6455's name for it, and answered."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_frame(8)
        opcode, _ = await peer.read_frame()
        assert opcode == 8
        assert await ends.first() == (1005, "")


@pytest.mark.parametrize("how", ["reset", "close", "half"])
async def test_a_peer_that_vanishes_is_1006(how: str) -> None:
    """A connection that ends without a close frame is told as 1006, and its socket is freed."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()
        match how:
            case "reset":
                peer.reset()
            case "close":
                peer.close()
            case "half":
                peer.half_close()
        assert (await ends.first())[0] == 1006
        if how == "half":
            assert await peer.read_to_end() == b""
            peer.close()
        await eventually(lambda: fds() <= before)


async def test_data_behind_a_close_is_ignored() -> None:
    """Whatever a client sends behind its close frame is not run."""
    app = make()
    async with serve(app) as server:
        listener = await server.peer()
        await listener.subscribe("t:relay")
        peer = await server.raw()
        await peer.send(close() + message(PUBLISH, "t:relay", 1))
        await peer.read_close()
        await peer.read_to_end()
        await listener.nothing()


async def test_the_servers_close_reaches_client_and_hook() -> None:
    """`connection.close` sends its code and reason, after what was sent before it; nothing follows."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:relay")
        connection = server.connection(peer)
        await app.publish("t:relay", "before")
        connection.close(4321, "enough")
        connection.close(4322, "twice")
        await app.publish("t:relay", "after")
        assert connection.closed
        assert await peer.closed() == (4321, "enough")
        assert await peer.next() == [EVENT, T + "relay", "before"]
        assert await ends.first() == (4321, "enough")
        assert peer._messages.empty()
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_a_long_reason_is_cut_at_a_character() -> None:
    """A reason over 123 bytes is shortened, and stays UTF-8."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        server.connection(peer).close(4000, "é" * 100)
        assert await peer.closed() == (4000, "é" * 61)


async def test_a_peer_that_does_not_answer_a_close_is_cut() -> None:
    """A client that ignores the close frame is cut after close_timeout; the hook is told the server's code."""
    app = make(close_timeout=0.1)
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()
        server.connection(peer).close(4000, "go")
        assert await peer.read_close() == (4000, "go")
        await peer.send(message(PUBLISH, "t:relay", 1))
        assert await ends.first() == (4000, "go")
        peer.close()
        await eventually(lambda: fds() <= before)


async def test_a_stalled_peer_that_is_closed_is_cut() -> None:
    """Closing a client that reads nothing and has much to read ends in time and frees its socket."""
    app = make(close_timeout=0.1, limits=Limits(queue=10**8))
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw(rcvbuf=4096)
        await peer.send_message(SUBSCRIBE, "t:relay")
        await eventually(lambda: len(app.topics) == 1)
        connection = server.connection(peer)
        while connection.unsent == 0:
            await app.publish("t:relay", "x" * 100_000)
            await asyncio.sleep(0)
        connection.close(4000, "go")
        assert await ends.first() == (4000, "go")
        await eventually(lambda: fds() <= before + 1)


# ---- slow readers


async def _stall(server: Any, app: App) -> Any:
    peer = await server.raw(rcvbuf=4096)
    await peer.send_message(SUBSCRIBE, "t:relay")
    await eventually(lambda: peer.id in {each.id for each in app.topics.get(T + "relay", ())})
    return peer


async def test_a_stalled_reader_is_cut_and_holds_up_nobody() -> None:
    """One peer that reads nothing is cut with 4008; publishing never waits for it; the others get everything."""
    app = make(limits=Limits(queue=200_000))
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        stalled = await _stall(server, app)
        reader = await server.peer()
        await reader.subscribe("t:relay")
        held = fds()
        count = 0
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish("t:relay", [count, "x" * 20_000])
                count += 1
                await asyncio.sleep(0)
        assert [event[0] for event in await reader.events(count)] == list(range(count))
        code, reason = await ends.first()
        assert code == 4008
        assert "slow" in reason
        assert stalled.id not in {each.id for each in app.topics[T + "relay"]}
        await eventually(lambda: fds() <= held - 1)
        assert before < held


async def test_a_stalled_reader_is_cut_near_its_limit() -> None:
    """What waits for a peer that reads nothing never exceeds the limit by more than what one turn sent."""
    limit, size = 300_000, 10_000
    app = make(limits=Limits(queue=limit))
    ends = Ends(app)
    most = 0
    async with serve(app) as server:
        peer = await _stall(server, app)
        connection = server.connection(peer)
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish("t:relay", "x" * size)
                most = max(most, connection.unsent)
                await asyncio.sleep(0)
    assert limit < most <= limit + 2 * (size + 100)


async def test_a_peer_that_stalls_and_half_closes_piles_up_nothing() -> None:
    """Without keepalive, too, a peer that reads nothing and has said it sends nothing more is let go in time."""
    app = make(keepalive=None, close_timeout=0.2, limits=Limits(queue=10**8))
    ends = Ends(app)
    async with serve(app) as server:
        peer = await _stall(server, app)
        connection = server.connection(peer)
        while connection.unsent == 0:
            await app.publish("t:relay", "x" * 100_000)
            await asyncio.sleep(0)
        peer.half_close()
        async with asyncio.timeout(10):
            while not ends.seen:
                await app.publish("t:relay", "x" * 1000)
                await asyncio.sleep(0.001)
        assert (await ends.first())[0] == 1006


async def test_a_reader_that_catches_up_is_not_cut() -> None:
    """A client that pauses below the limit and then reads on loses nothing."""
    app = make(limits=Limits(queue=10**7))
    async with serve(app) as server:
        peer = await _stall(server, app)
        connection = server.connection(peer)
        count = 0
        while connection.unsent == 0:
            await app.publish("t:relay", [count, "x" * 50_000])
            count += 1
            await asyncio.sleep(0)
        for number in range(count):
            assert (await peer.read_message())[2][0] == number
        assert not connection.closed


# ---- the register


async def test_live_connections_can_be_found_and_walked() -> None:
    """`app.connections` knows who is connected, by id, with attributes, until they have gone."""
    app = make()
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        assert {each.id for each in app.connections} == {one.id, two.id}
        connection = app.connections.get(one.id)
        assert connection is not None
        assert connection in app.connections
        assert one.id not in app.connections
        assert connection.request.remote == "127.0.0.1"
        await one.subscribe("t:relay")
        assert connection.topics == (T + "relay",)
        assert one.id in repr(connection)
        await one.close()
        await eventually(lambda: len(app.connections) == 1)
        assert connection not in app.connections
        assert connection.closed
        assert app.connections.get(one.id) is None


async def test_prefixes_of_a_client_cost_others_nothing() -> None:
    """A thousand prefixes of one client are that client's alone and leave with it."""
    app = make()
    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        for number in range(999):
            await peer.send(PREFIX, f"p{number}", f"http://x/{number}/")
        await peer.send(PREFIX, "mine", T)
        assert await peer.result("mine:echo", 1) == 1
        assert (await other.call("mine:echo", 1))[0] == ERROR
        assert len(server.connection(other).protocol.prefixes) == 1


async def test_compression_is_not_offered() -> None:
    """A client that offers permessage-deflate is served without it, so that no bomb can inflate."""
    async with serve(make()) as server:
        peer = await server.peer(compress=15)
        assert not peer.socket.compress
        assert await peer.result("t:echo", "x" * 10_000) == "x" * 10_000


async def test_a_frame_that_claims_compression_is_refused() -> None:
    """A compressed frame without negotiation closes with 1002."""
    async with serve(make()) as server:
        peer = await server.raw()
        await peer.send(b"\xc1\x85mask\x00\x00\x00\x00\x00")
        assert (await peer.read_close())[0] == 1002


async def test_aiohttps_client_closes_cleanly() -> None:
    """An ordinary aiohttp client connects, calls and closes with 1000 on both sides."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server, aiohttp.ClientSession() as session:
        async with session.ws_connect(server.url, protocols=("wamp",)) as socket:
            await socket.receive_json()
            await socket.send_json([CALL, "1", "t:echo", 5])
            assert await socket.receive_json() == [RESULT, "1", 5]
        assert socket.close_code == 1000
        assert (await ends.first())[0] == 1000
