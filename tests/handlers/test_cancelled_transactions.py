"""Calls that time out or whose client leaves: dependencies are closed and events dropped."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from wampkit import App, CallNext, Depends, Incoming, WampError, run_on_loop

from ..support.transaction import NEWS, events_of, listening
from ..support.wire import CALL, RESULT, serve


async def test_a_call_that_times_out_publishes_nothing() -> None:
    """A handler whose time is over is rolled back with its events; so is a `def` one, though its thread goes on.

    A middleware around it may publish what became of it.
    """

    async def tell_failures(message: Incoming, call_next: CallNext) -> Any:
        try:
            return await call_next(message)
        except asyncio.CancelledError:
            await app.publish(NEWS, f"{message.uri} failed")
            raise

    app = App(middlewares=[tell_failures])
    app.topic(NEWS)
    saw: list[str] = []
    go, over = threading.Event(), asyncio.Event()

    def unit() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            saw.append(type(error).__name__)
            raise

    @app.rpc("async", timeout=0.05)
    async def on_the_loop(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, "never")
        await asyncio.Event().wait()

    @app.rpc("def", timeout=0.05)
    def in_a_thread(_: Annotated[None, Depends(unit)]) -> None:
        run_on_loop(app.publish(NEWS, "never"))
        go.wait(5)
        try:
            run_on_loop(app.publish(NEWS, "too late"))
        except RuntimeError as error:
            saw.append(str(error))
        run_on_loop(tell())

    async def tell() -> None:
        over.set()

    async with listening(app) as (_, caller, listener):
        for name in ("async", "def"):
            assert (await caller.call(name))[2] == "http://api.wamp.ws/error#timeout"
        go.set()
        await asyncio.wait_for(over.wait(), 5)
        await listener.settle()
        assert events_of(listener) == ["async failed", "def failed"]
        assert saw[:2] == ["CancelledError", "CancelledError"]
        assert saw[2].startswith("this call was given up")


async def test_a_dependency_whose_call_was_given_up_publishes_nothing() -> None:
    """Nor does a `def` dependency that goes on in its thread, also where the handler itself is async."""
    app = App()
    app.topic(NEWS)
    saw: list[str] = []
    go, over = threading.Event(), asyncio.Event()

    async def tell() -> None:
        over.set()

    def unit() -> Iterator[None]:
        yield

    def lookup(_: Annotated[None, Depends(unit)]) -> None:
        go.wait(5)
        try:
            run_on_loop(app.publish(NEWS, "too late"))
        except RuntimeError as error:
            saw.append(str(error))
        run_on_loop(tell())

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(lookup)]) -> None: ...

    async with listening(app) as (_, caller, listener):
        assert (await caller.call("f"))[2] == "http://api.wamp.ws/error#timeout"
        go.set()
        await asyncio.wait_for(over.wait(), 5)
        await listener.settle()
        assert events_of(listener) == []
        assert saw[0].startswith("this call was given up")


async def test_what_dependencies_raise_does_not_hide_that_time_is_over() -> None:
    """A call that takes too long is told so, whatever else fails behind its cancellation or failed before it."""
    app = App()

    async def refuses() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            raise WampError("a:b", "cannot roll back") from None

    async def hangs() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.Event().wait()

    @app.rpc("refuses", timeout=0.05)
    async def slow(_: Annotated[None, Depends(refuses)]) -> None:
        await asyncio.Event().wait()

    @app.rpc("hangs", timeout=0.05)
    async def fail(_: Annotated[None, Depends(hangs)]) -> None:
        raise KeyError("isbn")

    async with serve(app) as server:
        caller = await server.peer()
        for name in ("refuses", "hangs"):
            assert (await caller.call(name))[2] == "http://api.wamp.ws/error#timeout", name


async def test_a_timeout_does_not_cut_a_commit_in_a_thread_off() -> None:
    """A clean-up in a thread cannot be stopped, so all wait for it, and the answer is true."""
    app = App()
    app.topic(NEWS)
    ending, end, order = threading.Event(), threading.Event(), list[str]()

    def outer() -> Iterator[None]:
        yield
        order.append("outer")

    def inner(_: Annotated[None, Depends(outer)]) -> Iterator[None]:
        yield
        ending.set()
        end.wait(5)
        order.append("inner")

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(inner)]) -> str:
        await app.publish(NEWS, "committed")
        return "done"

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.to_thread(ending.wait, 5)
        await asyncio.sleep(0.1)  # longer than the timeout
        assert order == []
        end.set()
        assert await caller.answer("c") == [RESULT, "c", "done"]
        assert order == ["inner", "outer"]
        await listener.settle()
        assert events_of(listener) == ["committed"]


async def test_what_is_opened_for_a_call_that_was_given_up_is_closed() -> None:
    """A `def` generator that still opens when its call is over closes in its thread, as soon as it has opened."""
    app = App()
    opening, go, closed = threading.Event(), threading.Event(), threading.Event()
    saw: list[str] = []

    def slow() -> Iterator[None]:
        opening.set()
        go.wait(5)
        saw.append("opened")
        try:
            yield
        except BaseException as error:
            saw.append(type(error).__name__)
            raise
        finally:
            closed.set()

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(slow)]) -> None: ...

    async with serve(app) as server:
        caller = await server.peer()
        assert (await caller.call("f"))[2] == "http://api.wamp.ws/error#timeout"
        assert saw == []
        go.set()
        assert await asyncio.to_thread(closed.wait, 5)
        assert saw == ["opened", "CancelledError"]


async def test_a_client_that_leaves_takes_its_events_along() -> None:
    """A call whose client has gone is rolled back, and its events are dropped."""
    app = App()
    app.topic(NEWS)
    begun, rolled_back = asyncio.Event(), asyncio.Event()

    async def unit() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            rolled_back.set()
            raise

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, "never")
        begun.set()
        await asyncio.Event().wait()

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.wait_for(begun.wait(), 5)
        await caller.close()
        await asyncio.wait_for(rolled_back.wait(), 5)
        await listener.settle()
        assert events_of(listener) == []
