"""Who is subscribed to what, what an event reaches, and what is left when subscribers go."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from wampkit import App, Connection, Limits, NotAllowed, Topic, WampError
from wampkit.connection.tasks import JOBS_A_TURN
from wampkit.protocol.messages import Event, encode
from wampkit.protocol.websocket import text_frame

from ..support.tables import rows
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PATIENCE,
    PREFIX,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    close,
    eventually,
    message,
    serve,
)

T = "http://example.com/topic/"


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay/{name}", relay=True)
    return app


WAITING = 4 * JOBS_A_TURN
"""Topic messages that wait for their turn."""


# ---- subscribing


async def test_an_event_carries_the_full_uri() -> None:
    """A subscriber by CURIE receives events under the full URI, whoever named the topic how."""
    app = make()
    async with serve(app) as server:
        one, other = await server.peer(), await server.peer()
        await one.subscribe("t:relay/a")
        await other.send(PREFIX, "mine", T + "relay/")
        await other.send(PUBLISH, "mine:a", {"x": 1})
        assert await one.next() == [EVENT, T + "relay/a", {"x": 1}]


async def test_a_topic_needs_no_scheme() -> None:
    """Topics named as Gos applications name them, without a scheme, work."""
    app = make()
    app.topic("acme/channel/{room}", relay=True)
    app.topic("OnJsonApiEvent", relay=True)
    async with serve(app) as server:
        one, other = await server.peer(), await server.peer()
        await one.subscribe("acme/channel/lobby")
        await one.subscribe("OnJsonApiEvent")
        await other.send(PUBLISH, "acme/channel/lobby", 1)
        await other.send(PUBLISH, "OnJsonApiEvent", 2)
        assert await one.next() == [EVENT, "acme/channel/lobby", 1]
        assert await one.next() == [EVENT, "OnJsonApiEvent", 2]


async def test_subscribing_twice_is_subscribing_once() -> None:
    """A repeated SUBSCRIBE, in any spelling, changes nothing, runs no hook again, and one UNSUBSCRIBE ends it."""
    app = make()
    joins: list[str] = []
    topic = app.topic("t:once", relay=True)

    @topic.on_subscribe
    async def joined(connection: Connection) -> None:
        joins.append(connection.id)

    async with serve(app) as server:
        one, other = await server.peer(), await server.peer()
        await one.subscribe("t:once")
        await one.subscribe(T + "once")
        await other.send(PUBLISH, "t:once", 1)
        assert await one.events(1) == [1]
        await one.nothing()
        await one.send(UNSUBSCRIBE, "t:once")
        await one.settle()
        await other.send(PUBLISH, "t:once", 2)
        await other.settle()
        await one.nothing()
        assert joins == [one.id]


async def test_a_subscription_stays_with_the_uri_it_meant() -> None:
    """Redefining a prefix moves no subscription that was made with it; nor does one that stands for the whole URI."""
    app = make()
    async with serve(app) as server:
        one, other = await server.peer(), await server.peer()
        await one.send(PREFIX, "p", T + "relay/")
        await one.subscribe("p:a")
        await one.send(PREFIX, "p", T + "elsewhere/")
        await one.send(PREFIX, "q", T + "relay/a")
        await one.settle()
        await other.send(PUBLISH, "t:relay/a", 1)
        assert await one.events(1) == [1]


async def test_unsubscribing_the_empty_uri_drops_nothing() -> None:
    """`[6, ""]` is an ordinary unknown topic."""
    app = make()
    async with serve(app) as server:
        one = await server.peer()
        await one.subscribe("t:relay/a")
        await one.send(UNSUBSCRIBE, "")
        await one.settle()
        await app.publish("t:relay/a", 1)
        assert await one.events(1) == [1]


async def test_the_topic_leaves_with_its_last_subscriber() -> None:
    """A topic is in the register exactly as long as somebody is subscribed to it, however that ends."""
    app = make()
    async with serve(app) as server:
        one, two, three = await server.peer(), await server.peer(), await server.raw()
        await one.subscribe("t:relay/a")
        await two.subscribe("t:relay/a")
        await three.send_message(SUBSCRIBE, "t:relay/a")
        uri = T + "relay/a"
        await eventually(lambda: len(app.topics.get(uri, ())) == 3)
        assert {connection.id for connection in app.topics[uri]} == {one.id, two.id, three.id}
        await one.send(UNSUBSCRIBE, "t:relay/a")
        await one.settle()
        assert len(app.topics[uri]) == 2
        await two.close()
        await eventually(lambda: len(app.topics[uri]) == 1)
        three.reset()
        await eventually(lambda: uri not in app.topics)
        assert list(app.topics) == []


async def test_the_register_can_be_walked_while_it_changes() -> None:
    """A handler may walk all topics and their subscribers, publishing and closing as it goes."""
    app = make()

    @app.rpc("t:broadcast")
    async def broadcast() -> dict[str, int]:
        counts = {}
        for uri, topic in app.topics.items():
            counts[uri] = len(topic)
            await topic.publish("bye")
            for connection in topic:
                connection.close(4000)
        return counts

    async with serve(app) as server:
        one, two, caller = await server.peer(), await server.peer(), await server.peer()
        for peer, names in ((one, "ab"), (two, "bc")):
            for name in names:
                await peer.subscribe(f"t:relay/{name}")
        counts = await caller.result("t:broadcast")
        assert counts == {T + "relay/a": 1, T + "relay/b": 2, T + "relay/c": 1}
        assert (await one.closed())[0] == 4000
        await eventually(lambda: len(app.topics) == 0)


async def test_publishing_and_unsubscribing_create_no_state(caplog: pytest.LogCaptureFixture) -> None:
    """30,000 distinct topics that nobody subscribed leave nothing in the register and few lines in the log."""
    app = make()
    async with serve(app) as server:
        peer = await server.raw()
        forms = [(PUBLISH, "t:relay/", 1), (UNSUBSCRIBE, "t:relay/"), (PUBLISH, "t:unknown/", 1)]
        async with asyncio.timeout(30):
            for start in range(0, 30_000, 3000):
                frames = []
                for number in range(start, start + 3000):
                    code, uri, *rest = forms[number % 3]
                    frames.append(message(code, f"{uri}{number}", *rest))
                await peer.send(b"".join(frames))
            await peer.send_message(CALL, "1", "wampkit:subscription", "x")
        assert (await peer.read_message())[:2] == [RESULT, "1"]
        assert app.topics == {}
        assert server.connection(peer).subscriptions == {}
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) < 100


async def test_a_topic_that_is_not_declared_cannot_be_subscribed() -> None:
    """A SUBSCRIBE of an undeclared topic leaves nothing, and no event reaches it."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:unknown")
        assert app.topics == {}
        assert server.connection(peer).topics == ()
        with pytest.raises(ValueError, match="declare"):
            await app.publish("t:unknown", 1)
        await peer.nothing()


# ---- on_subscribe


@rows(
    "error",
    [WampError("t:no", "no"), NotAllowed("no"), ValueError("x"), SystemExit(), asyncio.CancelledError()],
)
@rows("late", [False, True])
async def test_a_refused_subscription_leaves_nothing(error: BaseException, late: bool) -> None:
    """What on_subscribe raises, at once or after awaiting, leaves no subscription, no topic and no event."""
    app = make()
    topic = app.topic("t:private", relay=True)
    left: list[str] = []

    @topic.on_subscribe
    async def refuse(topic: Topic) -> None:
        if late:
            await asyncio.sleep(0.01)
            await topic.publish("secret")
        raise error

    @topic.on_unsubscribe
    async def gone(connection: Connection) -> None:
        left.append(connection.id)

    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:private")
        assert await peer.result("wampkit:subscription", "t:private") is None
        assert app.topics == {}
        await app.publish("t:private", 1)
        await peer.nothing()
        await peer.close()
        await eventually(lambda: len(app.connections) == 0)
        assert left == []


async def test_a_blocking_on_subscribe_may_refuse_too() -> None:
    """A `def` hook refuses as an `async def` one does, and lets others in."""
    app = make()
    topic = app.topic("t:room/{name}", relay=True)

    @topic.on_subscribe
    def check(name: str) -> None:
        if name == "private":
            raise NotAllowed("no")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:room/private")
        await peer.subscribe("t:room/public")
        assert list(app.topics) == [T + "room/public"]


async def test_events_that_come_while_on_subscribe_decides_are_kept() -> None:
    """What is published while on_subscribe decides reaches the newcomer once it is accepted, in order."""
    app = make()
    topic = app.topic("t:slow", relay=True)
    entered, gate = asyncio.Event(), asyncio.Event()

    @topic.on_subscribe
    async def decide(connection: Connection) -> None:
        entered.set()
        await gate.wait()

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await peer.send(SUBSCRIBE, "t:slow")
        await entered.wait()
        await other.send(PUBLISH, "t:slow", 1)
        await other.settle()
        await app.publish("t:slow", 2)
        await app.publish("t:slow", 3, exclude=[peer.id])
        gate.set()
        await peer.settle()
        await app.publish("t:slow", 4)
        assert await peer.events(3) == [1, 2, 4]


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_newcomer_for_which_too_much_is_kept_is_cut(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for on_subscribe counts against `queue`: a hook that hangs costs its client the connection."""
    length = len(text_frame(encode(Event(T + "slow", f"{0:01000}"))))
    app = make(limits=Limits(queue=10 * length - 1))
    topic = app.topic("t:slow", relay=True)
    entered, released = threading.Event(), threading.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    def block() -> None:
        entered.set()
        assert released.wait(30)

    topic.on_subscribe(hang if kind == "async" else block)
    async with serve(app) as server:
        peer, other = await server.raw(), await server.peer()
        await peer.send_message(SUBSCRIBE, "t:slow")
        assert await asyncio.to_thread(entered.wait, 5)
        connection = server.connection(peer)
        # The one that passes the bound is still kept.
        for number in range(11):
            assert not connection.closed
            await app.publish("t:slow", f"{number:01000}")
            await other.settle()
        assert connection.closed
        assert (connection.close_code, app.counters.slow_readers) == (4008, 1)
        await eventually(lambda: len(app.connections) == 1)
        assert app.topics == {}
        released.set()
    assert f"on_subscribe takes too long: over {10 * length - 1} bytes wait for it" in caplog.text


async def test_what_is_kept_for_a_newcomer_counts_with_what_it_does_not_read() -> None:
    """The bound holds for all that waits for a client: for on_subscribe, and for the client to read."""
    app = make(limits=Limits(queue=100_000), keepalive=None)
    topic = app.topic("t:slow", relay=True)
    entered = asyncio.Event()

    @topic.on_subscribe
    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await server.raw(rcvbuf=4096)
        await peer.send_message(SUBSCRIBE, "t:relay/a")
        await peer.send_message(SUBSCRIBE, "t:slow")
        await asyncio.wait_for(entered.wait(), 5)
        connection = server.connection(peer)
        async with asyncio.timeout(20):
            while connection.unsent < 70_000:
                await app.publish("t:relay/a", "x" * 5000)
                await asyncio.sleep(0)
        for _ in range(16):
            await app.publish("t:slow", "x" * 5000)
            await asyncio.sleep(0)
        assert connection.close_code == 4008


async def test_with_drop_a_newcomer_loses_the_oldest_of_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """With slow_reader="drop" the newest events are kept while on_subscribe decides, and arrive in order."""
    app = make(limits=Limits(queue=10_000, slow_reader="drop"))
    topic = app.topic("t:slow", relay=True)
    entered, gate = asyncio.Event(), asyncio.Event()

    @topic.on_subscribe
    async def decide() -> None:
        entered.set()
        await gate.wait()

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "t:slow")
        await entered.wait()
        for number in range(45):
            await app.publish("t:slow", f"{number:01000}")
            await asyncio.sleep(0)
        gate.set()
        await peer.settle()
        await app.publish("t:slow", "last")
        connection = server.connection(peer)
        assert connection.dropped == app.counters.events_dropped > 0
        events = await peer.events(46 - connection.dropped)
        assert [int(event) for event in events[:-1]] == list(range(connection.dropped, 45))
        assert events[-1] == "last"
        assert 8_000 < sum(map(len, events)) < 12_000
    assert "on_subscribe takes too long: over 10000 bytes wait for it, so the oldest events are dropped" in caplog.text


async def test_a_connection_that_ends_is_no_subscriber_any_more() -> None:
    """While one client's end is still being dealt with, the topic shows connections and nothing else."""
    app = make()
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    @app.rpc("t:hang")
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()

    async with serve(app) as server:
        leaver, stayer = await server.raw(), await server.peer()
        await leaver.send_message(CALL, "1", "t:hang")
        await leaver.send_message(SUBSCRIBE, "t:relay/a")
        await stayer.subscribe("t:relay/a")
        await eventually(lambda: len(app.topics.get(T + "relay/a", ())) == 2)
        leaver.reset()
        await cleaning.wait()
        topic = app.topics[T + "relay/a"]
        assert [connection.id for connection in topic] == [stayer.id]
        cleaned.set()


async def test_events_kept_for_a_refused_newcomer_are_dropped() -> None:
    """What was published while on_subscribe decided never reaches a newcomer that it refused."""
    app = make()
    topic = app.topic("t:slow", relay=True)
    entered, gate = asyncio.Event(), asyncio.Event()

    @topic.on_subscribe
    async def decide() -> None:
        entered.set()
        await gate.wait()
        raise NotAllowed("no")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "t:slow")
        await entered.wait()
        await app.publish("t:slow", 1)
        gate.set()
        await peer.nothing()
        assert app.topics == {}


async def test_unsubscribing_while_on_subscribe_decides_ends_unsubscribed() -> None:
    """SUBSCRIBE and UNSUBSCRIBE of one client take effect in order, even where the hook waits."""
    app = make()
    app.add_rpc("ping", lambda: "pong")
    topic = app.topic("t:slow", relay=True)
    entered, gate = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @topic.on_subscribe
    async def decide() -> None:
        entered.set()
        await gate.wait()
        ran.append("subscribed")

    topic.on_unsubscribe(lambda: ran.append("unsubscribed"))
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "t:slow")
        await peer.send(UNSUBSCRIBE, "t:slow")
        await asyncio.wait_for(entered.wait(), PATIENCE)
        assert await peer.result("ping") == "pong"
        gate.set()
        await peer.settle()
        assert ran == ["subscribed", "unsubscribed"]
        assert app.topics == {}


async def test_a_hook_may_walk_its_topic() -> None:
    """While `on_subscribe` decides, its topic lists those who are subscribed, and whoever is about to be."""
    app = make()
    topic = app.topic("t:walked", relay=True)
    seen: list[tuple[int, list[str], list[str]]] = []

    @topic.on_subscribe
    async def decide(topic: Topic, conn: Connection) -> None:
        seen.append((len(topic), [each.id for each in topic], [each.id for each in topic.subscribers]))

    async with serve(app) as server:
        first, second = await server.peer(), await server.peer()
        await first.subscribe("t:walked")
        await second.subscribe("t:walked")
        assert seen == [(1, [first.id], [first.id]), (2, [first.id, second.id], [first.id, second.id])]


async def test_topic_messages_that_waited_leave_turns_to_others() -> None:
    """Hundreds of publishes that waited for one handler do not hold up another client until all have run."""
    app = make()
    gate = asyncio.Event()
    ran: list[int | str] = []

    @app.topic("t:flooded")
    async def flooded(event: int) -> None:
        if event == 0:
            await gate.wait()
        if event == 1:
            other.send_now(message(CALL, "1", "note"))
        ran.append(event)

    @app.rpc("note")
    async def note() -> None:
        ran.append("other")

    app.add_rpc("ping", lambda: "pong")
    async with serve(app) as server:
        flood, other = await server.raw(), await server.raw()
        for number in range(WAITING):
            await flood.send_message(PUBLISH, "t:flooded", number)
        await flood.send_message(CALL, "1", "ping")
        assert await flood.read_message() == [RESULT, "1", "pong"]
        gate.set()
        assert await other.read_message() == [RESULT, "1", None]
        await eventually(lambda: len(ran) == WAITING + 1)
        assert ran.index("other") < WAITING - JOBS_A_TURN


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_goes_while_on_subscribe_decides_leaves_nothing(how: str, stubborn: bool) -> None:
    """A connection that ends while on_subscribe decides is in no topic, even where the hook ignores the end."""
    app = make()
    topic = app.topic("t:slow", relay=True)
    entered, ended = asyncio.Event(), asyncio.Event()

    @topic.on_subscribe
    async def decide() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise
        finally:
            ended.set()

    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_message(SUBSCRIBE, "t:slow")
        await entered.wait()
        if how == "close":
            await peer.send_frame(8, b"\x03\xe8")
        else:
            peer.reset()
        await asyncio.wait_for(ended.wait(), 5)
        await eventually(lambda: len(app.connections) == 0)
        assert app.topics == {}


async def test_the_hook_may_publish_to_the_newcomers() -> None:
    """What on_subscribe publishes reaches the others, and the newcomer unless it is excluded."""
    app = make()
    topic = app.topic("t:hello", relay=True)

    @topic.on_subscribe
    async def joined(topic: Topic, connection: Connection) -> None:
        await topic.publish({"joined": connection.id}, exclude=[connection.id])
        await topic.publish("welcome", eligible=[connection.id])

    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        await one.subscribe("t:hello")
        await two.subscribe("t:hello")
        assert await one.events(2) == ["welcome", {"joined": two.id}]
        assert await two.events(1) == ["welcome"]


# ---- on_unsubscribe


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


# ---- exclude and eligible: who receives a PUBLISH


RECEIVERS = [
    # what follows the event, who of (publisher, one, two) receives it
    ([], "12"),
    ([True], "12"),
    ([False], "p12"),
    ([None], "12"),
    ([[]], "p12"),
    ([["1"]], "p2"),
    ([["p"]], "12"),
    ([["p", "1", "2"]], ""),
    ([["nobody"]], "p12"),
    ([[], []], ""),
    ([[], ["1"]], "1"),
    ([[], ["p"]], "p"),
    ([["1"], ["1", "2"]], "2"),
    ([[], ["nobody"]], ""),
    ([[], ["1", "1"]], "1"),
    ([[], None], "p12"),
    ([None, ["p", "1"]], "1"),
    ([True, ["p", "1"]], "1"),
    ([False, ["p", "1"]], "p1"),
    ([True, []], ""),
]


@rows(("rest", "receivers"), RECEIVERS)
async def test_exclude_and_eligible_decide_who_receives(rest: list[Any], receivers: str) -> None:
    """Each form of PUBLISH reaches exactly whom it means: exclude wins, an empty eligible list means nobody."""
    app = make()
    async with serve(app) as server:
        peers = {name: await server.peer() for name in "p12"}
        for peer in peers.values():
            await peer.subscribe("t:relay/a")

        def named(value: Any) -> Any:
            return [peers[name].id if name in peers else name for name in value] if isinstance(value, list) else value

        await peers["p"].send(PUBLISH, "t:relay/a", "event", *map(named, rest))
        await peers["p"].settle()
        for name, peer in peers.items():
            if name in receivers:
                assert await peer.events(1) == ["event"]
            await peer.nothing()


async def test_the_publisher_may_be_included_by_default() -> None:
    """With exclude_publisher=False a PUBLISH of three elements reaches its sender, as on the PHP servers."""
    app = make(exclude_publisher=False)
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:relay/a")
        await peer.send(PUBLISH, "t:relay/a", 1)
        await peer.send(PUBLISH, "t:relay/a", 2, True)
        await peer.send(PUBLISH, "t:relay/a", 3, None)
        await peer.send(PUBLISH, "t:relay/a", 4, False)
        assert await peer.events(3) == [1, 3, 4]
        await peer.nothing()


async def test_a_handlers_event_keeps_the_senders_wishes() -> None:
    """Exclude and eligible of a PUBLISH hold for what the topic's handler makes of it."""
    app = make()

    @app.topic("t:shout")
    async def shout(event: str) -> str:
        return event.upper()

    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        for peer in (one, two):
            await peer.subscribe("t:shout")
        await one.send(PUBLISH, "t:shout", "a", [two.id])
        await one.send(PUBLISH, "t:shout", "b", [], [two.id])
        assert await one.events(1) == ["A"]
        assert await two.events(1) == ["B"]


async def test_the_apps_publish_honours_exclude_and_eligible() -> None:
    """`publish` of app and topic excludes and admits; an empty eligible list is nobody; any iterable will do."""
    app = make()
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        for peer in (one, two):
            await peer.subscribe("t:relay/a")
        topic = app.topics[T + "relay/a"]
        for publish in (lambda *args, **options: app.publish("t:relay/a", *args, **options)), topic.publish:
            await publish("all")
            await publish("not one", exclude=[one.id])
            await publish("only one", eligible=(one.id,))
            await publish("nobody", eligible=[])
            await publish("only two", exclude={one.id}, eligible=iter([one.id, two.id]))
            await publish("none either", exclude=[one.id], eligible=[one.id])
        assert await one.events(4) == ["all", "only one"] * 2
        assert await two.events(6) == ["all", "not one", "only two"] * 2
        await one.nothing()
        await two.nothing()


async def test_a_session_id_in_place_of_a_list_is_refused() -> None:
    """Passing one id where a list belongs is an error, not a list of its letters."""
    app = make()
    async with serve(app):
        with pytest.raises(TypeError, match="lists of session ids"):
            await app.publish("t:relay/a", 1, eligible="abc")
        with pytest.raises(TypeError, match="lists of session ids"):
            await app.publish("t:relay/a", 1, exclude="abc")


@pytest.mark.parametrize("event", [object(), "\ud800", {"x": {1, object()}}], ids=["object", "surrogate", "nested"])
async def test_an_event_that_is_no_json_fails_its_publisher_only(event: Any) -> None:
    """`publish` raises for an event that JSON cannot carry, and no subscriber hears of it."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:relay/a")
        with pytest.raises((TypeError, ValueError)):
            await app.publish("t:relay/a", event)
        await app.publish("t:relay/a", "next")
        assert await peer.events(1) == ["next"]


# ---- delivery


async def test_events_arrive_in_order_from_each_publisher() -> None:
    """Ten publishers on three topics: each subscriber sees each publisher's events in order, none lost or doubled."""
    app = make()
    async with serve(app) as server:
        publishers = [await server.peer() for _ in range(10)]
        subscribers = [await server.peer() for _ in range(3)]
        for peer in subscribers:
            for name in "abc":
                await peer.subscribe(f"t:relay/{name}")

        async def publish(number: int) -> None:
            for step in range(50):
                await publishers[number].send(PUBLISH, f"t:relay/{'abc'[step % 3]}", [number, step])

        await asyncio.gather(*map(publish, range(10)))
        for peer in subscribers:
            events = await peer.events(500)
            for number in range(10):
                assert [step for sender, step in events if sender == number] == list(range(50))
            await peer.nothing()


async def test_a_handler_may_publish_to_its_own_topic() -> None:
    """Publishing to a topic inside its own handler neither recurses nor breaks the order."""
    app = make()

    @app.topic("t:echo")
    async def echo(event: int, topic: Topic) -> int:
        await topic.publish([event, "before"])
        return event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:echo")
        for number in range(3):
            await peer.send(PUBLISH, "t:echo", number)
        assert await other.events(6) == [[0, "before"], 0, [1, "before"], 1, [2, "before"], 2]


async def test_a_publish_that_came_before_the_close_is_delivered() -> None:
    """What a client publishes before it leaves is published, whether handlers wait or not; it subscribes no more."""
    app = make()
    subscribed: list[str] = []

    @app.topic("t:slow")
    async def slow(event: Any) -> Any:
        await asyncio.sleep(0.02)
        return event

    app.topic("t:room", relay=True).on_subscribe(lambda: subscribed.append("t:room"))

    async with serve(app) as server:
        listener = await server.peer()
        await listener.subscribe("t:relay/a")
        await listener.subscribe("t:slow")
        peer = await server.raw()
        await peer.send(
            b"".join(message(PUBLISH, "t:relay/a", number) for number in range(3))
            + message(PUBLISH, "t:slow", 3)
            + message(SUBSCRIBE, "t:room")
            + message(PUBLISH, "t:relay/a", 4)
            + close()
        )
        assert await listener.events(5) == [0, 1, 2, 3, 4]
        assert subscribed == []


@rows("value", ["1e400", "-1e999", "9" * 400, "NaN", "Infinity", '"\\ud800"', '{"\\udfff": 1}', "1" + "0" * 5000])
async def test_a_poisoned_event_harms_its_sender_only(value: str) -> None:
    """Numbers out of range and lone surrogates never break delivery to others, who only ever get JSON."""
    app = make()
    async with serve(app) as server:
        peer, other, sender = await server.peer(), await server.peer(), await server.peer()
        await other.subscribe("t:relay/a")
        await peer.send_text(f'[7,"{T}relay/a",{value}]')
        await sender.send(PUBLISH, "t:relay/a", "after")
        await other.find(lambda message: message == [EVENT, T + "relay/a", "after"])
        assert await other.result("wampkit:subscription", "t:relay/a") == T + "relay/a"


@rows("name", ["__proto__", "\u2028", "a b", "*?[]", "é\U0001f600", "x" * 900, "\n\x1b[2J"])
async def test_topics_may_have_any_name(name: str) -> None:
    """Any text that the pattern matches is a topic of its own."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe(f"t:relay/{name}")
        await app.publish("t:relay/other", "no")
        await app.publish(f"t:relay/{name}", "yes")
        assert await peer.next() == [EVENT, f"{T}relay/{name}", "yes"]


async def test_asking_for_a_subscription_tells_the_full_uri() -> None:
    """wampkit's own procedure tells whether a SUBSCRIBE before it took effect, and under which URI."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "t:relay/a")
        assert await peer.result("wampkit:subscription", "t:relay/a") == T + "relay/a"
        assert await peer.result("wampkit:subscription", "t:relay/b") is None
        assert (await peer.call("wampkit:subscription", 5))[0] == ERROR
