"""A running app that ends: draining, cutting, and what happens to those who are in the middle of something."""

import asyncio
import logging
import time
from typing import Any

import pytest

from wampkit import App, Connection, Limits
from wampkit.protocol.extensions import RESTART

from ..support.wire import CALL, PATIENCE, PUBLISH, RESULT, SUBSCRIBE, close, eventually, handshake, message, serve

T = "http://example.com/topic/"


class Work:
    """An app with a call that waits until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.app = app = App(prefixes={"t": T}, **options)
        self.started = 0
        self.finished = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.ends: list[tuple[str, int | None, str]] = []
        app.topic("t:relay", relay=True)

        @app.rpc("wait")
        async def wait(x: Any) -> Any:
            self.started += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.finished += 1
            return x

        @app.topic("t:slow")
        async def slow(event: Any) -> Any:
            self.started += 1
            await self.gate.wait()
            self.finished += 1
            return event

        @app.on_disconnect
        async def gone(connection: Connection) -> None:
            self.ends.append((connection.id, connection.close_code, connection.close_reason))


async def test_calls_under_way_are_answered_before_1012() -> None:
    """A drain answers the calls that began, runs the publishes that came, and then closes with 1012."""
    work = Work()
    async with serve(work.app) as server:
        caller, listener, idle = await server.peer(), await server.peer(), await server.peer()
        await listener.subscribe("t:slow")
        await caller.send(CALL, "1", "wait", "answer")
        await caller.send(PUBLISH, "t:slow", "event")
        await eventually(lambda: work.started == 2)
        draining = asyncio.create_task(work.app.drain(5))
        await asyncio.sleep(0)
        await caller.send(CALL, "2", "wait", "too late")
        assert not draining.done()
        work.gate.set()
        await draining
        assert await caller.answer("1") == [RESULT, "1", "answer"]
        assert await listener.events(1) == ["event"]
        for peer in (caller, listener, idle):
            assert (await peer.closed())[0] == 1012
        await eventually(lambda: len(work.ends) == 3)
        assert {code for _, code, _ in work.ends} == {1012}
        assert work.started == 2
        assert caller._messages.empty()


@pytest.mark.parametrize("how", ["aiohttp", "drain"])
async def test_under_aiohttps_own_shutdown_calls_are_answered_too(how: str) -> None:
    """`runner.cleanup()`, as run_app and gunicorn do it, answers calls under way, however short the keepalive."""
    work = Work(keepalive=0.1)
    async with serve(work.app, drain=10) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wait", "answer")
        await eventually(lambda: work.started == 1)
        ending = asyncio.create_task(server.runner.cleanup() if how == "aiohttp" else work.app.drain(10))
        # More than one and a half intervals: nobody may be cut for pongs that aiohttp does not take in any more.
        await asyncio.sleep(0.5)
        work.gate.set()
        assert await peer.answer("1") == [RESULT, "1", "answer"]
        assert (await peer.closed())[0] == 1012
        await asyncio.wait_for(ending, 20)
        assert [code for _, code, _ in work.ends] == [1012]


async def test_a_stuck_call_is_cancelled_at_the_deadline() -> None:
    """A call that outlasts the deadline is cancelled, its connection closed with 1012, and the drain ends."""
    work = Work()
    async with serve(work.app) as server:
        stuck, idle = await server.peer(), await server.peer()
        await stuck.send(CALL, "1", "wait", 1)
        await eventually(lambda: work.started == 1)
        start = time.monotonic()
        await asyncio.wait_for(work.app.drain(0.2), 10)
        assert time.monotonic() - start >= 0.2
        assert (await stuck.closed())[0] == 1012
        assert (await idle.closed())[0] == 1012
        await eventually(lambda: work.cancelled == 1)
        assert work.finished == 0


async def test_a_stuck_publish_is_cancelled_at_the_deadline() -> None:
    """A PUBLISH handler that outlasts the deadline does not hold up the stop, and what waits behind it never begins."""
    work = Work()
    async with serve(work.app) as server:
        peer = await server.peer()
        for number in range(3):
            await peer.send(PUBLISH, "t:slow", number)
        await eventually(lambda: work.started == 1)
        await asyncio.wait_for(work.app.drain(0.1), PATIENCE)
        await asyncio.wait_for(work.app.stop(), PATIENCE)
        assert work.finished == 0
        assert work.started == 1


async def test_a_drain_turns_away_who_is_still_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose on_connect hook still runs is turned away at once: it holds up no drain."""
    monkeypatch.setattr("wampkit.server.runtime.CLOSE_TIMEOUT", 3600.0)
    work = Work(close_timeout=3600.0)
    entered = asyncio.Event()

    @work.app.on_connect
    async def hang(connection: Connection) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with serve(work.app) as server:
        peer = await server.tcp()
        await peer.send(handshake())
        await asyncio.wait_for(entered.wait(), PATIENCE)
        await asyncio.wait_for(work.app.drain(0.1), PATIENCE)
        await peer.read_to_end()


async def test_an_idle_app_drains_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """With nothing under way a drain ends when the clients have answered its close, long before its deadline.

    The log has nothing to tell of it.
    """
    work = Work()
    async with serve(work.app) as server:
        peers = [await server.peer() for _ in range(20)]
        await asyncio.wait_for(work.app.drain(3600), PATIENCE)
        for peer in peers:
            assert (await peer.closed())[0] == 1012
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_client_that_does_not_answer_the_close_is_cut() -> None:
    """Peers that read nothing, or answer no close, do not hold up a drain for long."""
    work = Work(limits=Limits(queue=10**8))
    async with serve(work.app) as server:
        mute = await server.raw()
        stalled = await server.raw(rcvbuf=4096)
        await stalled.send_message(SUBSCRIBE, "t:relay")
        await eventually(lambda: len(work.app.topics) == 1)
        connection = server.connection(stalled)
        while connection.unsent == 0:
            await work.app.publish("t:relay", "x" * 100_000)
            await asyncio.sleep(0)
        await asyncio.wait_for(work.app.drain(0.1), 15)
        assert await mute.read_close() == (1012, RESTART)
        await eventually(lambda: len(work.ends) == 2)
        assert {code for _, code, _ in work.ends} == {1012}


async def test_a_client_is_given_time_to_answer_the_close() -> None:
    """A drain waits for the answer to its 1012, and the socket ends in order."""
    work = Work()
    async with serve(work.app) as server:
        peer = await server.raw()
        draining = asyncio.create_task(work.app.drain(5))
        assert await peer.read_close() == (1012, RESTART)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not draining.done()
        assert work.ends == []
        await peer.send(close(1012))
        with pytest.raises(EOFError):
            await peer.read_frame()
        await draining
        assert [code for _, code, _ in work.ends] == [1012]


async def test_a_draining_app_takes_nobody_in() -> None:
    """While an app drains, handshakes get 503 with Retry-After on a closing connection."""
    work = Work()
    async with serve(work.app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wait", 1)
        await eventually(lambda: work.started == 1)
        draining = asyncio.create_task(work.app.drain(5))
        await asyncio.sleep(0)
        answer = await server.ask(handshake())
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after:" in answer.lower()
        assert b"connection: close" in answer.lower()
        work.gate.set()
        await draining


async def test_a_handshake_under_way_when_the_drain_begins_is_refused() -> None:
    """A client whose gates take until the app drains gets 503, not a socket that is cut."""
    entered, gate = asyncio.Event(), asyncio.Event()

    class Slow:
        async def connect(self, connection: Connection) -> None:
            entered.set()
            await gate.wait()

    work = Work(middlewares=[Slow()])
    async with serve(work.app) as server:
        asking = asyncio.create_task(server.ask(handshake()))
        await entered.wait()
        await work.app.drain(1)
        gate.set()
        assert (await asking).startswith(b"HTTP/1.1 503 ")


async def test_no_call_that_ran_goes_unanswered_under_load() -> None:
    """With twenty clients calling all the time, a drain answers every call whose handler ran."""
    app = App()
    ran: list[tuple[str, str]] = []

    @app.rpc("short")
    async def short(connection: Connection, x: int) -> int:
        await asyncio.sleep(0.002 * (x % 5))
        ran.append((connection.id, str(x)))
        return x

    async with serve(app) as server:
        raws = [await server.raw() for _ in range(20)]
        replies: dict[str, list[str]] = {raw.id: [] for raw in raws}

        async def calls(raw: Any) -> None:
            number = 0
            while True:
                number += 1
                await raw.send(message(CALL, str(number), "short", number))
                await asyncio.sleep(0.001)

        async def reads(raw: Any) -> int:
            while True:
                opcode, payload = await raw.read_frame()
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big")
                if opcode == 1:
                    replies[raw.id].append(payload.decode().split('"')[1])

        callers = [asyncio.create_task(calls(raw)) for raw in raws]
        readers = [asyncio.create_task(reads(raw)) for raw in raws]
        await eventually(lambda: len(ran) > 500)
        await app.drain(5)
        codes = await asyncio.wait_for(asyncio.gather(*readers), 5)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert set(codes) == {1012}
        answered = {(raw.id, call_id) for raw in raws for call_id in replies[raw.id]}
        assert set(ran) == answered


async def test_stopping_twice_or_without_clients_is_fine() -> None:
    """drain and stop may come in any order and number."""
    app = App()
    await app.drain(1)
    await app.stop()
    await app.start()
    await app.drain(1)
    await app.drain(1)
    await app.stop()
    await app.stop()
    assert not app.running


async def test_a_hundred_clients_that_go_at_once_leave_nothing() -> None:
    """Clients that vanish together, in the middle of calls and subscriptions, leave no call, topic or connection."""
    work = Work()
    async with serve(work.app) as server:
        before = len(asyncio.all_tasks())
        peers = [await server.raw() for _ in range(100)]
        for peer in peers:
            await peer.send_message(SUBSCRIBE, "t:relay")
            await peer.send_message(CALL, "1", "wait", 1)
        await eventually(lambda: work.started == 100)
        assert len(work.app.topics[T + "relay"]) == 100
        for peer in peers:
            peer.reset()
        await eventually(lambda: len(work.app.connections) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert work.cancelled == 100
        assert work.app.topics == {}
        assert len(work.ends) == 100


async def test_a_handler_that_ignores_its_cancellation_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that will not end holds up neither the end of its connection nor its hooks, and is complained of."""
    monkeypatch.setattr("wampkit.server.runtime.CANCEL_TIMEOUT", 0.05)
    app = App(prefixes={"t": T})
    entered, gate = asyncio.Event(), asyncio.Event()
    left: list[str] = []
    topic = app.topic("t:late", relay=True)

    async def stubborn() -> None:
        entered.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    topic.on_subscribe(stubborn)
    topic.on_unsubscribe(lambda: left.append("left"))
    async with serve(app) as server:
        peer = await server.raw()
        try:
            await peer.send_message(SUBSCRIBE, "t:late")
            await entered.wait()
            peer.reset()
            await eventually(lambda: len(app.connections) == 0)
            await eventually(lambda: "did not end" in caplog.text, timeout=15)
        finally:
            gate.set()
        # The subscription that it accepted so late is ended at once.
        await eventually(lambda: left == ["left"])
        assert app.topics == {}
