"""Who may call, subscribe and publish: rules on routes, routers and the app, for users, roles and functions."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest

from wampkit import (
    App,
    Connection,
    DeclarationError,
    Depends,
    Incoming,
    Limits,
    NotAllowed,
    Publish,
    Requirement,
    Router,
    Subscribe,
    anyone,
    requires,
)

from ..support.tables import rows
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PREFIX,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Peer,
    Server,
    eventually,
    handshake,
    serve,
)

T = "http://example.com/t/"
NOT_ALLOWED = "http://api.wamp.ws/error#not_authorized"


class Claims:
    """Takes user and roles from the query, as a session or a ticket would give them."""

    async def connect(self, connection: Connection) -> None:
        query = connection.request.query
        connection.user = query.get("user")
        connection.roles = frozenset(query.getall("role", []))


def make(**options: Any) -> App:
    return App(prefixes={"t": T}, middlewares=[Claims()], **options)


async def as_user(server: Server, query: str = "") -> Peer:
    return await Peer.open(f"{server.url}?{query}")


async def allowed(peer: Peer, uri: str, *args: Any) -> bool:
    """Whether a call was answered, and not refused."""
    answer = await peer.call(uri, *args)
    assert answer[0] != ERROR or answer[2] == NOT_ALLOWED, answer
    return answer[0] != ERROR


async def receives(peer: Peer, publisher: Peer, topic: str) -> bool:
    """Whether a subscriber receives what somebody publishes."""
    await peer.subscribe(topic)
    await publisher.send(PUBLISH, topic, "event", [])
    await publisher.settle()
    await peer.settle()
    return [EVENT, topic, "event"] in peer.rest()


# ---- the matrix: who x what x where


PEOPLE = {
    "nobody": "",
    "ann": "user=ann",
    "bob": "user=bob",
    "ann the admin": "user=ann&role=admin",
    "bob the editor": "user=bob&role=editor",
    "an admin without a name": "role=admin",
}


def is_ann(message: Incoming) -> bool:
    return message.connection.user == "ann"


async def is_bob(message: Incoming) -> bool:
    await asyncio.sleep(0)
    return message.connection.user == "bob"


RULES: dict[str, tuple[Any, set[str]]] = {
    "login": (requires(), {"ann", "bob", "ann the admin", "bob the editor"}),
    "one role": (requires("admin"), {"ann the admin", "an admin without a name"}),
    "one of two roles": (
        requires("admin", "editor"),
        {"ann the admin", "bob the editor", "an admin without a name"},
    ),
    "one user": (requires(user="ann"), {"ann", "ann the admin"}),
    "some users": (requires(user=["ann", "bob"]), {"ann", "bob", "ann the admin", "bob the editor"}),
    "a function": (requires(is_ann), {"ann", "ann the admin"}),
    "an async function": (requires(is_bob), {"bob", "bob the editor"}),
    "a function and a role": (requires("admin", is_ann), {"ann the admin"}),
    "two rules": ([requires("admin"), requires(user="ann")], {"ann the admin"}),
    "anyone": (anyone, set(PEOPLE)),
}


def by_option(app: App, rule: Any) -> None:
    app.add_rpc("t:do", do, requires=rule)
    app.topic("t:talk", relay=True, requires=rule)


def by_router(app: App, rule: Any) -> None:
    router = Router("t:", requires=rule)
    router.add_rpc("do", do)
    router.topic("talk", relay=True)
    app.include(router)


def by_decorator(app: App, rule: Any) -> None:
    async def handler() -> str:
        return "done"

    async def talk(event: str) -> str:
        return event

    for each in rule if isinstance(rule, list) else [rule]:
        each(handler)
        each(talk)
    app.add_rpc("t:do", handler)
    app.topic("t:talk")(talk)


def by_decorator_above(app: App, rule: Any) -> None:
    @app.rpc("t:do")
    async def handler() -> str:
        return "done"

    @app.topic("t:talk")
    async def talk(event: str) -> str:
        return event

    for each in rule if isinstance(rule, list) else [rule]:
        each(handler)
        each(talk)


async def do() -> str:
    return "done"


@rows("place", [by_option, by_router, by_decorator, by_decorator_above])
@rows("name", RULES)
async def test_who_may_use_what(name: str, place: Callable[[App, Any], None]) -> None:
    """Each rule lets in exactly whom it names, wherever it is written, for calls, subscribing and publishing."""
    rule, welcome = RULES[name]
    app = make()
    place(app, rule)
    app.topic("t:out", relay=True, publish=rule)
    app.topic("t:in", relay=True, subscribe=rule)
    got: dict[str, set[str]] = {"call": set(), "talk": set(), "publish": set(), "subscribe": set()}
    async with serve(app) as server:
        for who, query in PEOPLE.items():
            peer = await as_user(server, query)
            reader = await as_user(server, "user=ann&role=admin")
            if await allowed(peer, T + "do"):
                got["call"].add(who)
            if await receives(peer, peer, T + "talk"):
                got["talk"].add(who)
            if await receives(reader, peer, T + "out"):
                got["publish"].add(who)
            if await receives(peer, reader, T + "in"):
                got["subscribe"].add(who)
            await peer.close()
            await reader.close()
    assert got == dict.fromkeys(got, welcome)


async def test_rules_add_up() -> None:
    """Those of the routers around a route, of the route and of its handler must all hold, however deep."""
    inner = Router("inner#", requires=requires("editor"))

    @inner.rpc("act", requires=requires(user="ann"))
    @requires(lambda message: message.args == [1])
    async def act(number: int) -> int:
        return number

    outer = Router(requires=requires("admin"))
    outer.include(inner)
    app = make()
    app.include(outer, prefix="t:")
    async with serve(app) as server:
        for query, args, welcome in (
            ("user=ann&role=admin&role=editor", [1], True),
            ("user=ann&role=admin&role=editor", [2], False),
            ("user=bob&role=admin&role=editor", [1], False),
            ("user=ann&role=admin", [1], False),
            ("user=ann&role=editor", [1], False),
        ):
            peer = await as_user(server, query)
            assert await allowed(peer, T + "inner#act", *args) is welcome, query
            await peer.close()


async def test_the_apps_rule_is_for_routes_without_one() -> None:
    """`App(requires=...)` guards what has no rule; a rule of the route takes its place, and `anyone` opens it."""
    app = make(requires=requires("admin"))
    app.add_rpc("t:plain", do)
    app.add_rpc("t:login", do, requires=requires())
    app.add_rpc("t:open", do, requires=anyone)
    app.topic("t:plain", relay=True)
    app.topic("t:mixed", relay=True, subscribe=anyone)
    async with serve(app) as server:
        nobody, ann, admin = [await as_user(server, each) for each in ("", "user=ann", "role=admin")]
        who = {"nobody": nobody, "ann": ann, "admin": admin}
        may = {
            uri: {name for name, peer in who.items() if await allowed(peer, T + uri)}
            for uri in ("plain", "login", "open")
        }
        assert may == {"plain": {"admin"}, "login": {"ann"}, "open": {"nobody", "ann", "admin"}}
        assert not await receives(ann, admin, T + "plain")
        assert await receives(admin, admin, T + "plain")
        assert await receives(nobody, admin, T + "mixed")
        assert not await receives(admin, nobody, T + "mixed")
        for peer in who.values():
            await peer.close()


async def test_anyone_does_not_open_a_router() -> None:
    """A route that is open to anyone stays behind the rules of the router around it."""
    router = Router("t:", requires=requires("admin"))
    router.add_rpc("do", do, requires=anyone)
    app = make()
    app.include(router)
    async with serve(app) as server:
        peer = await as_user(server, "user=ann")
        assert not await allowed(peer, T + "do")
        await peer.close()


# ---- what does not run, and what is told


async def test_nothing_of_a_refused_message_runs() -> None:
    """Neither a handler, nor a hook, nor a dependency, nor the conversion of arguments runs; middlewares saw it."""
    ran: list[str] = []
    seen: list[str] = []

    async def dependency() -> str:
        ran.append("dependency")
        return ""

    async def watch(message: Incoming, call_next: Any) -> Any:
        seen.append(type(message).__name__)
        return await call_next(message)

    app = App(prefixes={"t": T}, middlewares=[watch])

    @app.rpc("t:do")
    @requires()
    async def act(number: int, dep: Annotated[str, Depends(dependency)]) -> None:
        ran.append("procedure")

    @app.topic("t:talk", requires=requires())
    async def talk(event: int, dep: Annotated[str, Depends(dependency)]) -> None:
        ran.append("handler")

    @talk.on_subscribe
    async def joined(dep: Annotated[str, Depends(dependency)]) -> None:
        ran.append("on_subscribe")

    async with serve(app) as server:
        peer = await server.peer()
        # Arguments that do not fit would be another error, if they were looked at.
        assert (await peer.call(T + "do", "no number"))[2:] == [NOT_ALLOWED, "this needs a login"]
        await peer.subscribe(T + "talk")
        await peer.send(PUBLISH, T + "talk", "no number")
        await peer.settle()
        assert T + "talk" not in app.topics
    assert ran == []
    assert seen == ["Call", "Subscribe", "Publish"]


@pytest.mark.parametrize(
    ("query", "description"),
    [
        ("", "this needs a login"),
        ("user=bob", "this user may not do this"),
        ("user=ann", "this needs the role 'admin' or 'owner'"),
        ("user=ann&role=owner", "this is not allowed here"),
    ],
)
async def test_a_refused_call_says_why(query: str, description: str) -> None:
    """A CALLERROR of the not-allowed kind names what is missing, and the connection goes on."""
    app = make()

    @app.rpc("t:do")
    @requires(user="ann")
    @requires("owner", "admin")
    @requires(lambda message: False)
    async def act() -> None: ...

    async with serve(app) as server:
        peer = await as_user(server, query)
        first, second = await peer.call(T + "do"), await peer.call(T + "do")
        assert first[2:] == second[2:] == [NOT_ALLOWED, description]
        await peer.close()


@rows("value", [None, 1, "yes", [], ..., False])
async def test_only_true_is_a_yes(value: Any) -> None:
    """A condition that returns anything but True refuses."""
    app = make()
    app.add_rpc("t:do", do, requires=requires(lambda message: value))
    async with serve(app) as server:
        peer = await as_user(server)
        assert not await allowed(peer, T + "do")
        await peer.close()


async def test_a_condition_that_fails_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a condition refuses call, SUBSCRIBE and PUBLISH without telling the client, and is logged."""

    async def broken(message: Incoming) -> bool:
        raise RuntimeError("hunter2")

    app = make()
    ran: list[str] = []
    failures: list[BaseException] = []
    app.on_error(lambda error, connection: failures.append(error))

    @app.rpc("t:do", requires=requires(broken))
    async def act() -> None:
        ran.append("procedure")

    app.topic("t:talk", relay=True, requires=requires(broken))
    async with serve(app) as server:
        peer = await as_user(server, "user=ann")
        answer = await peer.call(T + "do")
        assert answer[0] == ERROR
        assert "hunter2" not in str(answer)
        assert not await receives(peer, peer, T + "talk")
        await peer.close()
    assert ran == []
    assert {type(each) for each in failures} == {RuntimeError}
    assert any(record.exc_info for record in caplog.records)


async def test_a_condition_that_never_answers_lets_nobody_in() -> None:
    """A call ends at its procedure's timeout, a SUBSCRIBE never stands, and other calls of the client go on."""
    app = make()
    ran: list[str] = []

    async def hangs(message: Incoming) -> bool:
        await asyncio.Event().wait()
        return True

    @app.rpc("t:do", timeout=0.05, requires=requires(hangs))
    async def act() -> None:
        ran.append("procedure")

    app.add_rpc("t:free", do)
    topic = app.topic("t:talk", relay=True, subscribe=requires(hangs))

    @topic.on_subscribe
    async def joined() -> None:
        ran.append("on_subscribe")

    async with serve(app) as server:
        peer = await as_user(server, "user=ann")
        await peer.send(SUBSCRIBE, T + "talk")
        answer = await peer.call(T + "do")
        assert answer[:1] + answer[2:3] == [ERROR, "http://api.wamp.ws/error#timeout"]
        assert (await peer.call(T + "free"))[2] == "done"
        assert T + "talk" not in app.topics
        await peer.close()
    assert ran == []


async def test_a_condition_may_refuse_in_its_own_words() -> None:
    """A `WampError` that a condition raises is the answer."""

    def too_late(message: Incoming) -> bool:
        raise NotAllowed("the shop is closed")

    app = make()
    app.add_rpc("t:do", do, requires=requires(too_late))
    async with serve(app) as server:
        peer = await as_user(server)
        assert (await peer.call(T + "do"))[2:] == [NOT_ALLOWED, "the shop is closed"]
        await peer.close()


async def test_refused_topic_messages_are_silent_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """WAMP v1 has no answer to them: the client hears nothing, the log has one line each."""
    app = make()
    app.topic("t:talk", relay=True, requires=requires())
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe(T + "talk")
        await peer.send(PUBLISH, T + "talk", 1)
        await peer.settle()
        await peer.nothing()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in lines if "refused: this needs a login" in line]) == 2


async def test_refused_topic_messages_can_be_explained() -> None:
    """With `explain_refusals` an EVENT on the refused topic, to this client alone, has BabDev's error object."""
    app = make(explain_refusals=True)
    app.topic("t:talk", relay=True, publish=requires())
    app.topic("t:quiet", relay=True, subscribe=requires())
    async with serve(app) as server:
        ann, nobody = await as_user(server, "user=ann"), await as_user(server)
        await ann.subscribe(T + "talk")
        await nobody.send(PREFIX, "x", T)
        await nobody.send(PUBLISH, "x:talk", 1)
        await nobody.send(SUBSCRIBE, "x:quiet")
        await nobody.send(SUBSCRIBE, "x:missing")
        await nobody.send(UNSUBSCRIBE, "x:missing")
        refusals = [await nobody.next() for _ in range(3)]
        assert [each[1] for each in refusals] == [T + "talk", T + "quiet", T + "missing"]
        assert refusals[0][2] == {"error": True, "message": "this needs a login", "code": 403, "uri": T + "talk"}
        assert refusals[2][2] == {"error": True, "message": "no such topic", "code": 404, "uri": T + "missing"}
        await nobody.settle()
        await ann.nothing()
        await nobody.nothing()
        await ann.close()
        await nobody.close()


# ---- names are resolved before they are judged


async def test_a_prefix_is_no_way_round_a_rule() -> None:
    """Whatever a client calls it, the full URI is what is judged: in every spelling a guarded name is refused."""
    app = make()
    app.add_rpc("t:secret", do, requires=requires())
    app.topic("t:secret", relay=True, subscribe=requires())
    app.topic("t:public", relay=True)
    prefixes = {"a": T, "b": T + "sec", "http": T, "urn": T + "secret", "t": T, "wamp": T, "é": T, "x y": T}
    curies = ["a:secret", "b:ret", "http:secret", "urn:", "t:secret", "wamp:secret", "é:secret", "x y:secret"]
    async with serve(app) as server:
        nobody, ann = await as_user(server), await as_user(server, "user=ann")
        for peer in (nobody, ann):
            for prefix, uri in prefixes.items():
                await peer.send(PREFIX, prefix, uri)
        for spelling in [*curies, T + "secret"]:
            assert not await allowed(nobody, spelling), spelling
            assert await allowed(ann, spelling), spelling
            await nobody.subscribe(spelling)
        assert T + "secret" not in app.topics
        await nobody.close()
        await ann.close()


async def test_a_session_id_is_no_credential() -> None:
    """Knowing another's session id gives nothing: it names receivers, and no message acts for another session."""
    app = make()
    seen: list[tuple[str, Any]] = []

    @app.rpc("t:whoami")
    async def whoami(connection: Connection, claimed: str = "") -> list[Any]:
        return [connection.id, connection.user]

    @app.topic("t:talk", publish=requires())
    async def talk(event: Any, connection: Connection) -> Any:
        seen.append((connection.id, connection.user))
        return event

    async with serve(app) as server:
        ann, thief = await as_user(server, "user=ann"), await as_user(server)
        assert await thief.result(T + "whoami", ann.id) == [thief.id, None]
        for rest in ([], [[ann.id]], [[], [ann.id]], [False], [True]):
            await thief.send(PUBLISH, T + "talk", "x", *rest)
        assert (await thief.call("wampkit:subscription", ann.id))[0] != ERROR
        await thief.settle()
        assert seen == []
        impostor = await Peer.open(f"{server.url}?session={ann.id}", headers={"Cookie": f"session={ann.id}"})
        assert await impostor.result(T + "whoami") == [impostor.id, None]
        for peer in (ann, thief, impostor):
            await peer.close()


async def test_a_topic_decides_who_may_name_receivers() -> None:
    """A rule sees `exclude` and `eligible`: a topic can refuse whispering and hiding from its moderators."""

    def to_all(message: Publish) -> bool:
        return not message.exclude and message.eligible is None

    app = make()
    app.topic("t:open", relay=True, publish=requires(to_all))
    async with serve(app) as server:
        one, other = await as_user(server), await as_user(server)
        await one.subscribe(T + "open")
        for event, rest in (("whisper", [[], [one.id]]), ("hide", [[other.id]]), ("fair", [])):
            await other.send(PUBLISH, T + "open", event, *rest)
        assert await one.next() == [EVENT, T + "open", "fair"]
        await one.close()
        await other.close()


@pytest.mark.parametrize(("count", "arrives"), [(9, True), (10, True), (11, False), (5_000, False)])
async def test_a_publish_names_so_many_sessions(count: int, arrives: bool) -> None:
    """Up to `Limits.session_ids` in both lists together pass; one more, and the message is refused and counted."""
    app = make(limits=Limits(session_ids=10))
    app.topic("t:open", relay=True)
    async with serve(app) as server:
        one, other = await as_user(server), await as_user(server)
        await one.subscribe(T + "open")
        half = count // 2
        eligible = [one.id, *map(str, range(half - 1))]
        await other.send(PUBLISH, T + "open", "x", list(map(str, range(count - half))), eligible)
        await other.settle()
        await one.settle()
        assert one.rest() == ([[EVENT, T + "open", "x"]] if arrives else [])
        assert app.counters.over_limit == (0 if arrives else 1)
        await one.close()
        await other.close()


# ---- rights that are lost


async def test_recheck_ends_what_is_not_allowed_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """After a role was taken away, no event arrives once `recheck` has returned; other subscriptions stay.

    The log says what was ended, as it does where a SUBSCRIBE is refused.
    """
    app = make()
    left: list[str] = []
    secret = app.topic("t:secret/{name}", relay=True, subscribe=requires("member"))

    @secret.on_unsubscribe
    async def gone(name: str) -> None:
        left.append(name)

    app.topic("t:open", relay=True)
    async with serve(app) as server:
        peer, talker = await as_user(server, "user=ann&role=member"), await as_user(server)
        for topic in ("secret/a", "secret/b", "open"):
            await peer.subscribe(T + topic)
        connection = server.connection(peer)
        connection.roles = frozenset()
        assert sorted(await app.recheck(connection)) == [T + "secret/a", T + "secret/b"]
        for topic in ("secret/a", "secret/b", "open"):
            await app.publish(T + topic, "after")
        assert await peer.next() == [EVENT, T + "open", "after"]
        assert sorted(left) == ["a", "b"]
        assert connection.topics == (T + "open",)
        for name in "ab":
            assert f"SUBSCRIBE '{T}secret/{name}' refused" in caplog.text
        await peer.close()
        await talker.close()


async def test_a_right_lost_while_a_subscription_is_decided() -> None:
    """A SUBSCRIBE that was allowed, and whose hook still runs when the right is taken away, does not stand."""
    app = make()
    entered, gate = asyncio.Event(), asyncio.Event()
    topic = app.topic("t:secret", relay=True, subscribe=requires("member"))

    @topic.on_subscribe
    async def slow() -> None:
        entered.set()
        await gate.wait()

    async with serve(app) as server:
        peer = await as_user(server, "user=ann&role=member")
        await peer.send(SUBSCRIBE, T + "secret")
        await asyncio.wait_for(entered.wait(), 5)
        connection = server.connection(peer)
        connection.roles = frozenset()
        await app.recheck(connection)
        await app.publish(T + "secret", "kept back")
        gate.set()
        await eventually(lambda: T + "secret" not in app.topics)
        await peer.settle()
        await peer.nothing()
        await peer.close()


async def test_leaving_while_a_condition_decides() -> None:
    """A client that leaves while its SUBSCRIBE is judged leaves nothing behind."""
    app = make()
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow(message: Incoming) -> bool:
        assert isinstance(message, Subscribe)
        entered.set()
        await gate.wait()
        return True

    app.topic("t:secret", relay=True, subscribe=requires(slow))
    async with serve(app) as server:
        peer = await as_user(server, "user=ann")
        await peer.send(SUBSCRIBE, T + "secret")
        await asyncio.wait_for(entered.wait(), 5)
        await peer.close()
        gate.set()
        await eventually(lambda: len(app.connections) == 0)
        assert dict(app.topics) == {}


# ---- a user's connections


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


# ---- declarations that cannot work


@rows(
    ("declare", "message"),
    [
        (lambda: requires(7), "requires takes names of roles and functions of the message, not 7"),
        (lambda: requires(dict), "not <class 'dict'>"),
        (lambda: App().add_rpc("x", do, requires="admin"), "'admin' is no rule; write requires('admin')"),
        (lambda: App().topic("x", subscribe=is_ann), "is no rule"),
        (lambda: App().topic("x", publish=[requires(), 3]), "3 is no rule"),
        (lambda: App(requires="admin"), "App: 'admin' is no rule"),
        (lambda: Router("x", requires="admin"), "the router with prefix 'x': 'admin' is no rule"),
        (lambda: requires()(Holder().method), "give the route requires=requires"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(declare: Callable[[], Any], message: str) -> None:
    """A mistake in a rule is an error where it is written, with what to write instead."""
    with pytest.raises(DeclarationError) as caught:
        declare()
    assert message in str(caught.value)


class Holder:
    async def method(self) -> None: ...


def test_a_rule_tells_itself() -> None:
    """Rules read well in listings."""
    rules: list[Requirement] = [
        requires(),
        requires("b", "a"),
        requires(user="ann"),
        requires(is_ann, "a", user=["ann", "bob"]),
    ]
    assert [str(rule) for rule in rules] == [
        "a login",
        "role 'a' or 'b'",
        "user 'ann'",
        "user 'ann' or 'bob' and role 'a' and is_ann",
    ]
    assert repr(requires()) == "<requires a login>"


async def test_calls_are_what_they_were() -> None:
    """A route without a rule answers as ever beside one that has some."""
    app = make()
    app.add_rpc("t:free", do)
    app.add_rpc("t:do", do, requires=requires())
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "a", T + "free")
        assert (await peer.answer("a"))[2] == "done"
