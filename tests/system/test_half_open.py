"""Peers whose path is lost: nothing says that they have gone, and still they are found and freed.

The cable tests stand on two network namespaces (see netns.py), the proxy tests on a proxy that goes on taking what
the server sends and passes nothing on. Of the plan of faults these are:

S07 half-open and idle: `test_an_idle_peer_whose_path_is_lost_is_cut`,
    `test_a_peer_whose_path_is_lost_while_it_is_held_back_is_cut`
S08 half-open under load: `test_a_peer_whose_path_is_lost_under_load_is_cut`,
    `test_without_keepalive_the_queue_finds_a_lost_path`
S09 half-open behind a proxy that acknowledges: `test_a_peer_behind_a_silent_proxy_is_cut`
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from wampkit import App, Connection, Limits

from ..support.loops import on_each_loop
from ..support.netns import Cable, cable
from ..support.proxy import SilentProxy
from ..support.slow import limits
from ..support.wire import CALL, SUBSCRIBE, Peer, RawPeer, Server, eventually, fds, handshake, serve, sockets_of

INTERVAL = 0.4
FOUND = 15.0  # what TCP itself would need is minutes
"""Seconds after which a dead peer must have been found: what the keepalive promises, and one for a busy machine."""

LOAD = "x" * 64 * 1024


def make(keepalive: float | None = INTERVAL, **options: Any) -> tuple[App, list[tuple[int | None, str]]]:
    app = App(keepalive=keepalive, **options)
    ends: list[tuple[int | None, str]] = []
    app.topic("news", relay=True)

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        ends.append((connection.close_code, connection.close_reason))

    return app, ends


class FarPeer:
    """A healthy client at the far end of a cable: it reads all the time and answers pings."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.pings = 0
        self.messages: list[Any] = []
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, wire: Cable) -> FarPeer:
        peer = RawPeer(wire.clients.pop())
        await asyncio.get_running_loop().sock_connect(peer.sock, wire.address)
        await peer.send(handshake())
        assert b" 101 " in await peer.read_head()
        peer.id = (await peer.read_message())[1]
        return cls(peer)

    async def _read(self) -> None:
        # Nothing may come for longer than a test's patience; that is the point.
        with contextlib.suppress(TimeoutError, EOFError, ConnectionError):
            while True:
                opcode, payload = await self.peer.read_frame()
                if opcode == 9:
                    self.pings += 1
                    await self.peer.send_frame(10, payload)
                elif opcode == 1:
                    self.messages.append(payload)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self.peer.close()


@contextlib.asynccontextmanager
async def far(server: Server, wire: Cable, *, pinged: bool = True) -> AsyncIterator[FarPeer]:
    """A client behind a cable, subscribed, that has answered a ping."""
    await web.SockSite(server.runner, wire.listener).start()
    peer = await FarPeer.open(wire)
    try:
        await peer.peer.send_message(SUBSCRIBE, "news")
        await eventually(lambda: len(server.app.topics) == 1)
        if pinged:
            await eventually(lambda: peer.pings)
        yield peer
    finally:
        # Whatever the test made of it, the server shall learn that the client has gone.
        wire.plug()
        await peer.close()


async def freed(server: Server, files: int) -> None:
    """The socket is closed, and nobody holds a connection."""
    await eventually(lambda: fds() <= files, "its descriptor is freed")
    await eventually(lambda: sockets_of(server) == 0, "aiohttp holds no connection")
    assert len(server.app.connections) == 0
    assert server.app.topics == {}


@on_each_loop
async def test_an_idle_peer_whose_path_is_lost_is_cut() -> None:
    """A silent path to an idle client is found by the keepalive in its time, and the descriptor is freed."""
    app, ends = make()
    with cable() as wire:
        async with serve(app) as server, far(server, wire):
            before = fds()
            wire.pull()
            await eventually(lambda: ends, "the lost path is found", timeout=FOUND)
            assert ends[0][0] == 1006
            assert "keepalive" in ends[0][1]
            await freed(server, before - 1)


@on_each_loop
async def test_a_peer_whose_path_is_lost_under_load_is_cut() -> None:
    """A path lost while much is sent on it is found as soon, though the buffers that wait are never sent."""
    app, ends = make(**limits(queue=10**9))
    with cable() as wire:
        async with serve(app) as server, far(server, wire) as peer:
            before = fds()
            async with asyncio.timeout(5):
                while len(peer.messages) < 3:
                    await app.publish("news", LOAD)
                    await asyncio.sleep(0.005)
            wire.pull()
            start = time.monotonic()
            async with asyncio.timeout(FOUND):
                while not ends:
                    await app.publish("news", LOAD)
                    await asyncio.sleep(0.005)
            assert time.monotonic() - start < FOUND
            assert ends[0][0] == 1006
            assert "keepalive" in ends[0][1]
            await freed(server, before - 1)
            await eventually(lambda: wire.in_kernel() == [], "the kernel keeps nothing of it either", timeout=FOUND)


@pytest.mark.parametrize("reader", ["direct", "queued"])
@on_each_loop
async def test_a_peer_whose_path_is_lost_while_it_is_held_back_is_cut(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is not read from, as too many of its calls are under way, is found all the same."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app, ends = make(limits=Limits(calls=3))
    log: list[str] = []

    @app.rpc("wait")
    async def wait() -> None:
        log.append("began")
        await asyncio.Event().wait()

    with cable() as wire:
        async with serve(app) as server, far(server, wire) as peer:
            before = fds()
            for number in range(5):
                await peer.peer.send_message(CALL, str(number), "wait")
            await eventually(lambda: len(log) == 3)
            wire.pull()
            # By the kernel, which takes its time: nobody reads pongs.
            await eventually(lambda: ends, "the lost path is found")
            assert ends[0][0] == 1006
            await freed(server, before - 1)


async def test_without_keepalive_the_queue_finds_a_lost_path() -> None:
    """Where no ping looks for it, a lost path under load is cut when the queue is full, and freed."""
    app, ends = make(keepalive=None, **limits(queue=300_000))
    with cable() as wire:
        async with serve(app) as server, far(server, wire, pinged=False):
            before = fds()
            wire.pull()
            async with asyncio.timeout(10):
                while not ends:
                    await app.publish("news", LOAD)
                    await asyncio.sleep(0)
            assert ends[0][0] == 4008
            await freed(server, before - 1)


@pytest.mark.parametrize("how", ["close", "drain"])
async def test_a_goodbye_into_a_lost_path_has_a_deadline(how: str) -> None:
    """Closing a client that cannot be reached, with much waiting for it, ends in time and frees its descriptor."""
    app, ends = make(keepalive=None, close_timeout=0.1, **limits(queue=10**9))
    with cable() as wire:
        async with serve(app) as server, far(server, wire, pinged=False) as peer:
            connection = server.connection(peer.peer)
            before = fds()
            wire.pull()
            while connection.unsent == 0:
                await app.publish("news", LOAD)
                await asyncio.sleep(0)
            if how == "close":
                connection.close(4000, "go")
            else:
                await asyncio.wait_for(app.drain(0.1), 4)
            await eventually(lambda: ends)
            assert ends[0][0] == (4000 if how == "close" else 1012)
            await freed(server, before - 1)


async def test_a_call_on_a_lost_path_is_cancelled() -> None:
    """What a client called before its path was lost is cancelled when that is found."""
    app, ends = make()
    log: list[str] = []

    @app.rpc("wait")
    async def wait() -> None:
        log.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")

    with cable() as wire:
        async with serve(app) as server, far(server, wire) as peer:
            await peer.peer.send_message(CALL, "1", "wait")
            await eventually(lambda: log == ["began"])
            wire.pull()
            await eventually(lambda: ends, timeout=FOUND)
            assert log == ["began", "cancelled"]


async def test_a_path_lost_for_a_moment_costs_nothing() -> None:
    """A client whose path comes back in time is not cut, and receives all that was published meanwhile, in order."""
    app, ends = make(keepalive=2.0)
    with cable() as wire:
        async with serve(app) as server, far(server, wire, pinged=False) as peer:
            for number in range(50):
                if number == 10:
                    wire.pull()
                if number == 40:
                    await eventually(lambda: sum(wire.in_kernel()) > 0, "something waits for the path")
                    wire.plug()
                await app.publish("news", number)
                await asyncio.sleep(0)
            await eventually(lambda: len(peer.messages) == 50)
            assert peer.messages == [b'[8,"news",%d]' % number for number in range(50)]
            assert ends == []


@pytest.mark.parametrize("chatty", [False, True], ids=["idle", "chatty"])
@on_each_loop
async def test_a_peer_behind_a_silent_proxy_is_cut(chatty: bool) -> None:
    """A proxy that acknowledges all that the server sends, and passes nothing on, does not keep a dead client alive."""
    app, ends = make()
    async with serve(app) as server, SilentProxy(server.port) as proxy:
        peer = await Peer.open(f"ws://127.0.0.1:{proxy.port}/ws")
        try:
            await peer.subscribe("news")
            await eventually(lambda: peer.pings)
            assert ends == []
            proxy.silent = True
            async with asyncio.timeout(FOUND):
                while not ends:
                    if chatty:
                        await app.publish("news", "x" * 1000)
                    await asyncio.sleep(0.01)
            assert ends[0][0] == 1006
            assert "keepalive" in ends[0][1]
            assert proxy.swallowed > 0
            await eventually(lambda: sockets_of(server) == 0)
        finally:
            await peer.close()
