"""Both ways in: frames reach their connection alike, and a flood is taken in turns."""

import asyncio
from typing import Any

import pytest

from wampkit import App, Limits
from wampkit.inlet import BATCH, direct_road

from .demo_app import make_app
from .wire import CALL, PUBLISH, SUBSCRIBE, eventually, message, serve

FLOODING = 1000
FLOOD = message(CALL, "f", "note", "flood") * FLOODING
"""Calls that come to the server in one chunk."""


@pytest.fixture(params=["direct", "public"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways in."""
    monkeypatch.setenv("WAMPKIT_INLET", request.param)
    return str(request.param)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct road is taken on the aiohttp that it was written for, unless the public one is asked for."""
    monkeypatch.delenv("WAMPKIT_INLET", raising=False)
    assert direct_road()
    monkeypatch.setenv("WAMPKIT_INLET", "public")
    assert not direct_road()


def test_another_aiohttp_takes_the_public_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aiohttp whose private names are not known is used through its public ones."""
    monkeypatch.delenv("WAMPKIT_INLET", raising=False)
    for version in ("3.14.4", "3.15.0", "4.0.0a2"):
        monkeypatch.setattr("aiohttp.__version__", version)
        assert not direct_road(), version
    monkeypatch.setattr("aiohttp.__version__", "3.14.9")
    assert direct_road()


async def test_what_comes_before_the_welcome_is_kept(road: str) -> None:
    """Messages that arrive while on_connect runs are taken after it, in order, and none is lost."""
    app = make_app()
    gate = asyncio.Event()
    app.on_connect(lambda connection: None)

    @app.on_connect
    async def wait(connection: Any) -> None:
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        for number in range(5 * BATCH):
            await peer.send(CALL, str(number), "ping")
        gate.set()
        assert [(await peer.next())[1] for _ in range(5 * BATCH)] == [str(number) for number in range(5 * BATCH)]


async def test_a_flood_in_one_chunk_leaves_turns_to_others(road: str) -> None:
    """Thousands of calls that arrive at once do not keep another client's call waiting until all are done."""
    app = make_app()
    ran: list[str] = []

    @app.rpc("note")
    async def note(who: str) -> None:
        ran.append(who)

    async with serve(app) as server:
        flood, other = await server.raw(), await server.raw()
        flood.send_now(FLOOD)
        other.send_now(message(CALL, "1", "note", "other"))
        assert await other.read_message() == [3, "1", None]
        assert ran.index("other") < 8 * BATCH
        await eventually(lambda: len(ran) == FLOODING + 1)


async def test_a_flood_that_was_kept_leaves_turns_to_others(road: str) -> None:
    """Thousands of calls that came before the welcome are taken in turns with what others send after it."""
    app = make_app()
    ran: list[str] = []
    entered, gate = asyncio.Event(), asyncio.Event()

    @app.rpc("note")
    async def note(who: str) -> None:
        ran.append(who)

    async with serve(app) as server:
        other = await server.raw()

        @app.on_connect
        async def wait(connection: Any) -> None:
            entered.set()
            await gate.wait()

        opening = asyncio.create_task(server.raw(behind=FLOOD))
        await entered.wait()
        await other.send_message(CALL, "0", "ping")
        assert await other.read_message() == [3, "0", "pong"]
        other.send_now(message(CALL, "1", "note", "other"))
        gate.set()
        assert await other.read_message() == [3, "1", None]
        assert ran.index("other") < 8 * BATCH
        await opening
        await eventually(lambda: len(ran) == FLOODING + 1)


async def test_fragments_and_control_frames_between(road: str) -> None:
    """A message in fragments with a ping between them is put together, and the ping answered first."""
    async with serve(make_app()) as server:
        peer = await server.raw()
        await peer.send_frame(1, b'[2,"c",', final=False)
        await peer.send_frame(9, b"hi")
        await peer.send_frame(0, b'"ping"]')
        assert await peer.read_frame() == (10, b"hi")
        assert await peer.read_message() == [3, "c", "pong"]


async def test_a_client_that_vanishes_while_it_is_held_back_is_noticed(road: str) -> None:
    """A client that resets while the server reads nothing more of it leaves neither call nor connection."""
    app = App(limits=Limits(calls=3))
    running: list[int] = []

    @app.rpc("wait")
    async def wait(number: int) -> None:
        running.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(number)

    async with serve(app) as server:
        peer = await server.raw()
        for number in range(5):
            await peer.send_message(CALL, str(number), "wait", number)
        await eventually(lambda: len(running) == 3)
        peer.reset()
        await eventually(lambda: not running)
        await eventually(lambda: len(app.connections) == 0)


async def test_a_client_that_vanishes_is_noticed(road: str) -> None:
    """A reset connection leaves no topic and no connection behind."""
    app = App()
    app.topic("t", relay=True)
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_message(SUBSCRIBE, "t")
        await peer.send_message(PUBLISH, "t", 1)
        await eventually(lambda: len(app.topics) == 1)
        peer.reset()
        await eventually(lambda: len(app.topics) == len(app.connections) == 0)


async def test_signals_of_the_aiohttp_app_reach_the_handshake(road: str) -> None:
    """Headers that `on_response_prepare` of the surrounding application adds are in the answer, on either road."""
    from aiohttp import web

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"

    site = web.Application()
    site.on_response_prepare.append(sign)
    app = make_app()
    app.setup(site, "/ws")
    async with serve(app, web_app=site) as server:
        peer = await server.raw()
        head = peer.head.decode().lower()
        assert head.startswith("http/1.1 101 ")
        assert "x-signed: yes" in head
        assert "sec-websocket-protocol: wamp" in head
        assert "server: wampkit" in head
