"""Messages of one connection side by side: no call waits for another, PUBLISHes keep their order."""

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

from wampkit import App, Connection

from ..support.wire import CALL, PATIENCE, PUBLISH, RESULT, eventually, serve

API = "http://example.com/api#"


def make(**options: Any) -> App:
    return App(prefixes={"api": API, "t": "http://example.com/topic/"}, **options)


async def test_a_slow_call_never_holds_up_a_later_one() -> None:
    """Calls of one connection run side by side and are answered in the order in which they end."""
    app = make()
    gate = asyncio.Event()

    @app.rpc("api:wait")
    async def wait() -> str:
        await gate.wait()
        return "slow"

    @app.rpc("api:open")
    async def open_gate() -> str:
        gate.set()
        return "fast"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "api:wait")
        await peer.send(CALL, "2", "api:open")
        assert await peer.next() == [RESULT, "2", "fast"]
        assert await peer.next() == [RESULT, "1", "slow"]


async def test_a_slow_publish_handler_never_holds_up_a_call() -> None:
    """While a PUBLISH handler waits, calls of the same connection are answered."""
    app = make()
    gate = asyncio.Event()

    @app.topic("t:slow")
    async def slow(event: Any) -> Any:
        await gate.wait()
        return event

    @app.rpc("api:open")
    async def open_gate() -> str:
        gate.set()
        return "fast"

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:slow")
        await peer.send(PUBLISH, "t:slow", 1)
        assert await peer.result("api:open") == "fast"
        assert await other.events(1) == [1]


async def test_publishes_of_one_connection_stay_in_order() -> None:
    """Events of one client reach a subscriber in order, even where handlers wait, one behind the other too."""
    app = make()
    app.add_rpc("api:ping", lambda: "pong")
    gates = {number: asyncio.Event() for number in (0, 1, 2, 7)}
    entered: asyncio.Queue[int] = asyncio.Queue()

    @app.topic("t:ordered")
    async def ordered(event: int) -> int:
        if event in gates:
            entered.put_nowait(event)
            await gates[event].wait()
        return event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:ordered")
        for number in range(20):
            await peer.send(PUBLISH, "t:ordered", number)
        assert await peer.result("api:ping") == "pong"
        for number, gate in gates.items():
            assert await asyncio.wait_for(entered.get(), PATIENCE) == number
            gate.set()
        assert await other.events(20) == list(range(20))


async def test_handlers_see_the_context_of_their_connection() -> None:
    """Context variables that a gate or `on_connect` has set are seen by calls and topic handlers, each connection's."""
    gate: ContextVar[str] = ContextVar("gate", default="none")
    hook: ContextVar[str] = ContextVar("hook", default="none")

    class Gate:
        async def connect(self, connection: Connection) -> None:
            gate.set(connection.request.query["user"])

    app = make(middlewares=[Gate()])

    @app.on_connect
    async def connected(connection: Connection) -> None:
        hook.set(connection.request.query["user"])

    @app.rpc("api:context")
    async def context() -> list[str]:
        return [gate.get(), hook.get()]

    @app.topic("t:context")
    async def told(event: int) -> list[str]:
        return [gate.get(), hook.get()]

    async with serve(app) as server:
        ann, bob = [await server.peer(params={"user": user}) for user in ("ann", "bob")]
        assert await ann.result("api:context") == ["ann", "ann"]
        assert await bob.result("api:context") == ["bob", "bob"]
        await bob.subscribe("t:context")
        await ann.send(PUBLISH, "t:context", 1)
        assert await bob.events(1) == [["ann", "ann"]]


async def test_blocking_handlers_run_in_threads_and_stall_nobody() -> None:
    """A `def` handler that blocks holds up neither its own connection's calls nor others'."""
    app = make()
    gate = threading.Event()
    names: list[str] = []

    @app.rpc("api:block")
    def block() -> str:
        names.append(threading.current_thread().name)
        assert gate.wait(10)
        return "unblocked"

    @app.rpc("api:open")
    async def open_gate() -> None:
        gate.set()

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await peer.send(CALL, "1", "api:block")
        await eventually(lambda: names)
        await other.result("api:open")
        assert await peer.answer("1") == [RESULT, "1", "unblocked"]
    assert names[0] != threading.main_thread().name


async def test_threads_see_the_connections_context() -> None:
    """Context variables that an outer middleware sets reach a `def` handler."""
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def setter(message: Any, call_next: Any) -> Any:
        variable.set(message.connection.id)
        return await call_next(message)

    app = make(middlewares=[setter])

    @app.rpc("api:read")
    def read() -> str:
        return variable.get()

    async with serve(app) as server:
        peers = [await server.peer() for _ in range(3)]
        results = await asyncio.gather(*[peer.result("api:read") for peer in peers])
        assert results == [peer.id for peer in peers]


async def test_a_plain_function_that_wraps_an_async_one_is_awaited() -> None:
    """A `def` that returns a coroutine, as decorators make them, is awaited on the loop."""
    app = make()

    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    @app.rpc("api:wrapped")
    def wrapped() -> Any:
        return inner()

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("api:wrapped") == "inner"
