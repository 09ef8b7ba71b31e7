"""Calls and events by the thousand, and callers that go while they are called: nothing lost, doubled or left behind.

Of the plan of faults these are, with what other files hold of it:

H05 a caller that goes: `test_a_late_answer_of_a_stubborn_handler_is_dropped`,
    `test_a_late_answer_of_a_thread_is_dropped`; all else in test_cancelled_calls:
    `test_a_call_whose_connection_goes_is_cancelled_and_cleaned_up`,
    `test_many_calls_of_a_vanished_peer_leave_no_task`
H06 a bomb of calls: `test_a_bomb_of_calls_is_answered_call_by_call`,
    test_limits_in_flight's
    `test_calls_in_flight_are_bounded_and_none_is_lost`, test_faults'
    `test_a_flood_of_calls_from_one_client_starves_nobody` for calls that end at once
H07 a storm of publishes: `test_a_storm_of_publishes_leaves_turns_to_others`
H13 order: `test_order_holds_between_every_publisher_and_subscriber`, test_topics'
    `test_events_arrive_in_order_from_each_publisher`
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading

import pytest

from wampkit import App, Limits
from wampkit.connection.sockets import FRAME_BATCH

from ..support.wire import CALL, PUBLISH, RESULT, Peer, eventually, message, serve

# ---- H05: a caller that goes


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_a_late_answer_of_a_stubborn_handler_is_dropped(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that outlasts its caller's connection ends in peace: nobody hears its result, and nothing is left."""
    app = App()
    gate = asyncio.Event()
    log: list[str] = []

    @app.rpc("stubborn")
    async def stubborn() -> str:
        log.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
        await gate.wait()
        log.append("ended")
        if ends == "raises":
            raise ValueError("too late to tell")
        return "too late"

    async with serve(app) as server:
        neighbour = await server.peer()
        peer = await server.raw()
        await peer.send_message(CALL, "1", "stubborn")
        await eventually(lambda: log == ["began"])
        peer.reset()
        await eventually(lambda: log == ["began", "cancelled"])
        gate.set()
        await eventually(lambda: log == ["began", "cancelled", "ended"])
        assert len(app.connections) == 1
        await neighbour.nothing()
        gc.collect()
        assert server.trouble == []
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_a_late_answer_of_a_thread_is_dropped(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    """A `def` handler whose caller has gone runs to its end in its thread, unheard; the connection does not wait."""
    app = App()
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    @app.rpc("block")
    def block() -> str:
        began.set()
        release.wait(10)
        ended.set()
        if ends == "raises":
            raise ValueError("too late to tell")
        return "too late"

    async with serve(app) as server:
        try:
            neighbour = await server.peer()
            peer = await server.raw()
            await peer.send_message(CALL, "1", "block")
            await eventually(began.is_set)
            peer.reset()
            await eventually(lambda: len(app.connections) == 1)
            assert not ended.is_set()
        finally:
            release.set()
        await eventually(ended.is_set)
        await neighbour.nothing()
        gc.collect()
        assert server.trouble == []
    assert "never retrieved" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---- H06: a bomb of calls


async def test_a_bomb_of_calls_is_answered_call_by_call() -> None:
    """Of ten thousand calls of one client that all take their time, no more than may be are under way at once; they
    hold up nobody, and each gets its one answer."""
    app = App()
    gate = asyncio.Event()
    running = most = 0

    @app.rpc("wait")
    async def wait(x: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return x

    @app.rpc("echo")
    async def echo(x: int) -> int:
        return x

    total, bound = 10_000, Limits().calls
    async with serve(app) as server:
        bomber, neighbour = await server.raw(), await server.peer()
        before = len(asyncio.all_tasks())
        bomb = asyncio.create_task(bomber.send(b"".join(message(CALL, str(n), "wait", n) for n in range(total))))
        await eventually(lambda: running == bound)
        for number in range(50):
            assert await neighbour.result("echo", number) == number
        assert running == bound
        gate.set()
        answers = [await bomber.read_message() for _ in range(total)]
        await bomb
        assert sorted(answers, key=lambda answer: answer[2]) == [[RESULT, str(n), n] for n in range(total)]
        assert most == bound
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


# ---- H07: a storm of publishes


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_a_storm_of_publishes_leaves_turns_to_others(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While thousands of one client's events go to all, another's come through within a few batches of them, and
    every subscriber receives all of them in the one order in which the server took them."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app = App()
    taken: list[int | str] = []
    news = asyncio.Event()

    @app.topic("news")
    async def take(event: int | str) -> int | str:
        taken.append(event)
        news.set()
        return event

    total, marks = 5000, 10
    async with serve(app) as server:
        readers = [await server.peer() for _ in range(10)]
        for reader in readers:
            await reader.subscribe("news")
        storm, other = await server.raw(), await server.peer()
        blowing = asyncio.create_task(storm.send(b"".join(message(PUBLISH, "news", n) for n in range(total))))
        await news.wait()
        waited = []
        for number in range(marks):
            before = len(taken)
            await other.send(PUBLISH, "news", f"mark {number}")
            while f"mark {number}" not in taken[before:]:
                news.clear()
                await news.wait()
            waited.append(taken.index(f"mark {number}") - before)
        assert max(waited) <= 20 * FRAME_BATCH
        assert total - 1 not in taken, "the storm was over before the marks came"
        await blowing
        for reader in readers:
            assert await reader.events(total + marks) == taken
            await reader.nothing()
        assert [event for event in taken if isinstance(event, int)] == list(range(total))


# ---- H13: order


async def test_order_holds_between_every_publisher_and_subscriber() -> None:
    """Ten publishers on ten topics and fifty subscribers: each sees each publisher's events in the order in which
    they were published, whichever topics they went to; none lost, none doubled."""
    app = App()
    app.topic("t/{number}", relay=True)
    steps, topics = 100, 10
    async with serve(app) as server:
        publishers = [await server.peer() for _ in range(10)]
        subscribers: list[tuple[Peer, list[int]]] = []
        for number in range(50):
            mine = list(range(topics)) if number % 2 else list(range(number % 7, topics, 2))
            peer = await server.peer()
            for topic in mine:
                await peer.subscribe(f"t/{topic}")
            subscribers.append((peer, mine))

        def topic_of(publisher: int, step: int) -> int:
            return (step * 7 + publisher * 3) % topics

        async def publish(number: int) -> None:
            for step in range(steps):
                await publishers[number].send_text(json.dumps([PUBLISH, f"t/{topic_of(number, step)}", [number, step]]))
                if step % 10 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*map(publish, range(len(publishers))))
        for peer, mine in subscribers:
            expected = {
                number: [step for step in range(steps) if topic_of(number, step) in mine]
                for number in range(len(publishers))
            }
            events = await peer.events(sum(map(len, expected.values())))
            for number in range(len(publishers)):
                assert [step for sender, step in events if sender == number] == expected[number]
            await peer.nothing()
