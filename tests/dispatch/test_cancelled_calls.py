"""Calls that take too long, and calls whose connection ends: they are cancelled and leave nothing."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from wampkit import ERROR_URIS, App, Connection, Depends

from ..support.wire import CALL, Peer, RawPeer, eventually, serve

API = "http://example.com/api#"


def make(**options: Any) -> App:
    return App(prefixes={"api": API, "t": "http://example.com/topic/"}, **options)


# ---- timeouts


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    """`timeout=` ends a call with the timeout kind, and its cleanup has run."""
    app = make()
    cleaned: list[str] = []

    async def resource() -> AsyncIterator[str]:
        try:
            yield "r"
        finally:
            await asyncio.sleep(0)
            cleaned.append("dependency")

    @app.rpc("api:slow", timeout=0.05)
    async def slow(r: Annotated[str, Depends(resource)]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("handler")

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:slow")
        assert answer[2] == ERROR_URIS["timeout"]
        assert "0.05" in answer[3]
        assert cleaned == ["handler", "dependency"]
        await peer.nothing()


@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_a_handlers_own_timeout_is_no_timeout_of_the_call(timeout: float | None) -> None:
    """A TimeoutError that the handler raises itself is an unexpected error like any other."""
    app = make()

    @app.rpc("api:fail", timeout=timeout)
    async def fail() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:fail"))[2] == ERROR_URIS["generic"]


async def test_a_blocking_handler_times_out_too() -> None:
    """The caller of a `def` handler that takes too long is answered in time."""
    app = make()
    gate = threading.Event()

    @app.rpc("api:block", timeout=0.05)
    def block() -> None:
        gate.wait(10)

    async with serve(app) as server:
        peer = await server.peer()
        try:
            assert (await peer.call("api:block"))[2] == ERROR_URIS["timeout"]
        finally:
            gate.set()


async def test_a_handler_that_ignores_its_timeout_still_answers_once() -> None:
    """A handler that swallows the cancellation of its timeout gets one answer, not two."""
    app = make()

    @app.rpc("api:stubborn", timeout=0.02)
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done anyway"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.call("api:stubborn")
        await peer.nothing()


# ---- the connection goes


async def _leave(peer: Peer | RawPeer, how: str) -> None:
    if isinstance(peer, RawPeer):
        peer.reset() if how == "reset" else peer.close()
    else:
        await peer.close()


@pytest.mark.parametrize("how", ["close", "reset", "vanish"])
async def test_a_call_whose_connection_goes_is_cancelled_and_cleaned_up(how: str) -> None:
    """However a connection ends, its calls are cancelled and their cleanup runs, dependencies included: no failure."""
    app = make()
    log: list[str] = []

    @app.on_error
    async def heard(error: BaseException, connection: Connection | None) -> None:
        log.append(repr(error))

    async def outer() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.01)
            log.append("outer")

    def inner(value: Annotated[int, Depends(outer)]) -> Iterator[int]:
        try:
            yield value
        finally:
            log.append("inner")

    @app.rpc("api:wait")
    async def wait(value: Annotated[int, Depends(inner)]) -> None:
        log.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("handler")

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append("disconnected")

    async with serve(app) as server:
        peer: Peer | RawPeer
        if how == "close":
            peer = await server.peer()
            await peer.send(CALL, "1", "api:wait")
        else:
            peer = await server.raw()
            await peer.send_message(CALL, "1", "api:wait")
        await eventually(lambda: log == ["started"])
        await _leave(peer, how)
        await eventually(lambda: "disconnected" in log)
        assert log == ["started", "handler", "inner", "outer", "disconnected"]


async def test_many_calls_of_a_vanished_peer_leave_no_task() -> None:
    """A thousand calls under way leave no task when their peer vanishes."""
    app = make()
    running = 0

    @app.rpc("api:wait")
    async def wait() -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    async with serve(app) as server:
        before = len(asyncio.all_tasks())
        peer = await server.raw()
        for number in range(1000):
            await peer.send_message(CALL, str(number), "api:wait")
        await eventually(lambda: running == 1000)
        peer.reset()
        await eventually(lambda: running == 0)
        await eventually(lambda: len(app.connections) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_call_may_close_its_own_connection() -> None:
    """A handler that closes its caller's connection ends it with that code, and nothing hangs."""
    app = make()

    @app.rpc("api:kick")
    async def kick(connection: Connection) -> None:
        connection.close(4001, "go away")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "api:kick")
        assert await peer.closed() == (4001, "go away")
