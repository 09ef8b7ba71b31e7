"""The seam that everything published passes, on a broker of the test's own and on the one in memory."""

import asyncio

import msgspec
import pytest

from wampkit import App, Broker, DeclarationError, MemoryBroker, Publication
from wampkit.pubsub.broker import Deliver, broker_from_url

from ..support.wire import CALL, EVENT, PUBLISH, RESULT, SUBSCRIBE, UNSUBSCRIBE, eventually, serve

T = "http://example.com/topic/"


class Recorder(MemoryBroker):
    """A broker that writes down what it is asked for, in order, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.publications: list[Publication] = []
        self.deliver: Deliver | None = None
        self.failing: set[str] = set()

    def _note(self, what: str, topic: str = "") -> None:
        self.log.append(f"{what} {topic.removeprefix(T)}".strip())
        if what in self.failing:
            raise ConnectionError(f"{what} failed")

    async def start(self, deliver: Deliver) -> None:
        self._note("start")
        self.deliver = deliver
        await super().start(deliver)

    async def publish(self, publication: Publication) -> None:
        self._note("publish", publication.topic)
        self.publications.append(publication)
        await super().publish(publication)

    async def subscribe(self, topic: str) -> None:
        await asyncio.sleep(0)
        self._note("subscribe", topic)

    async def unsubscribe(self, topic: str) -> None:
        await asyncio.sleep(0)
        self._note("unsubscribe", topic)

    async def close(self) -> None:
        self._note("close")
        await super().close()


def make(broker: Broker) -> App:
    app = App(prefixes={"t": T}, broker=broker)
    app.topic("t:relay/{name}", relay=True)

    @app.topic("t:upper")
    async def upper(event: str) -> str:
        return event.upper()

    return app


async def test_everything_published_passes_the_broker() -> None:
    """Relays, handlers, `app.publish` and `topic.publish` all hand their events to the broker, encoded."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        await two.subscribe("t:relay/a")
        await one.send(PUBLISH, "t:relay/a", {"x": 1}, [two.id])
        await one.send(PUBLISH, "t:upper", "text", [], [two.id])
        await one.settle()
        await app.publish("t:relay/a", 1)
        await app.topics[T + "relay/a"].publish(2)
        assert [(each.topic.removeprefix(T), msgspec.json.decode(each.event)) for each in broker.publications] == [
            ("relay/a", {"x": 1}),
            ("upper", "TEXT"),
            ("relay/a", 1),
            ("relay/a", 2),
        ]
        assert broker.publications[0].exclude == {two.id}
        assert broker.publications[1].eligible == {two.id}
        assert broker.publications[2].eligible is None


async def test_an_event_is_encoded_once_for_all() -> None:
    """However many receive it, an event is one publication whose text is made once."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        peers = [await server.peer() for _ in range(5)]
        for peer in peers:
            await peer.subscribe("t:relay/a")
        await app.publish("t:relay/a", {"x": 1})
        for peer in peers:
            assert await peer.events(1) == [{"x": 1}]
        assert [each.event for each in broker.publications] == [b'{"x":1}']


async def test_a_broker_delivers_what_comes_from_elsewhere() -> None:
    """What another node published is delivered to this node's subscribers, exclude and eligible included."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        for peer in (one, two):
            await peer.subscribe("t:relay/a")
        assert broker.deliver is not None
        broker.deliver(Publication(T + "relay/a", b'"all"'))
        broker.deliver(Publication(T + "relay/a", b'"not one"', exclude=frozenset([one.id])))
        broker.deliver(Publication(T + "relay/a", b'"one"', eligible=frozenset([one.id])))
        broker.deliver(Publication(T + "relay/a", b'"nobody"', eligible=frozenset()))
        broker.deliver(Publication(T + "relay/unknown", b'"nowhere"'))
        assert [await one.next(), await one.next()] == [[EVENT, T + "relay/a", "all"], [EVENT, T + "relay/a", "one"]]
        assert [await two.next(), await two.next()] == [[EVENT, T + "relay/a", x] for x in ("all", "not one")]


async def test_the_broker_hears_of_first_and_last_subscribers_only() -> None:
    """The broker subscribes with a topic's first subscriber and unsubscribes with its last, between start and close."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        await one.subscribe("t:relay/a")
        await two.subscribe("t:relay/a")
        await one.send(UNSUBSCRIBE, "t:relay/a")
        await one.settle()
        assert broker.log == ["start", "subscribe relay/a"]
        await two.close()
        await eventually(lambda: len(app.connections) == 1)
        assert broker.log == ["start", "subscribe relay/a", "unsubscribe relay/a"]
    assert broker.log[-1] == "close"


async def test_a_subscription_that_the_broker_refuses_leaves_nothing() -> None:
    """Where the broker cannot subscribe the client is not subscribed, and the connection lives."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        peer = await server.peer()
        broker.failing = {"subscribe", "unsubscribe"}
        await peer.subscribe("t:relay/a")
        assert app.topics == {}
        assert await peer.result("wampkit:subscription", "t:relay/a") is None
        broker.failing = set()
        await peer.subscribe("t:relay/a")
        assert len(app.topics) == 1


async def test_a_broker_that_fails_to_unsubscribe_keeps_no_topic() -> None:
    """A client that leaves while the broker fails leaves all its topics, and its hooks run."""
    broker = Recorder()
    app = make(broker)
    left: list[str] = []
    topic = app.topic("t:room/{name}", relay=True)

    @topic.on_unsubscribe
    async def gone(name: str) -> None:
        left.append(name)

    async with serve(app) as server:
        peer = await server.peer()
        for name in "abc":
            await peer.subscribe(f"t:room/{name}")
        broker.failing = {"unsubscribe"}
        await peer.close()
        await eventually(lambda: len(app.connections) == 0)
        assert app.topics == {}
        assert left == ["a", "b", "c"]


async def test_a_broker_that_fails_to_publish_fails_the_publisher() -> None:
    """A failing broker fails `app.publish`, and a client's PUBLISH costs a log line and nothing else."""
    broker = Recorder()
    app = make(broker)
    async with serve(app) as server:
        peer = await server.peer()
        broker.failing = {"publish"}
        with pytest.raises(ConnectionError):
            await app.publish("t:relay/a", 1)
        await peer.send(PUBLISH, "t:relay/a", 1)
        await peer.nothing()


async def test_a_broker_that_fails_to_start_stops_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """What the broker raises at start reaches whoever starts the app, which can be started again.

    What it raises at its close is logged, and the app stops all the same.
    """
    broker = Recorder()
    broker.failing = {"start"}
    app = make(broker)
    with pytest.raises(ConnectionError):
        await app.start()
    assert not app.running
    broker.failing = {"close"}
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wampkit:subscription", "x")
        assert await peer.next() == [RESULT, "1", None]
    assert not app.running
    assert "the broker failed to close" in caplog.text


async def test_two_subscribers_at_once_share_the_brokers_subscription() -> None:
    """A second subscriber that comes while the broker still subscribes for the first makes it subscribe once."""
    gate = asyncio.Event()

    class Slow(Recorder):
        async def subscribe(self, topic: str) -> None:
            await gate.wait()
            await super().subscribe(topic)

    broker = Slow()
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        await one.send(SUBSCRIBE, "t:relay/a")
        await eventually(lambda: len(app.topics) == 1)
        await two.send(SUBSCRIBE, "t:relay/a")
        await eventually(lambda: len(app.topics[T + "relay/a"]) == 2)
        gate.set()
        await one.settle()
        await two.settle()
        assert broker.log.count("subscribe relay/a") == 1
        await app.publish("t:relay/a", 1)
        assert await one.events(1) == [1]
        assert await two.events(1) == [1]


def test_a_url_names_a_broker() -> None:
    """`memory://` is the broker in memory; a scheme that nobody knows is refused with those that are known."""
    assert isinstance(broker_from_url("memory://"), MemoryBroker)
    with pytest.raises(DeclarationError, match="memory"):
        broker_from_url("carrier-pigeon://roof")


async def test_an_unknown_broker_url_stops_the_start() -> None:
    """An app with a broker URL of an unknown scheme does not start."""
    with pytest.raises(DeclarationError, match="carrier-pigeon"):
        await App(broker="carrier-pigeon://roof").start()


def test_printing_a_publication_does_not_print_the_event() -> None:
    """What an event carries stays out of logs that print a publication."""
    assert "hunter2" not in repr(Publication("t", b'"hunter2"'))


class Slow(Recorder):
    """A broker whose subscribe and unsubscribe take as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def subscribe(self, topic: str) -> None:
        self._note("subscribing", topic)
        await self.release.wait()
        self._note("subscribe", topic)

    async def unsubscribe(self, topic: str) -> None:
        self._note("unsubscribing", topic)
        await self.release.wait()
        self._note("unsubscribe", topic)


async def test_nobody_is_subscribed_before_the_broker_is() -> None:
    """While the broker takes its time for the first subscriber, the second waits for it too."""
    broker = Slow()
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        for peer in (one, two):
            await peer.send(SUBSCRIBE, "t:relay/a")
        await eventually(lambda: len(app.topics.get(T + "relay/a", ())) == 2)
        assert server.connection(one).topics == server.connection(two).topics == ()
        broker.release.set()
        await one.settle()
        await two.settle()
        assert server.connection(one).topics == server.connection(two).topics == (T + "relay/a",)
    assert broker.log.count("subscribe relay/a") == 1


async def test_a_goodbye_does_not_undo_a_newer_subscription() -> None:
    """A client that subscribes while the broker still unsubscribes has the topic carried when it is accepted."""
    broker = Slow()
    app = make(broker)
    async with serve(app) as server:
        broker.release.set()
        one, two = await server.peer(), await server.peer()
        await one.subscribe("t:relay/a")
        broker.release.clear()
        await one.send(UNSUBSCRIBE, "t:relay/a")
        await eventually(lambda: broker.log[-1] == "unsubscribing relay/a")
        await two.send(SUBSCRIBE, "t:relay/a")
        await eventually(lambda: T + "relay/a" in app.topics)
        broker.release.set()
        await two.settle()
        talk = [line for line in broker.log if line in ("subscribe relay/a", "unsubscribe relay/a")]
        assert talk == ["subscribe relay/a", "unsubscribe relay/a", "subscribe relay/a"]


async def test_a_broker_that_refuses_the_first_is_asked_for_the_second() -> None:
    """Where the broker failed for one subscriber, the next one is not taken for subscribed."""
    broker = Recorder()
    broker.failing.add("subscribe")
    app = make(broker)
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        await one.send(SUBSCRIBE, "t:relay/a")
        await one.settle()
        assert server.connection(one).topics == ()
        broker.failing.clear()
        await two.subscribe("t:relay/a")
        assert server.connection(two).topics == (T + "relay/a",)
