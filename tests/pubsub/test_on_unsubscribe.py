"""`on_unsubscribe`: it runs once for each topic, however the subscription ends."""

import asyncio
from typing import Any

import pytest

from wampkit import App, Connection, Topic, WampError

from ..support.tables import rows
from ..support.wire import SUBSCRIBE, UNSUBSCRIBE, eventually, serve

T = "http://example.com/topic/"


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay/{name}", relay=True)
    return app


@rows("how", ["unsubscribe", "close", "reset", "vanish", "malformed", "kick"])
async def test_on_unsubscribe_runs_for_each_topic_however_it_ends(how: str) -> None:
    """Each subscription's hooks run once when it ends: by UNSUBSCRIBE, Close, reset, or the server's own close."""
    app = make()
    topic = app.topic("t:room/{name}", relay=True)
    left: list[str] = []

    @topic.on_unsubscribe
    async def gone(topic: Topic, connection: Connection, name: str) -> None:
        assert connection not in topic
        await asyncio.sleep(0)
        left.append(name)

    async with serve(app) as server:
        peer = await server.raw()
        for name in "abc":
            await peer.send_message(SUBSCRIBE, f"t:room/{name}")
        await eventually(lambda: len(app.topics) == 3)
        connection = server.connection(peer)
        match how:
            case "unsubscribe":
                for name in "abc":
                    await peer.send_message(UNSUBSCRIBE, f"t:room/{name}")
            case "close":
                await peer.send_frame(8, b"\x03\xe8")
            case "reset":
                peer.reset()
            case "vanish":
                peer.close()
            case "malformed":
                await peer.send_frame(1, b"nonsense")
            case "kick":
                connection.close(4000)
        if how in ("malformed", "kick"):
            await peer.read_close()
            peer.close()
        await eventually(lambda: sorted(left) == ["a", "b", "c"])
        assert app.topics == {}
        if how == "unsubscribe":
            peer.close()
            await eventually(lambda: len(app.connections) == 0)
            assert len(left) == 3


@pytest.mark.parametrize("error", [ValueError("x"), WampError("t:x"), SystemExit(), asyncio.CancelledError()], ids=repr)
async def test_a_hook_that_raises_keeps_no_other_topic(error: BaseException) -> None:
    """An on_unsubscribe hook that raises stops neither the other hooks nor the other topics nor on_disconnect."""
    app = make()
    topic = app.topic("t:room/{name}", relay=True)
    left: list[str] = []
    disconnected: list[str] = []

    @topic.on_unsubscribe
    async def fails(name: str) -> None:
        raise error

    @topic.on_unsubscribe
    async def gone(name: str) -> None:
        left.append(name)

    @app.on_disconnect
    async def off(connection: Connection) -> None:
        disconnected.append(connection.id)

    async with serve(app) as server:
        peer = await server.raw()
        for name in "abc":
            await peer.send_message(SUBSCRIBE, f"t:room/{name}")
        await eventually(lambda: len(app.topics) == 3)
        peer.reset()
        await eventually(lambda: disconnected == [peer.id])
        assert sorted(left) == ["a", "b", "c"]
        assert app.topics == {}


async def test_an_on_unsubscribe_hook_that_began_runs_to_its_end() -> None:
    """A hook that runs for an UNSUBSCRIBE is not cut short when the client leaves right behind it."""
    app = make()
    topic = app.topic("t:room", relay=True)
    log: list[str] = []
    entered, gate = asyncio.Event(), asyncio.Event()

    @topic.on_unsubscribe
    async def gone() -> None:
        entered.set()
        await gate.wait()
        log.append("left")

    @app.on_disconnect
    async def off(connection: Connection) -> None:
        log.append("disconnected")

    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_message(SUBSCRIBE, "t:room")
        await peer.send_message(UNSUBSCRIBE, "t:room")
        await entered.wait()
        peer.reset()
        connection = server.connection(peer)
        await asyncio.wait_for(connection.wait_closed(), 5)
        gate.set()
        await eventually(lambda: "disconnected" in log)
        assert log == ["left", "disconnected"]
