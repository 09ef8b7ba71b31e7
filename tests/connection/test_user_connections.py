"""The connections of one user: events to them, closing them, and users that change."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from wampkit import App, Connection, requires

from ..support.requirements import Claims, T, as_user, make
from ..support.wire import EVENT, Peer, Server, eventually, handshake, serve


@contextlib.asynccontextmanager
async def crowd() -> AsyncIterator[tuple[App, dict[str, Peer]]]:
    """Ann twice, Bob, and somebody without a name, all subscribed to one topic."""
    app = make()
    app.topic("t:talk", relay=True)
    async with serve(app) as server:
        queries = {"ann": "user=ann", "ann too": "user=ann", "bob": "user=bob", "nobody": ""}
        peers = {name: await as_user(server, query) for name, query in queries.items()}
        for peer in peers.values():
            await peer.subscribe(T + "talk")
        yield app, peers
        for peer in peers.values():
            await peer.close()


async def test_an_event_to_a_user() -> None:
    """`to_user(...).publish` reaches each of the user's subscribed connections, and nobody else."""
    async with crowd() as (app, peers):
        await app.to_user("ann").publish("t:talk", "for ann")
        await app.to_user("carol").publish("t:talk", "for nobody")
        assert await peers["ann"].next() == await peers["ann too"].next() == [EVENT, T + "talk", "for ann"]
        for name in ("bob", "nobody"):
            await peers[name].settle()
            await peers[name].nothing()


async def test_closing_a_user() -> None:
    """`to_user(...).close` closes all of the user's connections with its code and reason, and no other."""
    async with crowd() as (app, peers):
        assert app.to_user("ann").close() == 2
        assert await peers["ann"].closed() == (1008, "the server closed this user's connections")
        assert (await peers["ann too"].closed())[0] == 1008
        await eventually(lambda: len(app.connections) == 2)
        assert app.to_user("bob").close(4000, "bye") == 1
        assert await peers["bob"].closed() == (4000, "bye")
        await peers["nobody"].settle()


async def test_who_a_connection_belongs_to_can_change() -> None:
    """`connections(user=...)` follows `connection.user`, and forgets who has gone."""
    async with crowd() as (app, peers):
        (bob,) = app.connections(user="bob")
        assert len(app.to_user("ann")) == 2
        bob.user = "ann"
        assert (len(app.connections(user="ann")), app.connections(user="bob")) == (3, [])
        bob.user = None
        assert len(app.connections(user="ann")) == 2
        await peers["ann"].close()
        await eventually(lambda: len(app.connections(user="ann")) == 1)
        with pytest.raises(TypeError, match="unhashable"):
            bob.user = ["no", "user"]
        with pytest.raises(TypeError, match="either user= or session_id="):
            app.connections()


async def test_closing_a_user_who_is_at_the_door() -> None:
    """A client whose user is known and whose handshake is not over yet is refused with 403."""
    entered, gate = asyncio.Event(), asyncio.Event()

    class Slow:
        async def connect(self, connection: Connection) -> None:
            entered.set()
            await gate.wait()

    app = App(middlewares=[Claims(), Slow()])
    async with serve(app) as server:
        arriving = asyncio.create_task(server.ask(handshake("/ws?user=ann")))
        await asyncio.wait_for(entered.wait(), 5)
        assert app.to_user("bob").close() == 0
        assert app.to_user("ann").close() == 1
        gate.set()
        assert b" 403 " in (await arriving).splitlines()[0]


async def test_users_who_are_interleaved_do_not_mix() -> None:
    """Two hundred users at once: each call sees its own user, and each event reaches its own."""
    app = make()
    app.topic("t:inbox/{name}", relay=True, subscribe=requires(lambda m: m.variables["name"] == m.connection.user))

    @app.rpc("t:whoami")
    async def whoami(connection: Connection) -> str:
        await asyncio.sleep(0)
        await app.to_user(connection.user).publish(f"t:inbox/{connection.user}", connection.user)
        return str(connection.user)

    async def check(server: Server, name: str) -> bool:
        peer = await as_user(server, f"user={name}")
        await peer.subscribe(f"{T}inbox/{name}")
        answers = [await peer.result(T + "whoami") for _ in range(3)]
        events = await peer.events(3)
        await peer.close()
        return answers == events == [name] * 3

    async with serve(app) as server:
        assert all(await asyncio.gather(*[check(server, f"user{number}") for number in range(200)]))
