"""`exclude`, `eligible` and `excludeMe`: which subscribers receive a PUBLISH."""

from typing import Any

import pytest

from wampkit import App

from ..support.tables import rows
from ..support.wire import PUBLISH, serve

T = "http://example.com/topic/"


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay/{name}", relay=True)
    return app


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
