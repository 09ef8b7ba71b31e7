"""A right that ends while a SUBSCRIBE is decided: each stage of the SUBSCRIBE against each way of losing a right."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web

from wampkit import (
    App,
    Connection,
    Cra,
    Credentials,
    Incoming,
    MemoryBroker,
    NotAllowed,
    Publication,
    Sessions,
    Subscribe,
    requires,
)

from ..support.logins import log_in
from ..support.wire import EVENT, SUBSCRIBE, Peer, Server, eventually, serve

INBOX = "inbox/ann"


class Gate:
    """Where a SUBSCRIBE waits at one of its stages."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def at(self, stage: str) -> None:
        if stage == self._stage:
            self.reached.set()
            await self.opened.wait()


class WaitingBroker(MemoryBroker):
    """A broker that takes its time."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    async def subscribe(self, topic: str) -> None:
        await self._gate.at("broker")


class ServerSide(aiohttp_session.AbstractStorage):
    """Sessions that the server keeps, in a dict."""

    def __init__(self) -> None:
        super().__init__(cookie_name="sid", max_age=3600)
        self.kept: dict[str, dict[str, Any]] = {}

    async def load_session(self, request: web.Request) -> aiohttp_session.Session:
        id = self.load_cookie(request)
        data = self.kept.get(id or "")
        if data is None:
            return aiohttp_session.Session(None, data=None, new=True, max_age=self.max_age)
        return aiohttp_session.Session(
            id, data={"created": data["created"], "session": data}, new=False, max_age=self.max_age
        )

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: aiohttp_session.Session
    ) -> None:
        raise NotImplementedError


class Claims:
    """Says who the client is, by its query."""

    async def connect(self, connection: Connection) -> None:
        if "user" in connection.request.query:
            connection.user = connection.request.query["user"]
            connection.roles = {"member"}


class World:
    """An app whose one topic is for ann alone, as a member, while she is on the list."""

    def __init__(self, stage: str) -> None:
        self.gate = Gate(stage)
        self.listed = {"ann"}
        self.storage = ServerSide()
        self.storage.kept["s1"] = {"created": time.time(), "user": "ann", "roles": ["member"]}

        async def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
            return Credentials("s3cr3t", roles=["member"])

        async def middleware(message: Incoming, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            if not isinstance(message, Subscribe):
                return await call_next(message)
            await self.gate.at("middleware, before")
            await call_next(message)
            await self.gate.at("middleware, after")

        async def is_listed(message: Incoming) -> bool:
            return message.connection.user in self.listed

        async def slow(message: Incoming) -> bool:
            await self.gate.at("rules")
            return True

        self.app = App(
            cra=Cra(lookup),
            broker=WaitingBroker(self.gate),
            middlewares=[Claims(), Sessions(self.storage, roles="roles", check_every=0.2), middleware],
        )
        inbox = self.app.topic(
            "inbox/{name}", subscribe=requires("member", lambda m: m.connection.user == "ann", is_listed, slow)
        )

        @inbox.on_subscribe
        async def enter(name: str) -> None:
            await self.gate.at("on_subscribe")

    async def client(self, server: Server, *, session: bool) -> Peer:
        return await (server.peer(headers={"Cookie": "sid=s1"}) if session else Peer.open(f"{server.url}?user=ann"))


async def rechecked(world: World, connection: Connection, peer: Peer) -> None:
    world.listed.discard("ann")
    await world.app.recheck(connection)


async def another_user(world: World, connection: Connection, peer: Peer) -> None:
    connection.user = "bob"


async def no_user(world: World, connection: Connection, peer: Peer) -> None:
    connection.user = None


async def other_roles(world: World, connection: Connection, peer: Peer) -> None:
    connection.roles = frozenset({"guest"})


async def login(world: World, connection: Connection, peer: Peer) -> None:
    await log_in(peer, "bob")


async def logout(world: World, connection: Connection, peer: Peer) -> None:
    world.app.to_user("ann").close(4401, "logged out")


async def sessions_roles(world: World, connection: Connection, peer: Peer) -> None:
    world.storage.kept["s1"]["roles"] = []
    await eventually(lambda: not connection.roles)


async def sessions_end(world: World, connection: Connection, peer: Peer) -> None:
    world.storage.kept["s1"] = {}
    await eventually(lambda: connection.closed)


STAGES = ("middleware, before", "rules", "broker", "on_subscribe", "middleware, after")
CAUSES = (rechecked, another_user, no_user, other_roles, login, logout, sessions_roles, sessions_end)
ALONE = (another_user, no_user, other_roles)
"""What ends a subscription that stands only with a `recheck` behind it."""


async def _events(stage: str, cause: Callable[[World, Connection, Peer], Awaitable[None]]) -> list[Any]:
    """What a client receives, and which topics are left, if it loses its right by `cause` at this stage."""
    world = World(stage)
    async with serve(world.app) as server:
        peer = await world.client(server, session=cause in (sessions_roles, sessions_end))
        connection = server.connection(peer)
        await peer.send(SUBSCRIBE, INBOX)
        await asyncio.wait_for(world.gate.reached.wait(), 5)
        if stage == "middleware, after":
            assert INBOX in connection.subscriptions
        await cause(world, connection, peer)
        if stage == "middleware, after" and cause in ALONE:
            await world.app.recheck(connection)
        await world.app.publish(INBOX, "kept for a newcomer")
        world.gate.opened.set()
        if connection.closed:
            await eventually(lambda: not world.app.connections and not world.app.topics)
        else:
            await connection.tasks.wait_for_queued()
            await world.app.publish(INBOX, "for ann only")
            await peer.settle()
        received: list[Any] = [message for message in peer.rest() if message[0] == EVENT]
        received += world.app.topics
        await peer.close()
        return received


async def test_a_right_that_ends_while_a_subscription_is_decided_ends_that_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At whatever stage a SUBSCRIBE is and however its right ends, it does not stand, and no event leaves for it."""
    caplog.set_level(logging.CRITICAL)
    wrong: dict[str, Any] = {}
    for stage in STAGES:
        for cause in CAUSES:
            try:
                received: Any = await _events(stage, cause)
            except Exception as error:
                received = repr(error)
            if received != []:
                wrong[f"{stage} / {cause.__name__}"] = received
    assert wrong == {}


@contextlib.asynccontextmanager
async def _subscribing(stage: str) -> AsyncIterator[tuple[World, Server, Peer, Connection]]:
    world = World(stage)
    async with serve(world.app) as server:
        peer = await world.client(server, session=False)
        await peer.send(SUBSCRIBE, INBOX)
        await asyncio.wait_for(world.gate.reached.wait(), 5)
        yield world, server, peer, server.connection(peer)
        await peer.close()


@pytest.mark.parametrize("stage", STAGES[:4])
async def test_a_right_that_comes_back_in_time_lets_the_subscription_stand(stage: str) -> None:
    """What counts is what holds when it is accepted; the events that were kept meanwhile are delivered."""
    async with _subscribing(stage) as (world, _, peer, connection):
        connection.roles = frozenset()
        connection.roles = frozenset({"member"})
        await world.app.recheck(connection)
        kept = stage in ("broker", "on_subscribe")
        await world.app.publish(INBOX, "meanwhile")
        world.gate.opened.set()
        await connection.tasks.wait_for_queued()
        await world.app.publish(INBOX, "after")
        assert [await peer.next() for _ in range(2 if kept else 1)][-1] == [EVENT, INBOX, "after"]


async def test_hooks_of_a_subscription_that_lost_its_right_are_paired() -> None:
    """Where `on_subscribe` has run, `on_unsubscribe` runs too, so that what an app counts stays right."""
    present: list[str] = []
    entered, go = asyncio.Event(), asyncio.Event()
    app = App(middlewares=[Claims()])
    room = app.topic("room", subscribe=requires("member"))

    @room.on_subscribe
    async def enter(connection: Connection) -> None:
        present.append(connection.id)
        entered.set()
        await go.wait()

    @room.on_unsubscribe
    async def leave(connection: Connection) -> None:
        present.remove(connection.id)

    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        await peer.send(SUBSCRIBE, "room")
        await asyncio.wait_for(entered.wait(), 5)
        server.connection(peer).roles = frozenset()
        go.set()
        await eventually(lambda: present == [])
        await peer.close()


async def test_what_a_middleware_refuses_late_does_not_stand() -> None:
    """A message middleware that raises behind `call_next` undoes the subscription it refuses, not one that stood."""
    refuses = True

    async def too_late(message: Incoming, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        await call_next(message)
        if isinstance(message, Subscribe) and refuses:
            raise NotAllowed("not after all")

    app = App(middlewares=[Claims(), too_late])
    app.topic("room")
    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        await peer.subscribe("room")
        await peer.settle()
        assert server.connection(peer).topics == ()
        assert dict(app.topics) == {}
        refuses = False
        await peer.subscribe("room")
        await peer.settle()
        refuses = True
        await peer.subscribe("room")
        await peer.settle()
        assert server.connection(peer).topics == ("room",)
        await peer.close()


async def test_rights_that_never_come_to_rest_are_none() -> None:
    """A condition that gives other roles each time it is asked lets nobody in, and ends."""
    app = App(middlewares=[Claims()])
    count = iter(range(1000))

    def restless(message: Incoming) -> bool:
        message.connection.roles = {str(next(count))}
        return True

    def once(message: Incoming) -> bool:
        message.connection.roles = {"loaded"}
        return True

    @app.rpc("restless", requires=requires(restless))
    async def first() -> str:
        return "never"

    @app.rpc("once", requires=requires(once))
    async def second() -> str:
        return "ok"

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("restless"))[2] == "http://api.wamp.ws/error#not_authorized"
        assert await peer.result("once") == "ok"


async def test_roles_are_names_that_are_not_changed_unnoticed() -> None:
    """`connection.roles` takes any collection of names but a text, and cannot be changed in place."""
    app = App(middlewares=[Claims()])
    async with serve(app) as server:
        connection = server.connection(await server.peer())
        connection.roles = ["a", "b"]
        assert connection.roles == frozenset({"a", "b"})
        with pytest.raises(TypeError, match="names"):
            connection.roles = "admin"
        assert connection.roles == frozenset({"a", "b"})


# ---- leaving


class CountingBroker(MemoryBroker):
    """A broker that is told of unsubscribed topics, and answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.answer = asyncio.Event()
        self.fail = False

    async def unsubscribe(self, topic: str) -> None:
        self.asked.append(topic)
        await self.answer.wait()
        if self.fail:
            raise ConnectionError("the broker is gone")

    async def publish(self, publication: Publication) -> None:
        await super().publish(publication)


def _rooms() -> tuple[App, CountingBroker, list[str]]:
    broker, left = CountingBroker(), list[str]()
    app = App(broker=broker, middlewares=[Claims()])
    room = app.topic("room/{number}", subscribe=requires("member"))

    @room.on_unsubscribe
    async def leave(number: str, connection: Connection) -> None:
        assert connection.topics == ()
        left.append(number)

    return app, broker, left


@pytest.mark.parametrize("how", ["leaves", "recheck"])
async def test_a_slow_broker_is_told_of_many_topics_at_once(how: str) -> None:
    """Whoever loses many topics is off all of them at once; the broker is told side by side, and hooks run in order."""
    app, broker, left = _rooms()
    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        connection = server.connection(peer)
        for number in range(40):
            await peer.send(SUBSCRIBE, f"room/{number}")
        await peer.settle()
        assert len(app.topics) == 40
        task = None
        try:
            if how == "leaves":
                await peer.close()
            else:
                connection.roles = frozenset()
                task = asyncio.create_task(app.recheck(connection))
            await eventually(lambda: len(broker.asked) == 16, "sixteen round trips at a time")
            assert dict(app.topics) == {}
            await eventually(lambda: left == [str(number) for number in range(40)], "hooks do not wait for the broker")
        finally:
            broker.answer.set()
        await eventually(lambda: len(broker.asked) == 40)
        if task is not None:
            assert await task == [f"room/{number}" for number in range(40)]
            await peer.close()


async def test_a_broker_that_fails_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A goodbye that fails is reported; the connection leaves all its topics all the same."""
    app, broker, left = _rooms()
    broker.fail = True
    broker.answer.set()
    seen: list[BaseException] = []
    app.on_error(lambda error, connection: seen.append(error))
    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        for number in range(20):
            await peer.send(SUBSCRIBE, f"room/{number}")
        await peer.settle()
        await peer.close()
        await eventually(lambda: len(seen) == 20)
        assert all(isinstance(error, ConnectionError) for error in seen)
        assert len(left) == 20
    assert "the broker is gone" in caplog.text


# ---- who has ended belongs to nobody


async def test_a_connection_that_has_ended_belongs_to_nobody() -> None:
    """Setting the user of a connection after its end enters it nowhere: nobody is given it, and it can be freed."""
    app = App(middlewares=[Claims()])
    ended: list[Connection] = []
    app.on_disconnect(ended.append)
    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        await peer.close()
        await eventually(lambda: ended and len(app.connections) == 0)
        connection = ended[0]
        for user in ("bob", "ann", None, "carol"):
            connection.user = user
            assert app.connections(user=user or "ann") == []
            assert len(app.to_user(user or "ann")) == 0
        assert connection.user == "carol"


async def test_a_hook_that_hangs_does_not_stop_the_watch_over_sessions() -> None:
    """While what a session lost is being ended for one connection, other sessions are looked at as before."""
    storage = ServerSide()
    for id in ("s1", "s2"):
        storage.kept[id] = {"created": time.time(), "user": id, "roles": ["member"]}
    app = App(middlewares=[Sessions(storage, roles="roles", check_every=0.2)])
    room = app.topic("room", subscribe=requires("member"))
    hanging = asyncio.Event()

    @room.on_unsubscribe
    async def hang() -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with serve(app) as server:
        first, second = [await server.peer(headers={"Cookie": f"sid={id}"}) for id in ("s1", "s2")]
        await first.subscribe("room")
        await first.settle()
        storage.kept["s1"]["roles"] = []
        await asyncio.wait_for(hanging.wait(), 5)
        storage.kept["s2"] = {}
        assert (await second.closed())[0] == 4401
        await first.close()


async def test_a_rule_that_reads_the_session_is_asked_again_when_that_changes() -> None:
    """A session that changes on the server ends the subscriptions whose rules it does not satisfy any more."""
    storage = ServerSide()
    storage.kept["s1"] = {"created": time.time(), "user": "ann", "plan": "gold"}

    def paid(message: Incoming) -> bool:
        session = message.connection.session
        return session is not None and session.get("plan") == "gold"

    app = App(middlewares=[Sessions(storage, check_every=0.2)])
    app.topic("lounge", subscribe=requires(paid))
    async with serve(app) as server:
        peer = await server.peer(headers={"Cookie": "sid=s1"})
        await peer.subscribe("lounge")
        await peer.settle()
        assert server.connection(peer).topics == ("lounge",)
        storage.kept["s1"]["plan"] = "none"
        await eventually(lambda: server.connection(peer).topics == ())
        await peer.close()
