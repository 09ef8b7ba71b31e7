"""Handlers that start at once are tasks all the same."""

import asyncio
import contextvars
from typing import Any

import pytest

from wampkit import App, Connection, Topic, eager

from .wire import CALL, EVENT, RESULT, SUBSCRIBE, serve

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="outside")


async def test_what_never_waits_is_done_at_once() -> None:
    """A coroutine that does not wait has run to its end before `start` returns; one that waits has begun."""
    log: list[str] = []
    gate = asyncio.Event()

    async def quick() -> None:
        log.append("quick")

    async def slow() -> None:
        log.append("slow begins")
        await gate.wait()
        log.append("slow ends")

    loop = asyncio.get_running_loop()
    assert eager.start(quick(), loop).done()
    task = eager.start(slow(), loop)
    assert log == ["quick", "slow begins"]
    gate.set()
    await task
    assert log[-1] == "slow ends"


async def test_the_current_task_is_its_own() -> None:
    """Inside, `current_task` is the new task, before and after waiting; outside it is what it was."""
    seen: list[Any] = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    task = eager.start(look(), asyncio.get_running_loop())
    assert asyncio.current_task() is outer
    await task
    assert seen == [task, task]


async def test_it_may_be_started_from_a_callback() -> None:
    """Where no task is current, as in a callback of the loop, it starts just as well."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def work() -> None:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        done.set_result(task is asyncio.current_task() is not None)

    loop.call_soon(lambda: eager.start(work(), loop))
    assert await asyncio.wait_for(done, 5) is True


async def test_context_variables_stay_inside() -> None:
    """It sees the caller's context and keeps what it changes to itself."""
    seen: list[str] = []

    async def change() -> None:
        seen.append(name.get())
        name.set("inside")
        await asyncio.sleep(0)
        seen.append(name.get())

    token = name.set("caller")
    await eager.start(change(), asyncio.get_running_loop())
    assert seen == ["caller", "inside"]
    assert name.get() == "caller"
    name.reset(token)


async def test_timeouts_and_cancellation_mean_what_they_mean() -> None:
    """A timeout inside ends what it surrounds, and cancelling the task reaches it where it waits."""
    log: list[str] = []

    async def limited() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timeout")

    async def cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    loop = asyncio.get_running_loop()
    await eager.start(limited(), loop)
    task = eager.start(cancelled(), loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["timeout", "cleaned up"]


async def test_an_error_stays_in_the_task() -> None:
    """What the first step raises is the task's exception, and the caller goes on."""

    async def fail() -> None:
        raise ValueError("boom")

    task = eager.start(fail(), asyncio.get_running_loop())
    assert task.done()
    with pytest.raises(ValueError, match="boom"):
        await task


async def test_the_next_task_is_an_ordinary_one() -> None:
    """Nothing is left behind in the loop: a task that is created afterwards waits for its turn."""
    loop = asyncio.get_running_loop()
    began: list[int] = []

    async def work() -> None:
        began.append(1)

    await eager.start(asyncio.sleep(0), loop)
    task = loop.create_task(work())
    assert began == []
    await task


@pytest.mark.parametrize("road", ["direct", "public"])
async def test_a_call_sees_the_subscribe_before_it(road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of one connection are taken in order on either way in, handlers that start at once or not."""
    monkeypatch.setenv("WAMPKIT_INLET", road)
    app = App()
    topic = app.topic("t")

    @topic.on_subscribe
    async def hook(topic: Topic) -> None:
        await topic.publish("hello")

    @app.rpc("count")
    async def count(conn: Connection) -> int:
        await app.publish("t", "before the result")
        return len(conn.topics)

    async with serve(app) as server:
        peer = await server.peer()
        for number in range(200):
            await peer.send(SUBSCRIBE, "t")
            await peer.send(CALL, str(number), "count")
            await peer.send(6, "t")
        got = [await peer.next() for _ in range(600)]
    expected = [[[EVENT, "t", "hello"], [EVENT, "t", "before the result"], [RESULT, str(n), 1]] for n in range(200)]
    assert got == [message for three in expected for message in three]
