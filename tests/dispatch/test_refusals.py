"""Refused messages: nothing of them runs, what the client and the log are told, and rights lost later."""

import asyncio
import logging
from typing import Annotated, Any

import pytest

from wampkit import App, Connection, Depends, Incoming, Limits, NotAllowed, Publish, Subscribe, requires

from ..support.requirements import NOT_ALLOWED, T, allowed, as_user, do, make, receives
from ..support.tables import rows
from ..support.wire import ERROR, EVENT, PREFIX, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Peer, eventually, serve

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
