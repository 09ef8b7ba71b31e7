"""One connection: its public face, WELCOME, slow readers, and compression that is not offered."""

import asyncio
from typing import Any

import aiohttp

from wampkit import App, Connection, Connections, Counters, Limits
from wampkit.concurrency.threads import PoolState, ThreadsState

from ..support.connection import Ends, T, make
from ..support.tables import rows
from ..support.wire import CALL, RESULT, SUBSCRIBE, eventually, fds, message, serve

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


# ---- compression, and an orderly close


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
