"""The way out: order, joining, fairness, and what becomes of clients that read slowly."""

import asyncio
import base64
import contextlib
import json
import os
from typing import Any

import aiohttp
import pytest

from wampkit import App, Connection, Limits

from ..support.tables import rows
from ..support.wire import CALL, EVENT, RESULT, SUBSCRIBE, RawPeer, Server, eventually, handshake, message, serve


def make(**options: Any) -> App:
    """An app with relayed topics and a procedure that publishes."""
    app = App(prefixes={"t": "http://x/"}, **options)
    app.topic("t:{name}", relay=True)

    @app.rpc("echo")
    async def echo(value: object) -> object:
        return value

    return app


# ---- order


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_each_client_receives_in_the_order_in_which_the_app_sent(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load, events of several topics and results reach each connection exactly as the handlers sent them."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app = make()
    sent: list[Any] = []

    @app.rpc("work")
    async def work(number: int, conn: Connection) -> int:
        for step in range(number % 4):
            topic = f"t:{(number + step) % 3}"
            sent.append([EVENT, f"http://x/{(number + step) % 3}", [number, step]])
            await app.publish(topic, [number, step])
            if (number + step) % 7 == 0:
                await asyncio.sleep(0)
        sent.append([RESULT, conn.id, number])
        return number

    async with serve(app) as server:
        peers = [await server.raw() for _ in range(8)]
        for index, peer in enumerate(peers):
            for topic in range(3):
                if index % 4 != topic:
                    await peer.send_message(SUBSCRIBE, f"t:{topic}")
        await eventually(lambda: sum(len(app.topics.get(f"http://x/{n}", ())) for n in range(3)) == 18)
        for number in range(300):
            for peer in peers:
                await peer.send_message(CALL, peer.id, "work", number)
        await eventually(lambda: sum(each[0] == RESULT for each in sent) == 8 * 300)
        for index, peer in enumerate(peers):
            mine = [
                each for each in sent if (each[1] == peer.id if each[0] == RESULT else int(each[1][-1]) != index % 4)
            ]
            assert [await peer.read_message() for _ in mine] == mine


async def test_an_event_arrives_before_the_result_of_the_call_that_published_it() -> None:
    """The event stands before the result on the wire, for the caller as for anybody."""
    app = make()

    @app.rpc("announce")
    async def announce(text: str) -> str:
        await app.publish("t:news", text)
        return text

    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:news")
        for number in range(50):
            await peer.send(CALL, str(number), "announce", f"n{number}")
        for number in range(50):
            assert await peer.next() == [EVENT, "http://x/news", f"n{number}"]
            assert await peer.next() == [RESULT, str(number), f"n{number}"]


async def test_events_of_one_turn_reach_those_who_were_subscribed_when_they_were_published() -> None:
    """Who subscribes or leaves between two events of one turn gets exactly those of its time."""
    app = make()

    @app.rpc("mixed")
    async def mixed(conn: Connection) -> None:
        await app.publish("t:a", 1)
        await app.publish("t:a", 2, exclude=[conn.id])
        await app.publish("t:a", 3)
        await app.publish("t:b", 4)
        await app.publish("t:a", 5, eligible=[conn.id])
        await app.publish("t:a", 6)

    async with serve(app) as server:
        peer, other = await server.raw(), await server.peer()
        await other.subscribe("t:a")
        await other.subscribe("t:b")
        text = b"".join(
            _masked(message)
            for message in (
                [CALL, "1", "mixed"],
                [SUBSCRIBE, "t:a"],
                [CALL, "2", "mixed"],
                [6, "t:a"],
                [CALL, "3", "mixed"],
            )
        )
        await peer.send(text)
        wanted = [[RESULT, "1", None], *[[EVENT, "http://x/a", n] for n in (1, 3, 5, 6)], [RESULT, "2", None]]
        assert [await peer.read_message() for _ in range(7)] == [*wanted, [RESULT, "3", None]]
        assert [(await other.next())[2] for _ in range(15)] == [1, 2, 3, 4, 6] * 3


def _masked(message: list[Any]) -> bytes:
    text = json.dumps(message).encode()
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


CROWD = 400
"""Subscribers of one topic: more than are written to in one turn of the loop."""


async def _crowd(server: Server) -> list[RawPeer]:
    crowd = [await server.raw() for _ in range(CROWD)]
    for each in crowd:
        await each.send_message(SUBSCRIBE, "t:crowd")
    await eventually(lambda: len(server.app.topics.get("http://x/crowd", ())) == CROWD)
    return crowd


async def test_an_event_reaches_every_subscriber_of_a_crowd() -> None:
    """The last of many subscribers gets an event too, though nothing else is sent that would flush it."""
    app = make()
    async with serve(app) as server:
        crowd = await _crowd(server)
        await app.publish("t:crowd", "x")
        for each in crowd:
            assert await each.read_message() == [EVENT, "http://x/crowd", "x"]


async def test_a_call_does_not_wait_until_everybody_has_an_event() -> None:
    """A call that comes while an event goes to many subscribers is answered between them."""
    app = make()
    crowd: list[RawPeer] = []
    waiting: list[int] = []

    @app.rpc("look")
    async def look() -> None:
        waiting.append(sum(server.connection(each).outbox.unsent > 0 for each in crowd))

    async with serve(app) as server:
        crowd = await _crowd(server)
        peer = await server.raw()
        peer.send_now(message(CALL, "1", "look"))
        await app.publish("t:crowd", "x")
        assert await peer.read_message() == [RESULT, "1", None]
        for each in crowd:
            assert (await each.read_message())[2] == "x"
    assert 0 < waiting[0] < CROWD


# ---- slow readers


async def _reader(server: Server) -> str:
    """The session id of another subscriber, who reads."""
    reader = await server.peer()
    await reader.subscribe("t:a")
    return reader.id


async def _stalled(server: Server, app: App) -> RawPeer:
    peer = await server.raw(rcvbuf=4096)
    await peer.send_message(SUBSCRIBE, "t:a")
    await eventually(lambda: peer.id in {each.id for each in app.topics.get("http://x/a", ())})
    return peer


@rows("to", ["all", "eligible", "others excluded"])
async def test_dropping_keeps_the_newest_events_and_the_connection(to: str) -> None:
    """With slow_reader="drop" the oldest events that wait are dropped and counted; what is left arrives in order."""
    app = make(limits=Limits(queue=100_000, slow_reader="drop"), keepalive=None)
    async with serve(app) as server:
        peer = await _stalled(server, app)
        connection = server.connection(peer)
        options: dict[str, Any] = {}
        if to == "eligible":
            options = {"eligible": [peer.id]}
        elif to == "others excluded":
            options = {"exclude": [await _reader(server)]}
        count = 0
        async with asyncio.timeout(20):
            while connection.dropped < 500:
                await app.publish("t:a", [count, "x" * 1000], **options)
                count += 1
                assert connection.unsent <= 100_000 + 1100
                await asyncio.sleep(0)
        await app.publish("t:a", "the end")
        got = []
        while (event := (await peer.read_message())[2]) != "the end":
            got.append(event[0])
        assert got == sorted(set(got))
        assert got[-1] == count - 1
        assert len(got) == count - connection.dropped
        assert app.counters.events_dropped == connection.dropped
        await peer.send_message(CALL, "1", "echo", "alive")
        assert await peer.read_message() == [RESULT, "1", "alive"]


async def test_a_client_whose_answers_pile_up_is_cut_all_the_same() -> None:
    """Where answers alone pass the bound, dropping does not help, and the connection is cut with 4008."""
    app = make(limits=Limits(queue=50_000, slow_reader="drop"), keepalive=None)
    codes: list[int | None] = []

    @app.on_disconnect
    async def left(connection: Connection) -> None:
        codes.append(connection.close_code)

    async with serve(app) as server:
        peer = await server.raw(rcvbuf=4096)
        async with asyncio.timeout(20):
            while not codes:
                with contextlib.suppress(ConnectionError):
                    await peer.send_message(CALL, "1", "echo", "x" * 10_000)
                await asyncio.sleep(0)
        assert codes == [4008]
        assert app.counters.slow_readers == 1


async def test_dropping_keeps_the_connection_where_one_event_is_larger_than_the_queue() -> None:
    """An event that is on its way cannot be dropped; it is no reason to cut its reader, and the newest follows it."""
    app = make(limits=Limits(queue=20_000, slow_reader="drop"), keepalive=None)
    async with serve(app) as server:
        peer = await _stalled(server, app)
        connection = server.connection(peer)
        count = 0
        async with asyncio.timeout(20):
            while connection.dropped < 10 and not connection.closed:
                await app.publish("t:a", [count, "x" * 300_000])
                count += 1
                await asyncio.sleep(0)
        assert not connection.closed
        got = -1
        while got != count - 1:
            got = (await peer.read_message())[2][0]


async def test_what_was_dropped_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that a client reads too slowly, and does not repeat it for each event."""
    app = make(limits=Limits(queue=20_000, slow_reader="drop"), keepalive=None)
    async with serve(app) as server:
        peer = await _stalled(server, app)
        async with asyncio.timeout(20):
            while server.connection(peer).dropped < 2000:
                await app.publish("t:a", "x" * 1000)
                await asyncio.sleep(0)
    lines = [record.message for record in caplog.records if "oldest events are dropped" in record.message]
    assert 1 <= len(lines) <= 4


async def test_a_reader_that_keeps_up_loses_nothing_under_either_policy() -> None:
    """Many times the bound in one turn after another reaches a client that reads."""
    for policy in ("close", "drop"):
        app = make(limits=Limits(queue=200_000, slow_reader=policy))
        async with serve(app) as server:
            peer = await server.peer()
            await peer.subscribe("t:a")
            for number in range(200):
                for part in range(5):
                    await app.publish("t:a", [number, part, "x" * 2000])
                for part in range(5):
                    assert (await peer.next())[2][:2] == [number, part]


async def test_a_burst_to_a_stalled_reader_within_one_turn_is_bounded() -> None:
    """The bound holds within one turn too: no handler can pile up more for one client than it and a message."""
    app = make(limits=Limits(queue=100_000), keepalive=None)
    async with serve(app) as server:
        peer = await _stalled(server, app)
        connection = server.connection(peer)
        most = 0
        for _ in range(5000):
            await app.publish("t:a", "x" * 1000)
            app.topics  # noqa: B018
            connection.outbox._flusher.distribute()
            most = max(most, connection.unsent)
        assert most <= 100_000 + 1100
        assert connection.close_code == 4008
        assert app.counters.slow_readers == 1


# ---- compression


async def test_compression_is_there_for_those_who_ask() -> None:
    """With App(compression=True) a client that offers it receives compressed events and results, in order."""
    app = make(compression=True)
    async with serve(app) as server:
        peer, plain = await server.peer(compress=15), await server.peer()
        assert peer.socket.compress
        assert not plain.socket.compress
        await peer.subscribe("t:a")
        for number in range(5):
            await app.publish("t:a", [number, "x" * 5000])
        for number in range(5):
            assert (await peer.next())[2] == [number, "x" * 5000]
        assert await peer.result("echo", "y" * 10_000) == "y" * 10_000
        assert await plain.result("echo", "z") == "z"


async def test_a_compressed_message_that_inflates_beyond_the_limit_is_refused() -> None:
    """A small frame that holds a large message closes with 1009, and the server lives."""
    app = make(compression=True, limits=Limits(message_size=10_000))
    async with serve(app) as server:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(server.url, protocols=("wamp",), compress=15) as socket,
        ):
            await socket.receive()
            await socket.send_str(json.dumps([CALL, "1", "echo", "x" * 1_000_000]))
            closed = await socket.receive()
            assert closed.data == 1009
        assert await (await server.peer()).result("echo", 1) == 1


async def test_compressed_frames_are_smaller() -> None:
    """What a client that negotiated compression receives is a fraction of the text."""
    app = make(compression=True)
    async with serve(app) as server:
        raw = await server.tcp()
        extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        await raw.send(handshake("/ws", extension))
        assert b"permessage-deflate" in await raw.read_head()
        await raw.read_frame()
        await raw.send_message(CALL, "1", "echo", "x" * 10_000)
        size = 0
        opcode, payload = await raw.read_frame()
        size += len(payload)
        assert opcode & 0x0F == 1
        assert size < 200


# ---- the kernel's share


async def test_a_slow_reader_that_compresses_loses_events_and_no_connection() -> None:
    """With slow_reader="drop" the oldest events are dropped for clients that negotiated compression, too."""
    app = make(compression=True, limits=Limits(queue=100_000, slow_reader="drop"), keepalive=None)
    async with serve(app) as server:
        raw = await server.tcp(rcvbuf=4096)
        await raw.send(handshake("/ws", "Sec-WebSocket-Extensions: permessage-deflate"))
        assert b"permessage-deflate" in await raw.read_head()
        await raw.send_message(SUBSCRIBE, "t:a")
        await eventually(lambda: len(app.topics) == 1)
        (connection,) = app.connections
        for _ in range(400):
            # What cannot be compressed.
            await app.publish("t:a", base64.b64encode(os.urandom(6000)).decode())
            await asyncio.sleep(0)
        await eventually(lambda: connection.dropped > 0)
        assert not connection.closed
        assert app.counters.slow_readers == 0
