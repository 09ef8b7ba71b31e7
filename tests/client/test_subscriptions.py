"""Subscriptions: iteration, sharing one on the wire, and learning what became of them."""

import asyncio
import gc
from typing import Any

import pytest

from wampkit import App, Client, ConnectionLost, NotAllowed, State, Subscription, Topic, connect
from wampkit.testing import drop, no_event

from ..support.foreign import Foreign
from ..support.wire import eventually, serve


async def test_events_are_iterated_in_order(other: Foreign) -> None:
    """`async for` yields the events in the order in which they came."""
    async with connect(other.url) as client, client.subscribe("t") as events:
        for number in range(5):
            await client.publish("t", number)
        got = []
        async for event in events:
            got.append(event)
            if len(got) == 5:
                break
    assert got == [0, 1, 2, 3, 4]


async def test_several_to_one_topic_share_one_on_the_wire(other: Foreign) -> None:
    """Three subscriptions, by CURIE and by URI, are one SUBSCRIBE, and one UNSUBSCRIBE when the last has gone."""
    async with connect(other.url, prefixes={"p": "http://x/"}) as client:
        async with client.subscribe("p:t") as first:
            async with client.subscribe("http://x/t") as second, client.subscribe("p:t") as third:
                assert len(other.sent(5)) == 1
                assert [first.uri, second.uri, third.uri] == ["http://x/t"] * 3
                await other.sockets[0].send_str('[8, "http://x/t", 1]')
                assert [await each.get(timeout=5) for each in (first, second, third)] == [1, 1, 1]
            await client.call("echo")
            assert other.sent(6) == []
            await other.sockets[0].send_str('[8, "http://x/t", 2]')
            assert await first.get(timeout=5) == 2
        await client.call("echo")
        assert len(other.sent(6)) == 1


async def test_a_curie_that_only_the_server_knows_receives_its_events() -> None:
    """wampkit tells the full URI, so the app's own prefixes need not be known to the client."""
    app = App(prefixes={"chat": "http://example.com/chat/"})
    app.topic("chat:{room}", relay=True)
    async with serve(app) as server, connect(server.url) as client:
        async with client.subscribe("chat:lobby") as short, client.subscribe("http://example.com/chat/lobby") as full:
            assert (short.uri, short.accepted, full.accepted) == ("http://example.com/chat/lobby", True, True)
            await app.publish("chat:lobby", "hello")
            assert await short.get(timeout=5) == "hello"
            assert await full.get(timeout=5) == "hello"
            await no_event(short, within=0.05)
        assert await client.call("wampkit:subscription", "chat:lobby") is None
        assert dict(app.topics) == {}


async def test_leaving_one_of_two_names_keeps_the_other() -> None:
    """A CURIE and the full URI of one topic are one subscription on the server; leaving one name keeps it."""
    app = App(prefixes={"chat": "http://example.com/chat/"})
    app.topic("chat:{room}", relay=True)
    async with serve(app) as server, connect(server.url) as client, client.subscribe("chat:lobby") as short:
        async with client.subscribe("http://example.com/chat/lobby"):
            pass
        await client.call("wampkit:subscription", "chat:lobby")
        await app.publish("chat:lobby", "still here")
        assert await short.get(timeout=5) == "still here"


async def test_events_of_the_first_moment_are_not_lost() -> None:
    """What the server publishes before it has told the full URI reaches the subscription."""
    app = App(prefixes={"chat": "http://example.com/chat/"})
    room = app.topic("chat:{room}")

    @room.on_subscribe
    async def welcome(topic: Topic) -> None:
        await topic.publish("welcome")

    async with serve(app) as server, connect(server.url) as client, client.subscribe("chat:lobby") as events:
        assert await events.get(timeout=5) == "welcome"


async def test_a_refused_subscription_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """`accepted` is False and a line in the log says so; nothing is raised, as WAMP v1 keeps silent."""
    app = App()
    secret = app.topic("secret")

    @secret.on_subscribe
    async def refuse() -> None:
        await asyncio.sleep(0)
        raise NotAllowed("members only")

    async with serve(app) as server, connect(server.url) as client:
        for topic in ("secret", "undeclared"):
            async with client.subscribe(topic) as events:
                assert events.accepted is False
                await no_event(events, within=0.02)
                assert f"the server refused the subscription to {topic!r}" in caplog.text


async def test_another_server_cannot_tell(other: Foreign) -> None:
    """Where the server is not wampkit, `accepted` is None and no call is made that it does not know."""
    async with connect(other.url) as client, client.subscribe("t") as events:
        assert events.accepted is None
        assert other.sent(5) == [[5, "t"]]
        assert other.sent(2) == []


async def test_get_times_out_and_names_the_topic(other: Foreign) -> None:
    """`get(timeout)` raises TimeoutError that names the topic."""
    async with connect(other.url) as client, client.subscribe("quiet") as events:
        with pytest.raises(TimeoutError, match="no event on 'quiet' within 0.02 s"):
            await events.get(timeout=0.02)


async def test_nothing_shows_the_event_that_came(other: Foreign) -> None:
    """`nothing(within)` fails with the event in its message."""
    async with connect(other.url) as client, client.subscribe("t") as events:
        await client.publish("t", {"n": 1})
        with pytest.raises(AssertionError, match="{'n': 1}"):
            await no_event(events, within=5)


async def test_a_slow_reader_loses_the_oldest(other: Foreign, caplog: pytest.LogCaptureFixture) -> None:
    """Over `max_events` the oldest events are dropped, counted, and logged once."""
    async with connect(other.url, max_events=3) as client, client.subscribe("t") as events:
        for number in range(10):
            await client.publish("t", number)
        await client.call("echo")
        assert repr(events) == "<Subscription 't', 3 events waiting>"
        assert [await events.get(timeout=5) for _ in range(3)] == [7, 8, 9]
        assert events.dropped == 7
    assert caplog.text.count("are dropped") == 1


async def test_events_wait_within_so_many_bytes(other: Foreign) -> None:
    """Over `max_events_size` the oldest go too; one event alone may be larger."""
    async with connect(other.url, max_events_size=1000) as client, client.subscribe("t") as events:
        for number in range(10):
            await client.publish("t", [number, "x" * 300])
        await client.call("echo")
        assert ([(await events.get(timeout=5))[0] for _ in range(3)], events.dropped) == ([7, 8, 9], 7)
        for number in range(2):
            await client.publish("t", ["large", "x" * 3000, number])
        await client.call("echo")
        large = await events.get(timeout=5)
        assert (large[0], large[2], events.dropped) == ("large", 1, 8)
        for _ in range(3):
            await client.publish("t", ["again", "x" * 300])
        await client.call("echo")
        assert (len([await events.get(timeout=5) for _ in range(3)]), events.dropped) == (3, 8)


async def test_events_of_unknown_topics_are_kept_within_bounds(other: Foreign) -> None:
    """While the server owes the URI of a subscription, the last 1,000 events and 4 MiB of messages are kept."""
    other.mark = ".wampkit"
    other.answers = {"wampkit:subscription": []}
    async with connect(other.url) as client:
        for count, size, first in ((1500, 10, 500), (100, 100_000, 59)):
            starting = asyncio.ensure_future(client.subscribe(f"p:{count}").start())
            await eventually(lambda topic=f"p:{count}": [each[3] for each in other.sent(2)][-1:] == [topic])
            for number in range(count):
                await other.sockets[0].send_json([8, f"http://p/{count}", [number, "x" * size]])
            await other.sockets[0].send_json([3, other.sent(2)[-1][1], f"http://p/{count}"])
            events = await asyncio.wait_for(starting, 10)
            assert [(await events.get(timeout=5))[0] for _ in range(count - first)] == list(range(first, count))
            await no_event(events, within=0.02)


async def test_closing_the_client_ends_iteration(other: Foreign) -> None:
    """`async for` ends, and `get` raises, when the client is closed for good; what came before is still had."""
    client = await connect(other.url).open()
    events = await client.subscribe("t").start()
    waiting = await client.subscribe("u").start()

    async def collect() -> list[object]:
        return [event async for event in waiting]

    task = asyncio.ensure_future(collect())
    await client.publish("t", "last")
    await client.call("echo")
    await client.close()
    assert await asyncio.wait_for(task, 5) == []
    assert await events.get(timeout=5) == "last"
    with pytest.raises(ConnectionLost):
        await events.get(timeout=5)


async def test_two_readers_of_one_subscription_share_its_events(other: Foreign) -> None:
    """Each event goes to one of two tasks that wait, and a cancelled one takes none with it."""
    async with connect(other.url) as client, client.subscribe("t") as events:
        doomed, kept = (asyncio.ensure_future(events.get()) for _ in range(2))
        await asyncio.sleep(0)
        doomed.cancel()
        await client.publish("t", "only")
        assert await asyncio.wait_for(kept, 5) == "only"


async def test_subscribing_without_a_connection_fails(other: Foreign) -> None:
    """A subscription that is entered while there is no connection raises ConnectionLost."""
    client = connect(other.url)
    with pytest.raises(ConnectionLost, match="connecting"):
        await client.subscribe("t").start()


async def test_a_server_that_echoes_the_curie_is_understood(other: Foreign) -> None:
    """Servers such as WampSharp send EVENT with the topic as it was subscribed; it reaches the subscription."""
    async with connect(other.url, prefixes={"p": "http://x/"}) as client, client.subscribe("p:t") as events:
        await other.emit("p:t", 1)
        assert await events.get(timeout=5) == 1


# ---- several at once, and a wire that is lost at the wrong moment


async def entering(other: Foreign, client: Client) -> list["asyncio.Task[Subscription]"]:
    """Two subscriptions to one topic, both waiting for a server that holds back its answer."""
    other.hold_pings = True
    tasks = [asyncio.ensure_future(client.subscribe("t").start()) for _ in range(2)]
    await eventually(lambda: other.pings)
    return tasks


async def test_cancelling_the_first_to_enter_leaves_the_second(other: Foreign) -> None:
    """Of two that enter one topic at once the first may be cancelled; the second is subscribed all the same."""
    async with connect(other.url) as client:
        first, second = await entering(other, client)
        first.cancel()
        other.hold_pings = False
        await other.answer_pings()
        events = await asyncio.wait_for(second, 5)
        await client.publish("t", 1)
        assert await events.get(timeout=5) == 1
        await client.call("echo")
        assert (first.cancelled(), len(other.sent(5)), other.sent(6)) == (True, 1, [])


async def test_cancelling_all_that_enter_unsubscribes(other: Foreign) -> None:
    """When nobody is left that wanted the topic, the server is told."""
    async with connect(other.url) as client:
        for task in await entering(other, client):
            task.cancel()
        await asyncio.sleep(0)
        await other.answer_pings()
        await eventually(lambda: other.sent(6) == [[6, "t"]])


async def test_a_wire_lost_while_entering_fails_all_that_enter(other: Foreign) -> None:
    """All that were entering learn of the loss by ConnectionLost, and none is put back behind their backs."""
    async with connect(other.url, backoff=(0.01, 0.02)) as client:
        tasks = await entering(other, client)
        await drop(client)
        failed = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(each) for each in failed] == [ConnectionLost] * 2
        await client.wait_for(State.OPEN, timeout=5)
        await client.call("echo")
        assert len(other.sent(5)) == 1


async def test_a_wire_lost_behind_those_that_gave_up_is_no_complaint(other: Foreign) -> None:
    """When all that were entering have been cancelled, the loss is nothing that asyncio reports as not looked at."""
    uncaught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    async with connect(other.url, reconnect=False) as client:
        tasks = await entering(other, client)
        while tasks:
            tasks.pop().cancel()
        await asyncio.sleep(0)
        await drop(client)
        await client.wait_for(State.CLOSED, timeout=5)
    gc.collect()
    await asyncio.sleep(0)
    assert uncaught == []


async def test_leaving_waits_for_what_other_names_turn_out_to_be(other: Foreign) -> None:
    """While the server owes the URI of one name, another is not unsubscribed, for both may be one to the server."""
    other.mark = ".wampkit"
    other.answers = {"wampkit:subscription": [3, "http://x/t"]}
    async with connect(other.url) as client:
        full = await client.subscribe("http://x/t").start()
        other.answers = {"wampkit:subscription": []}
        starting = asyncio.ensure_future(client.subscribe("p:t").start())
        await eventually(lambda: [each[3] for each in other.sent(2)] == ["http://x/t", "p:t"])
        await full.stop()
        await other.sockets[0].send_json([3, other.sent(2)[-1][1], "http://x/t"])
        short = await asyncio.wait_for(starting, 5)
        await client.call("echo")
        assert (short.uri, other.sent(6)) == ("http://x/t", [])


async def test_a_wire_made_again_before_the_loss_is_noticed(other: Foreign) -> None:
    """Who was entering learns of the loss, though his topic is being put on the next wire when he looks."""
    async with connect(other.url, reconnect=False) as client:
        tasks = await entering(other, client)
        group = client._subscriptions._groups["t"]
        again = asyncio.get_running_loop().create_future()
        # As `restore` does it on a busy loop: between the loss and the turn of those who wait.
        group.confirmed.add_done_callback(lambda _: setattr(group, "confirmed", again))
        await drop(client)
        failed = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [type(each) for each in failed] == [ConnectionLost] * 2


async def test_leaving_while_subscriptions_are_put_back_unsubscribes(other: Foreign) -> None:
    """A subscription that is stopped in the middle of a reconnect is not left behind on the server."""
    async with connect(other.url, backoff=(0.01, 0.02)) as client:
        events = await client.subscribe("t").start()
        other.hold_pings = True
        await drop(client)
        await eventually(lambda: other.pings)
        assert client.state is State.RECONNECTING
        await asyncio.wait_for(events.stop(), 5)
        other.hold_pings = False
        await other.answer_pings()
        await client.wait_for(State.OPEN, timeout=5)
        await eventually(lambda: other.sent(6) == [[6, "t"]])


async def test_a_subscription_stays_with_its_uri_when_the_prefix_changes(other: Foreign) -> None:
    """Once subscribed, a topic is the URI that it meant, also on the next connection, where its prefix is another."""
    options = {"p": "http://x/"}
    async with connect(other.url, prefixes=options, backoff=(0.01, 0.02)) as client, client.subscribe("p:t") as events:
        await client.set_prefix("p", "http://y/")
        await drop(client)
        await client.wait_for(State.OPEN, timeout=5)
        await other.emit("http://x/t", 1)
        assert await events.get(timeout=5) == 1
        await events.stop()
        await client.call("echo")
        assert (other.sent(5)[1:], other.sent(6)) == ([[5, "http://x/t"]], [[6, "http://x/t"]])


async def test_a_subscription_is_started_once(other: Foreign) -> None:
    """Starting twice is refused, for each event would come twice; after `stop` it may be started again."""
    async with connect(other.url) as client:
        events = await client.subscribe("t").start()
        with pytest.raises(RuntimeError, match="started already"):
            await events.start()
        await events.stop()
        await events.start()
        await client.publish("t", 1)
        assert await events.get(timeout=5) == 1
        await client.call("echo")
        await no_event(events, within=0.02)
