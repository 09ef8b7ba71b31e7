"""Blocking handlers: they run off the loop and have a way back to it."""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from wampkit import (
    App,
    Busy,
    CallError,
    Connection,
    Cra,
    Credentials,
    Depends,
    KeyRing,
    Limits,
    Permissions,
    Sessions,
    Tickets,
    Topic,
    WampError,
    anyone,
    connect,
    requires,
    run_on_loop,
)
from wampkit.concurrency.threads import Threads

from ..support.logins import AUTHREQ
from ..support.wire import CALL, ERROR, RESULT, Peer, eventually, serve

BUSY = "http://api.wamp.ws/error#busy"


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


# ---- shares


class Gate:
    """Procedures of which one blocks until the test lets it go on, and one does not."""

    def __init__(self, app: App) -> None:
        self.released = threading.Event()
        self.app = app
        app.add_rpc("block", self.block, requires=anyone)
        app.add_rpc("quick", self.quick, requires=anyone)

    def block(self) -> str:
        assert self.released.wait(30)
        return "done"

    def quick(self) -> str:
        return "quick"


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """An app of blocking functions only, with logins."""

    def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        return Credentials("secret", salt="salt", iterations=1000, derived=False)

    gate = Gate(App(cra=Cra(lookup, timeout=None)))
    yield gate
    gate.released.set()


async def test_the_waiting_calls_of_one_client_hold_up_nobody_else(gate: Gate) -> None:
    """While 300 blocking calls of one client wait, others call, log in, come and go; when it leaves, they are gone."""
    app = gate.app
    told: list[str] = []

    @app.on_connect
    def came(connection: Connection) -> None:
        told.append("came")

    @app.on_disconnect
    def left(connection: Connection) -> None:
        told.append("left")

    async with serve(app) as server:
        greedy = await server.raw()
        for number in range(300):
            await greedy.send_message(CALL, str(number), "block")
        handlers = app.threads.handlers
        await eventually(lambda: handlers.running + handlers.waiting == 300)
        assert (handlers.running, handlers.waiting, handlers.held) == (8, 292, 0)

        async with connect(server.url, authkey="ann", secret="secret") as other:
            assert await other.call("quick", timeout=5) == "quick"
        await eventually(lambda: told == ["came", "came", "left"], str(told))

        greedy.reset()
        await eventually(lambda: (handlers.running, handlers.waiting, handlers.held) == (8, 0, 8))
        gate.released.set()
        await eventually(lambda: (handlers.running, handlers.held) == (0, 0))


async def test_hooks_and_logins_have_threads_of_their_own(gate: Gate) -> None:
    """Where blocking calls hold every thread, clients still come, log in, subscribe and leave."""
    app = gate.app
    told: list[str] = []
    topic = app.topic("news", subscribe=anyone)

    @topic.on_subscribe
    def subscribed() -> None:
        told.append("subscribed")

    @topic.on_unsubscribe
    def unsubscribed() -> None:
        told.append("unsubscribed")

    @app.on_connect
    def came(connection: Connection) -> None:
        told.append("came")

    @app.on_disconnect
    def left(connection: Connection) -> None:
        told.append("left")

    async with serve(app) as server:
        for _ in range(4):
            peer = await server.peer()
            for number in range(8):
                await peer.send(CALL, str(number), "block")
        await eventually(lambda: app.threads.handlers.running == 32)
        told.clear()
        async with connect(server.url, authkey="ann", secret="secret") as client, client.subscribe("news"):
            pass
        await eventually(lambda: told == ["came", "subscribed", "unsubscribed", "left"], str(told))
        gate.released.set()


async def test_a_full_queue_is_answered_with_an_error_of_its_own() -> None:
    """Beyond `thread_queue` calls are refused as busy, but each connection may have one that waits."""
    app = App(threads=4, limits=Limits(thread_queue=2, threads_per_connection=1))
    gate = Gate(app)
    async with serve(app) as server:
        greedy = await server.peer()
        for number in range(4):
            await greedy.send(CALL, str(number), "block")
        assert await greedy.next() == [ERROR, "3", BUSY, "the server is busy; try again later"]
        assert app.counters.over_limit == 1
        others = [await server.peer() for _ in range(4)]
        for other in others[:3]:
            await other.send(CALL, "x", "block")
        await others[3].send(CALL, "waits", "quick")
        await eventually(lambda: app.threads.handlers.waiting == 3)
        gate.released.set()
        assert await others[3].next() == [RESULT, "waits", "quick"]
        assert [(await greedy.next())[0] for _ in range(3)] == [RESULT] * 3


async def test_what_waits_takes_turns_by_connection() -> None:
    """A thread that becomes free serves the connections in turn, however much one of them has waiting."""
    threads = Threads(1)
    release = threading.Event()
    ran: list[str] = []
    blocking = asyncio.ensure_future(threads.run(release.wait, 10))
    names = ["a", "a", "a", "b", "b", "c"]
    work = [asyncio.ensure_future(threads.run_for(name, ran.append, name)) for name in names]
    await eventually(lambda: threads.waiting == 6)
    release.set()
    await asyncio.gather(blocking, *work)
    assert ran == ["a", "b", "c", "a", "b", "a"]
    assert (threads.running, threads.waiting) == (0, 0)
    threads.close()


async def test_cleanups_come_before_what_waits_and_are_never_refused() -> None:
    """What a cleanup does is done although the queue is full, before further functions of its connection."""
    threads = Threads(1, queue=1)
    release = threading.Event()
    ran: list[str] = []
    blocking = asyncio.ensure_future(threads.run_for("a", release.wait, 10))
    call = asyncio.ensure_future(threads.run_for("a", ran.append, "call"))
    await eventually(lambda: threads.waiting == 1)
    with pytest.raises(Busy):
        await threads.run_for("a", ran.append, "refused")
    cleanup = asyncio.ensure_future(threads.clean_up_for("a", ran.append, "cleanup"))
    await eventually(lambda: threads.waiting == 2)
    release.set()
    await asyncio.gather(blocking, call, cleanup)
    assert ran == ["cleanup", "call"]
    threads.close()


async def test_a_thread_that_a_timeout_cannot_stop_is_counted_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """After its `timeout=` a blocking function holds its thread: the log names it, the gauge counts it."""
    app = App(threads=4)
    release = threading.Event()

    @app.rpc("slow", timeout=0.01)
    def slow() -> None:
        assert release.wait(30)

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("slow"))[2] == "http://api.wamp.ws/error#timeout"
        handlers = app.threads.handlers
        assert (handlers.running, handlers.held) == (1, 1)
        await eventually(lambda: "still running" in caplog.text)
        release.set()
        await eventually(lambda: (handlers.running, handlers.held) == (0, 0))
    line = next(record.getMessage() for record in caplog.records if "still running" in record.getMessage())
    assert f"{__name__}.{slow.__qualname__} still running though its call timed out" in line
    assert line.endswith("1 of 4 threads are held so")


async def test_exhausted_threads_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """When calls wait for long, one line says how many, and which functions have the threads."""
    caplog.set_level(logging.WARNING, "wampkit")
    app = App(threads=2, limits=Limits(threads_per_connection=2))
    gate = Gate(app)
    async with serve(app) as server:
        peer = await server.peer()
        for number in range(50):
            await peer.send(CALL, str(number), "block")
        await eventually(lambda: "wait for a thread" in caplog.text)
        gate.released.set()
        for _ in range(50):
            await peer.next()
    assert [record.getMessage() for record in caplog.records] == [
        f"def handlers: 48 wait for a thread, the longest for 1 s; 2 of 2 threads are taken, "
        f"by {__name__}.Gate.block (2 times)"
    ]


async def test_every_plain_function_runs_in_a_thread() -> None:
    """What an app hands in as `def` runs in a worker thread that can reach the loop, save for conditions."""
    seen: dict[str, bool] = {}

    async def nothing() -> None: ...

    def here(name: str) -> None:
        in_thread = threading.current_thread() is not threading.main_thread()
        if in_thread:
            run_on_loop(nothing())
        seen[name] = in_thread

    def asked(name: str, answer: Any) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            here(name)
            return answer

        return function

    keys = [Fernet.generate_key()]
    storage = EncryptedCookieStorage(KeyRing(*keys), max_age=60)
    sessions = Sessions(
        storage, user=asked("session's user", None), roles=asked("its roles", ["staff"]), id=asked("its id", "1")
    )
    app = App(
        cra=Cra(asked("lookup", Credentials("s3cr3t")), anonymous=asked("anonymous", Permissions())),
        middlewares=[Tickets(*keys, spent=asked("spent", False)), sessions],
    )
    app.on_startup(asked("on_startup", None))
    app.on_connect(asked("on_connect", None))
    app.on_disconnect(asked("on_disconnect", None))
    app.on_error(asked("on_error", None))
    app.error_handler(KeyError)(asked("error_handler", WampError("a:b", "none")))
    app.rpc("handler", requires=[anyone, requires(asked("condition", True))])(asked("handler", None))

    def made() -> Iterator[None]:
        here("dependency")
        try:
            yield
        finally:
            here("end of a dependency")

    @app.rpc("key", requires=anyone)
    def key(_: Annotated[None, Depends(made)]) -> None:
        raise KeyError

    @app.rpc("other", requires=anyone)
    async def other() -> None:
        raise ValueError

    cookie = storage._fernet.encrypt(b'{"created": %d, "session": {"a": 1}}' % time.time()).decode()
    async with serve(app) as server:
        peer = await Peer.open(
            f"{server.url}?ticket={app.tickets.issue('ann')}", headers={"Cookie": f"AIOHTTP_SESSION={cookie}"}
        )
        for name in ("handler", "key", "other"):
            await peer.call(name)
        await peer.close()
        second = await server.peer()
        await second.call(AUTHREQ, "ann")
        third = await server.peer()
        await third.call(AUTHREQ, None)
        await eventually(lambda: "on_disconnect" in seen)
    assert seen.pop("condition") is False
    assert len(seen) == 14, sorted(seen)
    assert [name for name, in_thread in seen.items() if not in_thread] == []


async def test_an_error_handler_that_blocks_stalls_nobody() -> None:
    """While a plain error handler waits, other calls are answered."""
    app = App()
    entered, go = threading.Event(), threading.Event()

    @app.error_handler(KeyError)
    def slow(error: KeyError) -> WampError:
        entered.set()
        return WampError("a:b", "slow" if go.wait(5) else "the loop stood still")

    @app.rpc("fail")
    async def fail() -> None:
        raise KeyError

    @app.rpc("ping")
    async def ping() -> str:
        return "pong"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "c", "fail")
        await asyncio.to_thread(entered.wait, 5)
        assert await peer.result("ping") == "pong"
        go.set()
        assert await peer.answer("c") == [ERROR, "c", "a:b", "slow"]
