"""Handlers that start at once are tasks all the same."""

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from wampkit import App, Connection, Topic
from wampkit.concurrency.eager import EagerTasks

from ..support.wire import CALL, EVENT, RESULT, SUBSCRIBE, serve

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="outside")


def begin(eager: EagerTasks, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    return eager.start(work, contextvars.copy_context())


def task_of(eager: EagerTasks, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = begin(eager, work)
    assert task is not None, "it did not wait"
    return task


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

    eager = EagerTasks()
    assert begin(eager, quick()) is None
    task = task_of(eager, slow())
    assert log == ["quick", "slow begins"]
    gate.set()
    await task
    assert log[-1] == "slow ends"


async def test_the_current_task_is_its_own() -> None:
    """Inside, `current_task` is one task before and after waiting, and a known one; outside it is what it was."""
    seen: list[Any] = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    task = task_of(EagerTasks(), look())
    assert asyncio.current_task() is outer
    assert task in asyncio.all_tasks()
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

    eager = EagerTasks()
    loop.call_soon(lambda: begin(eager, work()))
    assert await asyncio.wait_for(done, 5) is True


async def test_one_may_start_another() -> None:
    """Work that starts other work in its first step keeps its own task, and so does the other."""
    eager = EagerTasks()
    seen: dict[str, Any] = {}

    async def inner() -> None:
        seen["inner"] = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is seen["inner"]

    async def outer() -> None:
        seen["outer"] = asyncio.current_task()
        seen["began"] = begin(eager, inner())
        assert asyncio.current_task() is seen["outer"]
        await asyncio.sleep(0)
        assert asyncio.current_task() is seen["outer"]

    await task_of(eager, outer())
    await seen["began"]
    assert seen["inner"] is seen["began"] is not seen["outer"]


async def test_context_variables_stay_inside() -> None:
    """It sees the caller's context and keeps what it changes to itself."""
    seen: list[str] = []

    async def change() -> None:
        seen.append(name.get())
        name.set("inside")
        await asyncio.sleep(0)
        seen.append(name.get())

    token = name.set("caller")
    await task_of(EagerTasks(), change())
    assert seen == ["caller", "inside"]
    assert name.get() == "caller"
    name.reset(token)


async def test_timeouts_and_cancellation_mean_what_they_mean() -> None:
    """A timeout inside ends what it surrounds, whether it began in the first step or later, and cancelling the task
    reaches it where it waits."""
    log: list[str] = []

    async def limited(*, late: bool) -> None:
        if late:
            await asyncio.sleep(0)
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

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    eager = EagerTasks()
    await task_of(eager, limited(late=False))
    await task_of(eager, limited(late=True))
    task = task_of(eager, cancelled())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["timeout", "timeout", "cleaned up"]
    with pytest.raises(asyncio.CancelledError):
        await task_of(eager, cancels_itself())


async def test_a_task_group_works_inside() -> None:
    """A group that is entered in the first step is ended by the failure of one of its tasks."""

    async def fail() -> None:
        raise ValueError("boom")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup):
        await task_of(EagerTasks(), group())


@pytest.mark.parametrize("trace", ["kept", "cancelled", "named", "callback", "weak"])
async def test_what_one_leaves_on_its_task_does_not_meet_the_next(trace: str) -> None:
    """Work that is done at once and kept, cancelled or changed its task leaves no trace on the next one's."""
    eager = EagerTasks()
    keep: list[Any] = []
    ran: list[str] = []

    async def leave() -> None:
        task = asyncio.current_task()
        assert task is not None
        match trace:
            case "kept":
                keep.append(task)
            case "cancelled":
                task.cancel()
            case "named":
                task.set_name("mine")
            case "callback":
                task.add_done_callback(lambda _: ran.append("callback"))
            case "weak":
                keep.append(weakref.ref(task))

    async def follow() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.get_name() != "mine"
        assert all(each is not task and (not isinstance(each, weakref.ref) or each() is not task) for each in keep)
        await asyncio.sleep(0)
        ran.append("followed")

    assert begin(eager, leave()) is None
    await task_of(eager, follow())
    await asyncio.sleep(0)
    assert ran == ["followed"]


async def test_an_error_of_the_first_step_is_the_callers() -> None:
    """What the first step raises rises to who started it; what a later one raises is the task's."""

    async def fail(*, late: bool) -> None:
        if late:
            await asyncio.sleep(0)
        raise ValueError("boom")

    eager = EagerTasks()
    with pytest.raises(ValueError, match="boom"):
        begin(eager, fail(late=False))
    with pytest.raises(ValueError, match="boom"):
        await task_of(eager, fail(late=True))


async def test_the_next_task_is_an_ordinary_one() -> None:
    """Nothing is left behind in the loop: a task that is created afterwards waits for its turn."""
    loop = asyncio.get_running_loop()
    began: list[int] = []

    async def work() -> None:
        began.append(1)

    await task_of(EagerTasks(), asyncio.sleep(0))
    task = loop.create_task(work())
    assert began == []
    await task


def test_a_loop_with_a_spare_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """`asyncio.run` neither waits for a spare task nor warns of it."""

    async def main() -> EagerTasks:
        eager = EagerTasks()
        assert len(asyncio.all_tasks()) == 1
        return eager

    gc.collect()
    caplog.clear()  # what other tests left in this process is not its own
    del [asyncio.run(main())][0]
    gc.collect()
    assert caplog.records == []


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_a_call_sees_the_subscribe_before_it(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of one connection are taken in order on either way in, handlers that start at once or not."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
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
