"""`on_subscribe`: it may refuse, events that arrive meanwhile are kept, clients may leave meanwhile."""

import asyncio
import threading
from typing import Any

import pytest

from wampkit import App, Connection, Limits, NotAllowed, Topic, WampError
from wampkit.connection.tasks import JOBS_A_TURN
from wampkit.protocol.messages import Event, encode
from wampkit.protocol.websocket import text_frame

from ..support.tables import rows
from ..support.wire import CALL, PATIENCE, PUBLISH, RESULT, SUBSCRIBE, UNSUBSCRIBE, eventually, message, serve

T = "http://example.com/topic/"


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay/{name}", relay=True)
    return app


WAITING = 4 * JOBS_A_TURN
"""Topic messages that wait for their turn."""


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
