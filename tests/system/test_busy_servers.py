"""Healthy clients of a busy server stay connected, and their pings are answered."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ..support.stalled import make
from ..support.wire import CALL, PUBLISH, RESULT, SUBSCRIBE, eventually, serve


@pytest.mark.parametrize("where", ["publish", "on_subscribe"])
async def test_a_client_that_waits_for_a_busy_server_stays(reader: str, where: str) -> None:
    """A client whose messages wait behind a handler, a megabyte and more, for many pings, is not cut; then they run."""
    interval = 0.2
    app, ends = make(keepalive=interval)
    gate = asyncio.Event()
    ran: list[int] = []

    @app.topic("slow")
    async def slow(event: list[Any]) -> None:
        await gate.wait()
        ran.append(event[0])

    @app.topic("guarded").on_subscribe
    async def decide() -> None:
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        if where == "on_subscribe":
            await peer.send(SUBSCRIBE, "guarded")
        for number in range(25):
            await peer.send(PUBLISH, "slow", [number, "x" * 60_000])
        seen = peer.pings
        await eventually(lambda: peer.pings >= seen + 3 or ends.seen)
        assert ends.seen == {}
        assert ran == []
        gate.set()
        await peer.settle()
        assert ran == list(range(25))


@pytest.mark.parametrize("busy", ["call", "thread", "publish", "on_subscribe"])
async def test_pings_are_answered_whatever_handlers_do(reader: str, busy: str) -> None:
    """A client's pings are answered, each with its payload and in order, while what it asked for takes its time."""
    app, _ = make()
    gate, began, release = asyncio.Event(), asyncio.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        await gate.wait()

    @app.rpc("thread")
    def block() -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(10)

    app.add_rpc("call", wait)
    app.topic("publish")(wait)
    app.topic("on_subscribe").on_subscribe(wait)
    loop = asyncio.get_running_loop()
    async with serve(app) as server:
        peer = await server.peer()
        try:
            match busy:
                case "publish":
                    await peer.send(PUBLISH, busy, None)
                case "on_subscribe":
                    await peer.send(SUBSCRIBE, busy)
                case _:
                    await peer.send(CALL, "1", busy)
            await began.wait()
            for number in range(20):
                await peer.socket.ping(b"%d" % number)
                await eventually(lambda: len(peer.pongs) == number + 1)  # noqa: B023  # it is awaited here
            assert peer.pongs == [b"%d" % number for number in range(20)]
        finally:
            gate.set()
            release.set()
        if busy in ("call", "thread"):
            assert await peer.answer("1") == [RESULT, "1", None]
        await peer.settle()
