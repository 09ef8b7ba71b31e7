"""The bound of what waits for a client: when it is cut, and the policy that drops events instead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wampkit import App

from ..support.loops import on_each_loop
from ..support.slow import limits
from ..support.stalled import TOO_SLOW, Ends, T, drop, make, size_of, stalled
from ..support.wire import CALL, ERROR, EVENT, RESULT, eventually, fds, serve

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
