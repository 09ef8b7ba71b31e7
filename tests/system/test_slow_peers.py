"""Clients that read slowly or not at all: what they cost, when they are cut, and that no other client notices.

Of the plan of faults these are, with what other files hold of it:

S01 stalled among fast: `test_stalled_subscribers_cost_little_and_readers_nothing`; the time that readers lose is for
    the benchmarks
S02 many stalled at once: the same test, `test_a_stalled_client_keeps_little_in_the_kernel`
S03 the bound: test_queue_bounds, test_outbox's
    `test_a_burst_to_a_stalled_reader_within_one_turn_is_bounded`, and what it says of "drop"
S04 slow but alive: `test_a_slow_reader_below_the_limit_stays`, `test_a_result_larger_than_the_queue_arrives`,
    `test_an_event_larger_than_the_queue_arrives`,
    test_keepalive's `test_a_client_that_reads_slowly_but_reads_stays`, test_connection's
    `test_a_reader_that_catches_up_is_not_cut`
S05 sends and never reads: `test_a_peer_that_sends_and_never_reads_is_cut` (uvloop; on asyncio test_keepalive's
    `test_a_stalled_reader_under_load_is_cut_and_its_socket_freed`), `test_results_that_nobody_reads_are_bounded`
S06 goodbye to a stalled peer: `test_a_goodbye_to_a_stalled_peer_has_a_deadline` (uvloop; on asyncio test_closing's
    `test_a_stalled_peer_that_is_closed_is_cut` and test_runtime's
    `test_a_client_that_does_not_answer_the_close_is_cut`), `test_stopping_waits_for_no_stalled_peer`,
    `test_a_peer_that_reads_on_gets_the_goodbye`
S07, S08, S09 half-open: test_half_open
S10 frozen and thawed: test_frozen_peers
S11 healthy client, busy handlers: test_busy_servers; test_keepalive's
    `test_a_handler_that_holds_up_the_loop_gets_nobody_cut` for handlers that block
S12 a call cancelled while its peer stalls: `test_cancelling_a_call_of_a_stalled_peer_cancels_nothing_else`
S13 pong while handlers run: test_busy_servers
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Literal

import pytest

from wampkit import App, Connection

from ..support.loops import on_each_loop, on_uvloop
from ..support.slow import MIB, cost, limits
from ..support.stalled import TOO_SLOW, T, make, size_of, stalled
from ..support.wire import CALL, ERROR, EVENT, RESULT, SUBSCRIBE, eventually, fds, serve, sockets_of

ALLOWED = int(1.2 * MIB)
"""What a client that reads nothing may cost with the queue that apps have by default, the kernel's share included."""


async def fill(app: App, connection: Connection, waits: int = 1) -> int:
    """Publish numbered events until so many bytes wait for a client; how many it took."""
    count = 0
    while connection.unsent < waits:
        await app.publish(T, [count, "x" * 20_000])
        count += 1
        await asyncio.sleep(0)
    return count


# ---- S01, S02: stalled clients among others


@pytest.mark.parametrize("count", [1, 20])
async def test_stalled_subscribers_cost_little_and_readers_nothing(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Stalled subscribers among fifty readers are cut with 4008 and a line each, and none costs more than it may;
    every reader gets every event, in order."""
    app, ends = make()
    async with serve(app) as server:
        readers = [await server.peer() for _ in range(50)]
        for reader in readers:
            await reader.subscribe(T)
        reading = [server.connection(reader) for reader in readers]
        waiting = [server.connection(await stalled(server)) for _ in range(count)]
        published = most = 0
        async with asyncio.timeout(30):
            while len(ends.seen) < count:
                await app.publish(T, [published, "x" * 16_000])
                published += 1
                await asyncio.sleep(0)
                most = max(most, *map(cost, waiting))
                # Whoever reads is given the time for it: this client runs on the server's loop.
                await eventually(lambda: not any(connection.unsent for connection in reading))
        assert ends.seen.keys() == {connection.id for connection in waiting}
        assert set(ends.codes) == {TOO_SLOW}
        assert most <= ALLOWED, f"{most / MIB:.2f} MiB"
        for reader in readers:
            assert [event[0] for event in await reader.events(published)] == list(range(published))
            await reader.nothing()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all("slow" in line for line in lines)
    assert 1 <= len(lines) <= count, "they all have one address, and its repetition is counted"


@on_each_loop
async def test_a_stalled_client_keeps_little_in_the_kernel() -> None:
    """What the kernel takes over for a client that does not read is little, however much it could take."""
    app, _ = make(**limits(queue=10**8))
    async with serve(app) as server:
        connection = server.connection(await stalled(server, rcvbuf=None))
        await fill(app, connection, waits=100_000)
        assert cost(connection) - connection.unsent <= ALLOWED - MIB


async def test_accepted_sockets_are_told_to_give_up() -> None:
    """The kernel, too, gives up a peer that acknowledges nothing, long before its own quarter of an hour."""
    app, _ = make()
    async with serve(app) as server:
        transport = server.connection(await server.raw()).request.transport
        assert transport is not None
        milliseconds = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert 1000 <= milliseconds <= 120_000


# ---- S04: slow, but alive


@pytest.mark.parametrize("policy", ["close", "drop"])
async def test_a_slow_reader_below_the_limit_stays(policy: Literal["close", "drop"]) -> None:
    """A client that reads a little at a time, whose queue grows and shrinks below its limit, loses nothing."""
    limit = 200_000
    app, ends = make(keepalive=0.5, **limits(queue=limit, slow_reader=policy))
    async with serve(app) as server:
        peer = await server.raw(rcvbuf=4096)
        await peer.send_message(SUBSCRIBE, T)
        await eventually(lambda: app.topics)
        connection = server.connection(peer)
        seen: list[int] = []
        published = waves = pings = 0

        async def read_one() -> None:
            nonlocal pings
            opcode, payload = await peer.read_frame()
            if opcode == 9:
                pings += 1
                await peer.send_frame(10, payload)
            else:
                seen.append(int(payload[len(f'[8,"{T}",[') :].split(b",")[0]))

        async with asyncio.timeout(20):
            while pings < 2:
                while connection.unsent < limit * 3 // 4:
                    await app.publish(T, [published, "x" * 1000])
                    published += 1
                    await asyncio.sleep(0)
                waves += 1
                while connection.unsent > limit // 4:
                    await read_one()
                    await asyncio.sleep(0)
            while len(seen) < published:
                await read_one()
        assert waves > 3
        assert seen == list(range(published))
        assert ends.seen == {}


@pytest.mark.parametrize("policy", ["close", "drop"])
async def test_a_result_larger_than_the_queue_arrives(policy: Literal["close", "drop"]) -> None:
    """One result that is larger than the whole queue reaches a client that reads, which stays."""
    app, ends = make(**limits(queue=100_000, slow_reader=policy))
    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("give", 5_000_000) == "x" * 5_000_000
        assert await peer.result("echo", 1) == 1
        assert ends.seen == {}


@pytest.mark.parametrize("policy", ["close", "drop"])
async def test_an_event_larger_than_the_queue_arrives(policy: Literal["close", "drop"]) -> None:
    """One event that is larger than the whole queue reaches all subscribers that read, who stay."""
    app, ends = make(**limits(queue=100_000, slow_reader=policy))
    async with serve(app) as server:
        peers = [await server.peer() for _ in range(3)]
        for peer in peers:
            await peer.subscribe(T)
        await app.publish(T, "y" * 5_000_000)
        for peer in peers:
            assert await peer.events(1) == ["y" * 5_000_000]
            assert await peer.result("echo", 1) == 1
        assert ends.seen == {}


# ---- S05: sends, and never reads


@on_uvloop
async def test_a_peer_that_sends_and_never_reads_is_cut() -> None:
    """A peer that reads nothing while much is sent to it, and sends pongs of its own, is cut and its socket freed."""
    app, ends = make(keepalive=0.4, **limits(queue=10**9))
    async with serve(app) as server:
        before = fds()
        peer = await stalled(server)
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish(T, "x" * 20_000)
                with contextlib.suppress(ConnectionError):  # the end may come between the look and the sending
                    await peer.send_frame(10, b"unasked")
                await asyncio.sleep(0.005)
        assert ends.codes == [1006]
        await eventually(lambda: fds() <= before + 1)
        await eventually(lambda: sockets_of(server) == 0)


@pytest.mark.parametrize("policy", ["close", "drop"])
@on_each_loop
async def test_results_that_nobody_reads_are_bounded(policy: Literal["close", "drop"]) -> None:
    """A peer that calls and calls and never reads an answer piles up no more of them than its queue holds."""
    limit = 300_000
    app, ends = make(keepalive=0.6, **limits(queue=limit, slow_reader=policy))
    most = 0
    async with serve(app) as server:
        peer = await server.raw(rcvbuf=4096)
        connection = server.connection(peer)

        async def call() -> None:
            while True:
                await peer.send_message(CALL, "1", "give", 10_000)

        calling = asyncio.create_task(call())
        try:
            async with asyncio.timeout(5):
                while not ends.seen:
                    most = max(most, connection.unsent)
                    await asyncio.sleep(0)
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
    assert most <= limit + 2 * size_of("x" * 10_000)
    assert ends.codes[0] in (TOO_SLOW, 1006)


# ---- S06: goodbye to a stalled peer


@pytest.mark.parametrize("how", ["close", "drain"])
@on_uvloop
async def test_a_goodbye_to_a_stalled_peer_has_a_deadline(how: str) -> None:
    """Closing or draining a client that reads nothing, with much waiting for it, ends in time and frees its socket."""
    app, ends = make(close_timeout=0.1, **limits(queue=10**8))
    async with serve(app) as server:
        before = fds()
        connection = server.connection(await stalled(server))
        await fill(app, connection, waits=MIB)
        if how == "close":
            connection.close(4000, "go")
        else:
            await asyncio.wait_for(app.drain(0.1), 4)
        await asyncio.wait_for(connection.wait_closed(), 4)
        await eventually(lambda: ends.codes == [4000 if how == "close" else 1012])
        await eventually(lambda: fds() <= before + 1)
        await eventually(lambda: sockets_of(server) == 0)


@on_each_loop
async def test_stopping_waits_for_no_stalled_peer() -> None:
    """An app that is stopped without a drain frees the sockets of clients that read nothing."""
    app, ends = make(close_timeout=30.0, **limits(queue=10**8))
    async with serve(app) as server:
        before = fds()
        peers = [await stalled(server) for _ in range(3)]
        for peer in peers:
            await fill(app, server.connection(peer), waits=MIB)
        await asyncio.wait_for(app.stop(), 4)
        assert ends.codes == [1001] * 3
        await eventually(lambda: fds() <= before + 3)
        await eventually(lambda: sockets_of(server) == 0)


@on_each_loop
async def test_a_peer_that_reads_on_gets_the_goodbye() -> None:
    """A client that was behind when the server closed it, and reads on in time, gets all that was sent before."""
    app, ends = make(close_timeout=4.0, **limits(queue=10**8))
    async with serve(app) as server:
        peer = await stalled(server)
        connection = server.connection(peer)
        count = await fill(app, connection, waits=MIB)
        connection.close(4000, "go")
        for number in range(count):
            assert (await peer.read_message())[2][0] == number
        assert await peer.read_close() == (4000, "go")
        peer.close()
        await eventually(lambda: ends.codes == [4000])


async def test_a_drain_waits_for_a_peer_that_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was behind when the server drains, and reads on in time, gets all that was sent before."""
    monkeypatch.setattr("wampkit.server.runtime.CLOSE_TIMEOUT", 0.05)
    app, ends = make(close_timeout=4.0, **limits(queue=10**8))
    async with serve(app) as server:
        peer = await stalled(server)
        count = await fill(app, server.connection(peer), waits=MIB)
        draining = asyncio.create_task(app.drain(1.0))
        await asyncio.sleep(0.1)  # longer than it waits for those that are not behind
        assert not draining.done()
        for number in range(count):
            assert (await peer.read_message())[2][0] == number
        assert (await peer.read_close())[0] == 1012
        peer.close()
        await draining
        assert ends.codes == [1012]


# ---- S12: a call is cancelled while its peer stalls


async def test_cancelling_a_call_of_a_stalled_peer_cancels_nothing_else() -> None:
    """A call that times out while its client reads nothing disturbs no other call, publish or periodic function."""
    app, ends = make(**limits(queue=10**8))
    gate = asyncio.Event()
    cancelled: list[str] = []
    failed: list[BaseException] = []

    def noting(name: str) -> Callable[[], Any]:
        async def handler() -> str:
            try:
                for _ in range(50):
                    await app.publish(T, "x" * 1000)
                    await asyncio.sleep(0)
                await gate.wait()
            except asyncio.CancelledError:
                cancelled.append(name)
                raise
            return name

        return handler

    app.add_rpc("doomed", noting("doomed"), timeout=0.02)
    for name in ("one", "two"):
        app.add_rpc(name, noting(name))
    app.on_error(lambda error, connection: failed.append(error))
    async with serve(app) as server:
        peer, neighbour = await stalled(server), await server.peer()
        connection = server.connection(peer)
        await fill(app, connection, waits=MIB)
        for name in ("one", "doomed", "two"):
            await peer.send_message(CALL, name, name)
        await neighbour.send(CALL, "other", "one")
        await eventually(lambda: cancelled)
        # What is sent after the cancellation still goes through.
        await app.publish(T, "after")
        await peer.send_message(CALL, "late", "echo", 1)
        gate.set()
        assert await neighbour.answer("other") == [RESULT, "other", "one"]
        answers: dict[str, Any] = {}
        last: Any = None
        while len(answers) < 4 or last != "after":
            message = await peer.read_message()
            if message[0] == EVENT:
                last = message[2] if message[2] == "after" or last != "after" else last
            else:
                answers[message[1]] = message
        assert [answers[name][0] for name in ("one", "doomed", "two", "late")] == [RESULT, ERROR, RESULT, RESULT]
        assert "timeout" in answers["doomed"][2]
        assert cancelled == ["doomed"]
        assert failed == []
        assert ends.seen == {}
