"""Blocking handlers: they run off the loop and have a way back to it."""

import asyncio
import contextvars
import threading

import pytest

from wampkit import App, CallError, Topic, connect, run_on_loop
from wampkit.threads import Threads

from .wire import serve


async def test_a_def_handler_publishes_from_its_thread() -> None:
    """`run_on_loop` publishes from a worker thread, and returns when that is done."""
    app = App()
    news = app.topic("news")

    @app.rpc("tell")
    def tell(text: str) -> bool:
        run_on_loop(app.publish("news", text))
        return threading.current_thread() is threading.main_thread()

    @news.on_subscribe
    def greet(topic: Topic) -> None:
        run_on_loop(topic.publish("welcome"))

    async with serve(app) as server, connect(server.url) as client, client.subscribe("news") as events:
        assert await events.get(timeout=5) == "welcome"
        assert await client.call("tell", "hello") is False
        assert await events.get(timeout=5) == "hello"


async def test_what_the_coroutine_raises_reaches_the_thread() -> None:
    """An error of the coroutine is raised in the `def` handler that waits for it."""
    app = App()

    @app.rpc("tell")
    def tell() -> str:
        with pytest.raises(ValueError, match="no topic is declared"):
            run_on_loop(app.publish("nowhere", 1))
        return "told"

    async with serve(app) as server, connect(server.url) as client:
        assert await client.call("tell") == "told"


async def test_run_on_loop_refuses_where_there_is_await() -> None:
    """On the loop itself it says what to write, rather than waiting for itself for ever."""
    app = App()

    @app.rpc("tell")
    async def tell() -> None:
        with pytest.raises(RuntimeError, match="use await"):
            run_on_loop(app.publish("nowhere", 1))

    async with serve(app) as server, connect(server.url) as client:
        assert await client.call("tell") is None


async def test_context_variables_are_seen_in_the_thread() -> None:
    """A worker thread sees the context variables of the message."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    threads = Threads(1)
    user.set("ann")
    assert await threads.run(user.get) == "ann"
    threads.close()


async def test_no_more_functions_run_at_once_than_the_limit() -> None:
    """Of four blocking functions in a pool of two, two wait their turn."""
    threads = Threads(2)
    release = threading.Event()
    started = threading.Semaphore(0)

    def block() -> None:
        started.release()
        release.wait(10)

    work = [asyncio.ensure_future(threads.run(block)) for _ in range(4)]
    for _ in range(2):
        assert await asyncio.to_thread(started.acquire, timeout=5)
    assert not started.acquire(blocking=False)
    release.set()
    await asyncio.gather(*work)
    threads.close()


async def test_stop_iteration_does_not_hang_the_caller() -> None:
    """A `def` handler that lets StopIteration out fails its call like any other error."""
    app = App()

    @app.rpc("first")
    def first(items: list[int]) -> int:
        return next(iter(items))

    async with serve(app) as server, connect(server.url) as client:
        assert await client.call("first", [7]) == 7
        with pytest.raises(CallError, match="the procedure failed"):
            await client.call("first", [], timeout=5)
