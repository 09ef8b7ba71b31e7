"""PUBLISH and SUBSCRIBE that fail or are not allowed: the client gets no answer, the log says why."""

import asyncio
import logging
from typing import Any

import pytest

from wampkit import App, NotAllowed

from ..support.wire import CALL, EVENT, PUBLISH, RESULT, SUBSCRIBE, UNSUBSCRIBE, serve

API = "http://example.com/api#"


SECRET = "hunter2"


def make(**options: Any) -> App:
    return App(prefixes={"api": API, "t": "http://example.com/topic/"}, **options)


# ---- errors


class Hidden(Exception):
    pass


# ---- topic messages that fail


async def test_a_publish_handler_that_fails_is_heard_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A PUBLISH whose handler fails reaches no subscriber; the next one does, and the log says so once."""
    app = make()

    @app.topic("t:picky")
    async def picky(event: Any) -> Any:
        if event == "bad":
            raise Hidden(SECRET)
        if event == "no":
            raise NotAllowed("not that")
        if event == "exit":
            raise SystemExit
        if event == "cancel":
            raise asyncio.CancelledError
        return event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:picky")
        for event in "bad", "no", "exit", "cancel", "good":
            await peer.send(PUBLISH, "t:picky", event)
        assert await other.events(1) == ["good"]
        await other.nothing()
        await peer.nothing()
    assert len([record for record in caplog.records if record.exc_info and SECRET in str(record.exc_info[1])]) == 1


async def test_a_publish_handler_that_returns_none_sends_nothing() -> None:
    """A handler that returns None swallows the event; false values are events."""
    app = make()

    @app.topic("t:filter")
    async def only(event: Any) -> Any:
        return None if event == "drop" else event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:filter")
        for event in "drop", 0, "", False, [], {}:
            await peer.send(PUBLISH, "t:filter", event)
        assert await other.events(5) == [0, "", False, [], {}]
        await other.nothing()


async def test_an_event_that_does_not_fit_never_reaches_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    """An event of the wrong form is refused without a traceback, and with one line for many of them."""
    app = make()
    ran: list[int] = []

    @app.topic("t:int")
    async def numbers(event: int) -> int:
        ran.append(event)
        return event

    async with serve(app) as server:
        peer = await server.peer()
        for _ in range(50):
            await peer.send(PUBLISH, "t:int", "text\n\x1b[31m" + "x" * 5000)
        await peer.settle()
        assert ran == []
        assert app.topics == {}
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(lines) <= 4
    assert all(line.isprintable() and len(line) < 600 for line in lines), lines
    assert "Traceback" not in caplog.text


async def test_a_server_only_topic_takes_no_publish() -> None:
    """A topic without handler and relay is published to by the server alone."""
    app = make()
    app.topic("t:news")
    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:news")
        await peer.send(PUBLISH, "t:news", "fake")
        await peer.settle()
        await app.publish("t:news", "real")
        assert await other.events(1) == ["real"]


@pytest.mark.parametrize("code", [SUBSCRIBE, UNSUBSCRIBE, PUBLISH])
async def test_unknown_topics_are_silent(code: int) -> None:
    """SUBSCRIBE, UNSUBSCRIBE and PUBLISH of what is not declared are answered with nothing at all."""
    async with serve(make()) as server:
        peer = await server.peer()
        await peer.send(code, "t:unknown", *([1] if code == PUBLISH else []))
        await peer.nothing()


async def test_an_event_published_before_a_call_returned_arrives_before_its_result() -> None:
    """What a procedure publishes reaches its own caller before the result."""
    app = make()
    app.topic("t:progress")

    @app.rpc("api:work")
    async def work() -> str:
        for step in range(3):
            await app.publish("t:progress", step)
        return "done"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:progress")
        await peer.send(CALL, "1", "api:work")
        received = [await peer.next() for _ in range(4)]
        topic = "http://example.com/topic/progress"
        assert received == [[EVENT, topic, 0], [EVENT, topic, 1], [EVENT, topic, 2], [RESULT, "1", "done"]]
