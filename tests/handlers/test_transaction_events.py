"""Events published within a message leave when its dependencies have ended well."""

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from wampkit import App, Connection, Depends, NotAllowed, Topic, run_on_loop
from wampkit.handlers.transaction import Transaction

from ..support.transaction import NEWS, events_of, listening
from ..support.wire import CALL, EVENT, PUBLISH, RESULT, SUBSCRIBE


class Ways:
    """An app that publishes in each way that there is, inside a message with a generator dependency."""

    def __init__(self, ending: str) -> None:
        self.app = app = App()
        self.ending = ending
        app.topic(NEWS)
        app.on_connect(lambda connection: setattr(connection, "user", "everybody"))
        self.done = asyncio.Event()

        async def unit() -> AsyncIterator[None]:
            yield
            self.done.set()
            if ending == "the dependency fails":
                raise RuntimeError("cannot commit")

        def unit_in_thread() -> Iterator[None]:
            yield
            if ending == "the dependency fails":
                raise RuntimeError("cannot commit")

        async def telling(unit: Annotated[None, Depends(unit)]) -> None:
            await app.publish(NEWS, "from a dependency")

        async def telling_at_its_end(unit: Annotated[None, Depends(unit)]) -> AsyncIterator[None]:
            yield
            await app.publish(NEWS, "from the end of a dependency")

        Unit, InThread = Annotated[None, Depends(unit)], Annotated[None, Depends(unit_in_thread)]

        @app.rpc("app")
        async def by_app(_: Unit) -> None:
            await app.publish(NEWS, "from the app")
            self.end()

        @app.rpc("user")
        async def by_user(_: InThread) -> None:
            await app.to_user("everybody").publish(NEWS, "to a user")
            self.end()

        @app.rpc("thread")
        def by_thread(_: Unit) -> None:
            run_on_loop(app.publish(NEWS, "from a thread"))
            self.end()

        @app.rpc("other thread")
        async def by_other_thread(_: Unit) -> None:
            await asyncio.to_thread(lambda: None)
            await app.publish(NEWS, "after another thread")
            self.end()

        @app.rpc("task")
        async def by_task(_: Unit) -> None:
            await asyncio.create_task(app.publish(NEWS, "from a task"))
            self.end()

        @app.rpc("dependency")
        async def by_dependency(_: Annotated[None, Depends(telling)]) -> None:
            self.end()

        @app.rpc("end of a dependency")
        async def by_end(_: Annotated[None, Depends(telling_at_its_end)]) -> None:
            self.end()

        @app.topic("topic")
        async def by_topic(event: Any, topic: Topic, _: Unit) -> Any:
            await topic.publish("from a topic")
            self.end()
            return "returned"

        hooked = app.topic("hooked")

        @hooked.on_subscribe
        async def by_hook(topic: Topic, _: Unit) -> None:
            await app.publish(NEWS, "from a hook")
            await topic.publish("to the newcomer")
            self.end()

    def end(self) -> None:
        if self.ending == "the handler refuses":
            raise NotAllowed("no")
        if self.ending == "the handler fails":
            raise ValueError("oops")


WAYS = {
    "app": ["from the app"],
    "user": ["to a user"],
    "thread": ["from a thread"],
    "other thread": ["after another thread"],
    "task": ["from a task"],
    "dependency": ["from a dependency"],
    "end of a dependency": ["from the end of a dependency"],
    "topic": ["from a topic", "returned"],
    "hooked": ["from a hook", "to the newcomer"],
}


ENDINGS = ("well", "the dependency fails", "the handler refuses", "the handler fails")


async def test_events_leave_only_if_all_ends_well(caplog: pytest.LogCaptureFixture) -> None:
    """Whichever way a message publishes, its events leave if it ends well, in order, and are dropped otherwise."""
    caplog.set_level(logging.CRITICAL)
    wrong = {}
    for ending in ENDINGS:
        ways = Ways(ending)
        async with listening(ways.app) as (_, caller, listener):
            await listener.subscribe("topic")
            for way, wanted in WAYS.items():
                if way == "topic":
                    await caller.send(PUBLISH, way, 1)
                elif way == "hooked":
                    await listener.send(SUBSCRIBE, way)
                else:
                    answer = await caller.call(way)
                    if (answer[0] == RESULT) != (ending == "well"):
                        wrong[f"{way}, {ending}: answer"] = answer
                await caller.settle()
                await listener.settle()
                received = events_of(listener)
                if received != (wanted if ending == "well" else []):
                    wrong[f"{way}, {ending}"] = received
    assert wrong == {}


async def test_events_wait_for_the_end_of_the_dependencies() -> None:
    """No event leaves before the dependency has ended, nor an answer; `now=True` does not wait."""
    app = App()
    app.topic(NEWS)
    ending, end = asyncio.Event(), asyncio.Event()

    async def unit() -> AsyncIterator[None]:
        yield
        ending.set()
        await end.wait()

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> str:
        for number in range(3):
            await app.publish(NEWS, number)
        await app.publish(NEWS, "at once", now=True)
        await app.to_user("nobody").publish(NEWS, "to nobody", now=True)
        return "done"

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.wait_for(ending.wait(), 5)
        await listener.settle()
        await caller.settle()
        assert events_of(listener) == ["at once"]
        end.set()
        assert await caller.answer("c") == [RESULT, "c", "done"]
        await listener.settle()
        assert events_of(listener) == [0, 1, 2]


async def test_events_wait_for_no_dependency_that_ends_with_the_handler() -> None:
    """Where no dependency is a generator, events leave while the handler still runs."""
    app, go_on = App(), asyncio.Event()
    app.topic(NEWS)

    def made() -> str:
        return "made"

    @app.rpc("tell")
    async def tell(conn: Connection, what: Annotated[str, Depends(made)]) -> None:
        await app.publish(NEWS, what)
        await go_on.wait()

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "tell")
        assert await listener.next() == [EVENT, NEWS, "made"]
        go_on.set()
        assert await caller.next() == [RESULT, "c", None]


async def test_what_cannot_be_published_is_told_where_it_is_published() -> None:
    """An unknown topic and an event that is no JSON fail at the call; an event is what it was then."""
    app = App()
    app.topic(NEWS)

    async def unit() -> AsyncIterator[None]:
        yield

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> list[str]:
        errors = []
        for topic, event in (("unknown", 1), (NEWS, object())):
            try:
                await app.publish(topic, event)
            except (ValueError, TypeError) as error:
                errors.append(type(error).__name__)
        event = {"number": 1}
        await app.publish(NEWS, event)
        event["number"] = 2
        return errors

    async with listening(app) as (_, caller, listener):
        assert await caller.result("f") == ["ValueError", "NotJson"]
        await listener.settle()
        assert events_of(listener) == [{"number": 1}]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_task_that_outlives_its_message_publishes_at_once(fails: bool) -> None:
    """What a handler started and left behind is not held back any more once the message has ended, however."""
    app = App()
    app.topic(NEWS)
    go, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def unit() -> AsyncIterator[None]:
        yield

    async def later() -> None:
        await go.wait()
        await app.publish(NEWS, "later")

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        tasks.add(asyncio.create_task(later()))
        if fails:
            raise NotAllowed("no")

    async with listening(app) as (_, caller, listener):
        await caller.call("f")
        go.set()
        await asyncio.gather(*tasks)
        await listener.settle()
        assert events_of(listener) == ["later"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_transaction_that_has_ended_keeps_no_event(fails: bool) -> None:
    """A task that goes on for hours with its message's transaction costs no memory for what is published in it."""

    class Send:
        async def __call__(self) -> None: ...

    transaction, sends = Transaction(), [Send(), Send()]
    kept = [weakref.ref(each) for each in sends]
    assert transaction.hold(sends[0])
    if fails:
        transaction.roll_back(given_up=False)
    else:
        await transaction.commit()
    assert not transaction.hold(sends[1])
    sends.clear()
    assert [each() for each in kept] == [None, None]
