"""Clients that read slowly, or not at all: what they cost, when they are cut, and that nobody else feels it.

Of the plan of faults these are, with what other files hold of it:

S01 stalled among fast: `test_stalled_subscribers_cost_little_and_readers_nothing`; the time that readers lose is for
    the benchmarks
S02 many stalled at once: the same test, `test_a_stalled_client_keeps_little_in_the_kernel`
S03 the bound: `test_the_queue_is_the_bound`, `test_with_drop_the_queue_is_the_bound_too`, test_outbox's
    `test_a_burst_to_a_stalled_reader_within_one_turn_is_bounded`, and what it says of "drop"
S04 slow but alive: `test_a_slow_reader_below_the_limit_stays`, `test_a_result_larger_than_the_queue_arrives`,
    `test_an_event_larger_than_the_queue_arrives`,
    test_keepalive's `test_a_client_that_reads_slowly_but_reads_stays`, test_connection's
    `test_a_reader_that_catches_up_is_not_cut`
S05 sends and never reads: `test_a_peer_that_sends_and_never_reads_is_cut` (uvloop; on asyncio test_keepalive's
    `test_a_stalled_reader_under_load_is_cut_and_its_socket_freed`), `test_results_that_nobody_reads_are_bounded`
S06 goodbye to a stalled peer: `test_a_goodbye_to_a_stalled_peer_has_a_deadline` (uvloop; on asyncio test_connection's
    `test_a_stalled_peer_that_is_closed_is_cut` and test_node's `test_a_client_that_does_not_answer_the_close_is_cut`),
    `test_stopping_waits_for_no_stalled_peer`, `test_a_peer_that_reads_on_gets_the_goodbye`
S07, S08, S09 half-open: test_half_open
S10 frozen and thawed: `test_a_frozen_client_that_thaws_in_time_loses_nothing`,
    `test_a_frozen_client_that_thaws_too_late_is_cut_cleanly`
S11 healthy client, busy handlers: `test_a_client_that_waits_for_a_busy_server_stays`; test_keepalive's
    `test_a_handler_that_holds_up_the_loop_gets_nobody_cut` for handlers that block
S12 a call cancelled while its peer stalls: `test_cancelling_a_call_of_a_stalled_peer_cancels_nothing_else`
S13 pong while handlers run: `test_pings_are_answered_whatever_handlers_do`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from wampkit import App, Connection

from ..support.command import environment
from ..support.loops import on_each_loop, on_uvloop
from ..support.slow import MIB, cost, limits
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    Peer,
    RawPeer,
    Server,
    eventually,
    fds,
    serve,
    sockets_of,
)

T = "news"

TOO_SLOW = 4008

ALLOWED = int(1.2 * MIB)
"""What a client that reads nothing may cost with the queue that apps have by default, the kernel's share included."""


class Ends:
    """What on_disconnect was told, by session id."""

    def __init__(self, app: App) -> None:
        self.seen: dict[str, tuple[int | None, str]] = {}
        app.on_disconnect(self.gone)

    async def gone(self, connection: Connection) -> None:
        assert connection.id not in self.seen
        self.seen[connection.id] = (connection.close_code, connection.close_reason)

    @property
    def codes(self) -> list[int | None]:
        return [code for code, _ in self.seen.values()]


def make(**options: Any) -> tuple[App, Ends]:
    app = App(**options)
    app.topic(T, relay=True)

    @app.rpc("echo")
    async def echo(x: Any) -> Any:
        return x

    @app.rpc("give")
    async def give(size: int) -> str:
        return "x" * size

    return app, Ends(app)


async def stalled(server: Server, rcvbuf: int | None = 4096) -> RawPeer:
    """A subscriber that reads nothing."""
    peer = await server.raw(rcvbuf=rcvbuf)
    await peer.send_message(SUBSCRIBE, T)
    await eventually(lambda: peer.id in {each.id for each in server.app.topics.get(T, ())})
    return peer


async def fill(app: App, connection: Connection, waits: int = 1) -> int:
    """Publish numbered events until so many bytes wait for a client; how many it took."""
    count = 0
    while connection.unsent < waits:
        await app.publish(T, [count, "x" * 20_000])
        count += 1
        await asyncio.sleep(0)
    return count


def size_of(event: Any) -> int:
    """The size of the frame around an event that is longer than a few bytes."""
    return len(json.dumps([EVENT, T, event], separators=(",", ":"))) + 4


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


# ---- S03: the bound


@pytest.mark.parametrize("size", [100, 10_000])
@on_each_loop
async def test_the_queue_is_the_bound(size: int) -> None:
    """A client that reads nothing is cut when its queue is full: not one message before, not one after."""
    limit = 300_000
    app, ends = make(**limits(queue=limit))
    event = "x" * size
    frame = size_of(event)
    waited: list[int] = []
    async with serve(app) as server:
        connection = server.connection(await stalled(server))
        async with asyncio.timeout(20):
            while not connection.closed:
                waited.append(connection.unsent)
                await app.publish(T, event)
                await asyncio.sleep(0)
        await eventually(lambda: ends.codes == [TOO_SLOW])
    assert limit - frame < waited[-1] <= limit + frame
    assert max(waited) == waited[-1]


async def fill_until_cut(app: App, ends: Ends) -> None:
    """Publish until somebody is cut for being too slow."""
    async with asyncio.timeout(20):
        while not ends.seen:
            await app.publish(T, "x" * 20_000)
            await asyncio.sleep(0)
    assert ends.codes == [TOO_SLOW]


# ---- the other policy: drop


def drop(queue: int) -> dict[str, Any]:
    return limits(queue=queue, slow_reader="drop")


@on_each_loop
async def test_with_drop_the_queue_is_the_bound_too() -> None:
    """With "drop" a client that reads nothing is not cut, and yet no more waits for it than may."""
    limit = 300_000
    app, ends = make(**drop(limit))
    event = "x" * 10_000
    async with serve(app) as server:
        connection = server.connection(await stalled(server))
        most = 0
        # In steps and in bursts: neither gets past the bound.
        for step in range(300):
            for _ in range(1 if step % 10 else 40):
                await app.publish(T, event)
            await asyncio.sleep(0)
            most = max(most, connection.unsent)
        assert limit - size_of(event) < most <= limit + size_of(event)
        assert connection.dropped > 0
        assert not connection.closed
    assert set(ends.codes) == {1006}


@on_each_loop
async def test_with_drop_the_newest_are_kept_and_the_others_counted() -> None:
    """A client that reads on after a stall receives the newest events, in order, and every other one was counted."""
    app, ends = make(**drop(300_000))
    async with serve(app) as server:
        neighbour = await server.peer()
        await neighbour.subscribe(T)
        peer = await stalled(server)
        connection = server.connection(peer)
        published = 0
        async with asyncio.timeout(20):
            while connection.dropped < 50:
                await app.publish(T, [published, "x" * 10_000])
                published += 1
                await asyncio.sleep(0)
                await eventually(lambda: not server.connection(neighbour).unsent)
        seen: list[int] = []
        while not seen or seen[-1] < published - 1:
            seen.append((await peer.read_message())[2][0])
        assert seen == sorted(set(seen))
        assert len(seen) + connection.dropped == published
        # What was kept is what came last: nothing is missing behind the gap.
        gap = max(range(1, len(seen)), key=lambda index: seen[index] - seen[index - 1])
        assert seen[gap:] == list(range(seen[gap], published))
        assert len(seen[gap:]) > 3
        # The stall is over: nothing more is dropped.
        dropped = connection.dropped
        for number in range(20):
            await app.publish(T, ["more", number])
            assert (await peer.read_message())[2] == ["more", number]
        assert connection.dropped == dropped
        assert server.connection(neighbour).dropped == 0
        assert [event[0] for event in await neighbour.events(published)] == list(range(published))
        assert ends.seen == {}


async def test_with_drop_results_are_kept() -> None:
    """With "drop" the answers to a stalled client's calls all wait for it, whatever happens to events around them."""
    app, _ = make(**drop(200_000))
    async with serve(app) as server:
        peer = await stalled(server)
        connection = server.connection(peer)
        for number in range(100):
            await peer.send_message(CALL, str(number), "echo", number)
            if number % 10 == 0:
                await peer.send_message(CALL, f"wrong {number}", "nothing of the kind")
            for _ in range(5):
                await app.publish(T, "x" * 10_000)
            await asyncio.sleep(0)
        await eventually(lambda: connection.dropped > 100)
        answers: list[Any] = []
        while len(answers) < 110:
            message = await peer.read_message()
            if message[0] != EVENT:
                answers.append(message)
        assert [answer[1:] for answer in answers if answer[0] == RESULT] == [[str(n), n] for n in range(100)]
        assert [answer[1] for answer in answers if answer[0] == ERROR] == [f"wrong {n}" for n in range(0, 100, 10)]


async def test_with_drop_a_dead_client_is_cut_all_the_same() -> None:
    """With "drop" a client that never reads is found by the keepalive, and its socket is freed."""
    app, ends = make(keepalive=0.4, **drop(100_000))
    async with serve(app) as server:
        before = fds()
        await stalled(server)
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish(T, "x" * 20_000)
                await asyncio.sleep(0.002)
        assert ends.codes == [1006]
        await eventually(lambda: fds() <= before + 1)


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


# ---- S10: frozen


CLIENT = """
import asyncio, json, sys
from tests.support.wire import SUBSCRIBE, RawPeer

async def main():
    peer = await RawPeer.open(int(sys.argv[1]))
    await peer.send_message(SUBSCRIBE, "news")
    try:
        while True:
            opcode, payload = await peer.read_frame()
            if opcode == 9:
                await peer.send_frame(10, payload)
            else:
                print(json.loads(payload)[2][0], flush=True)
    except (EOFError, ConnectionError):
        print("ended", flush=True)

asyncio.run(main())
"""


class Frozen:
    """A client in a process of its own, that can be stopped and made to go on; it prints what it receives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdout is not None
        self._out = process.stdout

    async def line(self) -> str:
        """The next line that it prints."""
        return (await asyncio.wait_for(self._out.readline(), 10)).decode().strip()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def freezable(server: Server) -> AsyncIterator[Frozen]:
    """A client that has subscribed and received event 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, str(server.port)),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=Path(__file__).parents[2],
    )
    try:
        client = Frozen(process)
        await eventually(lambda: server.app.topics, "it has subscribed", timeout=20)
        await server.app.publish(T, [0])
        assert await client.line() == "0"
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            process.kill()
        await process.wait()


async def test_a_frozen_client_that_thaws_in_time_loses_nothing() -> None:
    """A client that stands still, though a ping comes, and goes on before its pong is late, gets every event."""
    app, ends = make(keepalive=1.0)
    arrived = asyncio.Event()

    @app.on_connect
    async def came(connection: Connection) -> None:
        arrived.set()

    async with serve(app) as server:

        async def come_next() -> Peer:
            await arrived.wait()
            return await server.peer()

        coming = asyncio.create_task(come_next())
        async with freezable(server) as client:
            witness = await coming
            assert witness.pings == 0
            client.freeze()
            count = 1
            # Who came right after it is pinged no earlier than it is. Then half of its time for the pong goes by.
            late = 0
            while not witness.pings or late < 20:
                await app.publish(T, [count, "x" * 1000])
                count += 1
                late += bool(witness.pings)
                await asyncio.sleep(0.01)
            client.thaw()
            assert count > 40
            assert [await client.line() for _ in range(1, count)] == [str(number) for number in range(1, count)]
            pings = witness.pings
            await eventually(lambda: witness.pings > pings)
            assert ends.seen == {}


async def test_a_frozen_client_that_thaws_too_late_is_cut_cleanly() -> None:
    """A client that stands still for too long is cut; when it goes on it sees the first of the events, and the end."""
    app, ends = make(keepalive=0.4)
    async with serve(app) as server, freezable(server) as client:
        client.freeze()
        count = 1
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish(T, [count, "x" * 1000])
                count += 1
                await asyncio.sleep(0.002)
        assert ends.codes == [1006]
        client.thaw()
        lines = []
        while (line := await client.line()) != "ended":
            lines.append(line)
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        assert len(lines) < count


# ---- S11, S13: healthy clients of a busy server


@pytest.fixture(params=["direct", "queued"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways in."""
    monkeypatch.setenv("WAMPKIT_READER", request.param)
    return str(request.param)


@pytest.mark.parametrize("where", ["publish", "on_subscribe"])
async def test_a_client_that_waits_for_a_busy_server_stays(reader: str, where: str) -> None:
    """A client whose messages wait behind a handler, a megabyte and more, for many pings, is not cut; then they run."""
    interval = 0.2
    app, ends = make(keepalive=interval)
    gate = asyncio.Event()
    ran: list[int] = []

    @app.topic("slow")
    async def slow(event: list[Any]) -> None:
        await gate.wait()
        ran.append(event[0])

    @app.topic("guarded").on_subscribe
    async def decide() -> None:
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        if where == "on_subscribe":
            await peer.send(SUBSCRIBE, "guarded")
        for number in range(25):
            await peer.send(PUBLISH, "slow", [number, "x" * 60_000])
        seen = peer.pings
        await eventually(lambda: peer.pings >= seen + 3 or ends.seen)
        assert ends.seen == {}
        assert ran == []
        gate.set()
        await peer.settle()
        assert ran == list(range(25))


@pytest.mark.parametrize("busy", ["call", "thread", "publish", "on_subscribe"])
async def test_pings_are_answered_whatever_handlers_do(reader: str, busy: str) -> None:
    """A client's pings are answered, each with its payload and in order, while what it asked for takes its time."""
    app, _ = make()
    gate, began, release = asyncio.Event(), asyncio.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        await gate.wait()

    @app.rpc("thread")
    def block() -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(10)

    app.add_rpc("call", wait)
    app.topic("publish")(wait)
    app.topic("on_subscribe").on_subscribe(wait)
    loop = asyncio.get_running_loop()
    async with serve(app) as server:
        peer = await server.peer()
        try:
            match busy:
                case "publish":
                    await peer.send(PUBLISH, busy, None)
                case "on_subscribe":
                    await peer.send(SUBSCRIBE, busy)
                case _:
                    await peer.send(CALL, "1", busy)
            await began.wait()
            for number in range(20):
                await peer.socket.ping(b"%d" % number)
                await eventually(lambda: len(peer.pongs) == number + 1)  # noqa: B023  # it is awaited here
            assert peer.pongs == [b"%d" % number for number in range(20)]
        finally:
            gate.set()
            release.set()
        if busy in ("call", "thread"):
            assert await peer.answer("1") == [RESULT, "1", None]
        await peer.settle()


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
