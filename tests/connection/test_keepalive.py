"""Pings: who is cut, who is not, and that a cut peer's socket is really gone."""

import asyncio
import contextlib
import time
from typing import Any

from wampkit import App, Connection, Limits

from ..support.wire import CALL, PUBLISH, RESULT, SUBSCRIBE, Peer, RawPeer, Server, eventually, fds, message, serve

T = "http://example.com/topic/"
INTERVAL = 0.4


def make(**options: Any) -> tuple[App, list[tuple[int | None, str]]]:
    app = App(prefixes={"t": T}, keepalive=INTERVAL, **options)
    ends: list[tuple[int | None, str]] = []
    app.topic("t:relay", relay=True)

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        ends.append((connection.close_code, connection.close_reason))

    return app, ends


async def _cut(server: Server, ends: list[Any], sockets: int) -> None:
    await eventually(lambda: ends, "the peer is cut")
    assert len(ends) == 1
    code, reason = ends[0]
    assert code == 1006
    assert "keepalive" in reason
    await eventually(lambda: fds() <= sockets, "its socket is freed")
    await eventually(lambda: len(server.app.connections) == 0)


async def test_a_silent_peer_is_cut_and_its_socket_freed() -> None:
    """A peer that answers nothing is cut within one and a half intervals, and its socket is freed."""
    app, ends = make()
    async with serve(app) as server:
        before = fds()
        await server.raw()
        await _cut(server, ends, before + 1)


async def test_a_peer_that_talks_but_never_answers_is_cut() -> None:
    """Calls and unsolicited pongs of a peer do not make up for the pong that it owes."""
    app, ends = make()
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()

        async def talk() -> None:
            while True:
                await peer.send_frame(10, b"unasked")
                await peer.send_message(CALL, "1", "t:nothing")
                await asyncio.sleep(INTERVAL / 10)

        talking = asyncio.create_task(talk())
        try:
            await _cut(server, ends, before + 1)
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)


async def test_a_stalled_reader_under_load_is_cut_and_its_socket_freed() -> None:
    """A peer that reads nothing while much is sent to it, and sends on its own, is cut and its socket freed."""
    app, ends = make(limits=Limits(queue=10**9))
    async with serve(app) as server:
        before = fds()
        peer = await server.raw(rcvbuf=4096)
        await peer.send_message(SUBSCRIBE, "t:relay")
        await eventually(lambda: len(app.topics) == 1)
        async with asyncio.timeout(10):
            while not ends:
                await app.publish("t:relay", "x" * 20_000)
                with contextlib.suppress(ConnectionError):  # cut by now
                    await peer.send_frame(10, b"unasked")
                await asyncio.sleep(0.005)
        await _cut(server, ends, before + 1)


async def test_a_peer_that_stops_in_the_middle_of_a_frame_is_cut() -> None:
    """A peer that begins a message and then says nothing is cut like any silent one."""
    app, ends = make()
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()
        await peer.send(message(CALL, "1", "t:nothing")[:-3])
        await _cut(server, ends, before + 1)


async def _stays(server: Server, peer: Peer, rounds: int) -> None:
    """The peer is pinged `rounds` more times and is still there."""
    target = peer.pings + rounds
    await eventually(lambda: peer.pings >= target or peer.close_code is not None, timeout=INTERVAL * rounds + 5)
    assert peer.close_code is None
    assert server.connection(peer).closed is False


async def test_a_healthy_peer_stays() -> None:
    """A peer that answers is pinged again and again and never cut."""
    app, ends = make()
    async with serve(app) as server:
        peer = await server.peer()
        await _stays(server, peer, 4)
        assert ends == []


async def test_a_handler_that_holds_up_the_loop_gets_nobody_cut() -> None:
    """A handler that blocks the loop for longer than an interval, again and again, gets no healthy peer cut."""
    app, ends = make()

    @app.rpc("t:block")
    async def block() -> None:
        time.sleep(INTERVAL * 1.2)  # noqa: ASYNC251  # the mistake under test

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        for _ in range(3):
            assert (await peer.call("t:block"))[0] == RESULT
        await _stays(server, peer, 1)
        await _stays(server, other, 1)
        assert ends == []


async def test_time_that_a_handler_holds_up_is_not_held_against_a_pong() -> None:
    """A pong that could not be sent or read while a handler blocked the loop is not too late."""
    app, ends = make()

    @app.rpc("t:block")
    async def block() -> None:
        time.sleep(INTERVAL)  # noqa: ASYNC251  # the mistake under test

    async with serve(app) as server:
        peer = await server.raw()
        for _ in range(3):
            opcode, payload = await peer.read_frame()
            assert opcode == 9
            # This client runs on the blocked loop too, so its pong leaves after the time for pongs is over.
            await peer.send_message(CALL, "1", "t:block")
            assert await peer.read_message() == [RESULT, "1", None]
            await peer.send_frame(10, payload)
        assert ends == []


async def test_a_peer_that_is_silent_is_found_even_on_a_busy_loop() -> None:
    """Time that a handler holds up is not held against peers, but a dead one is still found."""
    app, ends = make()

    @app.every(seconds=0.001)
    async def hog() -> None:
        time.sleep(INTERVAL / 10)  # noqa: ASYNC251  # the mistake under test

    async with serve(app) as server:
        await server.raw()
        await eventually(lambda: ends)
        assert "keepalive" in ends[0][1]


async def test_a_busy_async_handler_gets_nobody_cut() -> None:
    """While calls and publishes of a peer take many intervals, its pongs are read and it stays."""
    app, ends = make()
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
        for number in range(100):
            await peer.send(PUBLISH, "t:slow", number)
        await _stays(server, peer, 3)
        gate.set()
        assert await peer.answer("1") == [RESULT, "1", "done"]
        assert ends == []


async def test_a_slow_on_connect_gets_nobody_cut() -> None:
    """While an on_connect hook takes longer than an interval nobody reads pongs, and nobody is cut for it."""
    app, ends = make()
    welcomed = asyncio.Event()

    @app.on_connect
    async def slow(connection: Connection) -> None:
        await asyncio.sleep(INTERVAL * 1.5)
        welcomed.set()

    async with serve(app) as server:
        peer = await server.peer()
        await welcomed.wait()
        await _stays(server, peer, 1)
        assert ends == []


async def test_a_client_that_reads_slowly_but_reads_stays() -> None:
    """A client that reads in small steps and answers its pings is not cut."""
    app, ends = make()
    async with serve(app) as server:
        peer: RawPeer = await server.raw(rcvbuf=8192)
        await peer.send_message(SUBSCRIBE, "t:relay")
        await eventually(lambda: len(app.topics) == 1)
        seen = pings = 0
        async with asyncio.timeout(20):
            while pings < 3:
                await app.publish("t:relay", [seen, "x" * 1000])
                opcode, payload = await peer.read_frame()
                if opcode == 9:
                    pings += 1
                    await peer.send_frame(10, payload)
                else:
                    seen += 1
                await asyncio.sleep(0.002)
        assert ends == []
        assert seen > 3


async def test_keepalive_can_be_turned_off() -> None:
    """With keepalive=None no client is pinged, and no task runs for it."""
    tasks = []
    for interval in (None, INTERVAL):
        async with serve(App(keepalive=interval)):
            tasks.append(len(asyncio.all_tasks()))
    assert tasks[0] == tasks[1] - 1
    async with serve(App(keepalive=None)) as off:
        left_alone = await off.peer()
        async with serve(App(keepalive=INTERVAL)) as on:
            pinged = await on.peer()
            await eventually(lambda: pinged.pings >= 3)
            await on.disconnect()
        assert left_alone.pings == 0
