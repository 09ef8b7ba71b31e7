"""Subscriptions, the register of topics, and the delivery of events."""

import asyncio
import logging
from typing import Any

import pytest

from wampkit import App, Connection, Topic

from ..support.tables import rows
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
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
