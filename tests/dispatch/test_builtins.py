"""A PUBLISH whose sender wants to know what became of it: the server's procedure, the client, the command."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from wampkit import (
    App,
    CallError,
    CallNext,
    Connection,
    ConnectionLost,
    Incoming,
    Limits,
    Publish,
    WampError,
    connect,
    requires,
)

from ..support.command import wampkit
from ..support.foreign import foreign
from ..support.restartable import restartable
from ..support.wire import ERROR, EVENT, PUBLISH, RESULT, eventually, serve

CONFIRM = "wampkit:publish"
INVALID = "http://api.wamp.ws/error#invalid-argument"
FORBIDDEN = "http://api.wamp.ws/error#not_authorized"
UNKNOWN = "http://api.wamp.ws/error#NoSuchRPCEndpoint"
GENERIC = "http://api.wamp.ws/error#generic"


async def moderated(message: Incoming, call_next: CallNext) -> Any:
    event = message.event if isinstance(message, Publish) else None
    if event == "swallow":
        return None
    if event == "swear":
        raise WampError("shop:error#language", "mind your language", {"word": 1})
    return await call_next(message)


def shop(**options: Any) -> App:
    """An app whose topics refuse in each of the ways that there are."""
    app = App(prefixes={"shop": "http://shop/"}, middlewares=[moderated], **options)
    app.topic("shop:open", relay=True)
    app.topic("shop:server")
    app.topic("shop:staff", relay=True, publish=requires("staff"))

    @app.topic("shop:number")
    async def number(event: int) -> int:
        return event

    @app.topic("shop:drops")
    async def drops(event: str) -> None:
        return None

    @app.topic("shop:broken")
    async def broken(event: str) -> None:
        raise RuntimeError("the password is hunter2")

    return app


# ---- the procedure


async def test_each_refusal_is_the_answer() -> None:
    """What a PUBLISH is refused for is answered as a call would be; what is not refused is answered with null."""
    rows: list[tuple[str, list[Any], list[Any]]] = [
        ("taken", ["shop:open", 1], [RESULT, None]),
        ("taken, in full", ["http://shop/open", 1], [RESULT, None]),
        ("taken by a handler", ["shop:number", 1], [RESULT, None]),
        ("dropped by a handler", ["shop:drops", "x"], [RESULT, None]),
        ("dropped by a middleware", ["shop:open", "swallow"], [RESULT, None]),
        ("for some", ["shop:open", 1, [], ["somebody"]], [RESULT, None]),
        ("unknown topic", ["shop:nowhere", 1], [ERROR, UNKNOWN, "no such topic"]),
        ("wrong type", ["shop:number", "x"], [ERROR, INVALID]),
        ("only the server", ["shop:server", 1], [ERROR, FORBIDDEN, "only the server publishes to this topic"]),
        ("a rule", ["shop:staff", 1], [ERROR, FORBIDDEN]),
        ("a middleware", ["shop:open", "swear"], [ERROR, "http://shop/error#language", "mind your language"]),
        ("too many ids", ["shop:open", 1, ["a", "b", "c"]], [ERROR, "http://api.wamp.ws/error#limit-exceeded"]),
        ("a failure", ["shop:broken", "x"], [ERROR, GENERIC, "the procedure failed"]),
        (
            "no list",
            ["shop:open", 1, "abc"],
            [ERROR, INVALID, "expected PUBLISH with a list of session ids as exclude"],
        ),
        ("too much", ["shop:open", 1, [], [], []], [ERROR, INVALID]),
        ("no event", ["shop:open"], [ERROR, INVALID]),
        ("no topic", [1, 1], [ERROR, INVALID]),
    ]
    wrong = []
    async with serve(shop(limits=Limits(session_ids=2))) as server:
        peer = await server.peer()
        for name, args, expected in rows:
            answer = await peer.call(CONFIRM, *args)
            if [answer[0], *answer[2:]][: len(expected)] != expected or "hunter2" in str(answer):
                wrong.append((name, answer))
        await peer.nothing()
    assert wrong == []


async def test_an_event_is_sent_once_and_before_the_answer() -> None:
    """The receivers get it as from a PUBLISH, after what the publisher sent before; the answer comes after that."""
    async with serve(shop()) as server:
        peer, reader = await server.peer(), await server.peer()
        for each in (peer, reader):
            await each.subscribe("shop:open")
        await peer.send(PUBLISH, "shop:open", "first", False)
        assert (await peer.call(CONFIRM, "shop:open", "second", False))[0] == RESULT
        await peer.send(PUBLISH, "shop:open", "third", False)
        assert [await peer.next() for _ in range(3)] == [
            [EVENT, "http://shop/open", event] for event in ("first", "second", "third")
        ]
        assert await reader.events(3) == ["first", "second", "third"]
        await peer.call(CONFIRM, "shop:open", "for the others")
        await peer.nothing()
        assert await reader.events(1) == ["for the others"]


async def test_the_answer_waits_for_the_handler_and_what_came_before() -> None:
    """It comes when the PUBLISH is done, not when it was taken in."""
    app, gate, order = App(), asyncio.Event(), []

    @app.topic("slow")
    async def slow(event: int) -> int:
        order.append(event)
        await gate.wait()
        return event

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(PUBLISH, "slow", 1)
        await peer.send(2, "c", CONFIRM, "slow", 2)
        await eventually(lambda: order == [1])
        assert peer.rest() == []
        gate.set()
        assert await peer.answer("c") == [RESULT, "c", None]
        assert order == [1, 2]


async def test_a_publisher_that_leaves_has_published() -> None:
    """As with PUBLISH: what was sent before the end counts, though nobody waits for the answer."""
    app, gate = App(), asyncio.Event()
    taken: list[Any] = []

    @app.topic("slow")
    async def slow(event: int) -> None:
        await gate.wait()
        taken.append(event)

    async with serve(app) as server:
        peer = await server.peer()
        for number in (1, 2):
            await peer.send(2, str(number), CONFIRM, "slow", number)
        await peer.send(2, "c", "wampkit:nothing")
        await peer.answer("c")
        await peer.close()
        gate.set()
        await eventually(lambda: taken == [1, 2])


async def test_a_failure_is_reported_once_and_names_the_topic(caplog: pytest.LogCaptureFixture) -> None:
    """The log has one traceback, with the topic, and `on_error` hears of it once."""
    app, heard = shop(), []

    @app.on_error
    async def failed(error: BaseException, connection: Connection) -> None:
        heard.append(error)

    async with serve(app) as server:
        peer = await server.peer()
        await peer.call(CONFIRM, "shop:broken", "x")
    assert [str(error) for error in heard] == ["the password is hunter2"]
    assert caplog.text.count("Traceback") == 1
    assert "http://shop/broken" in caplog.text


# ---- the client


async def test_the_client_raises_what_the_server_says() -> None:
    """With `confirm` a refusal is a `CallError`, and what is taken returns True, whatever the server calls itself."""
    async with serve(shop(ident="my shop")) as server, connect(server.url) as client:
        async with client.subscribe("shop:open") as events:
            assert await client.publish("shop:open", 1, exclude_me=False, confirm=True) is True
            assert await events.get(timeout=5) == 1
        assert await client.publish("shop:nowhere", 1) is False
        with pytest.raises(CallError) as refused:
            await client.publish("shop:open", "swear", confirm=True)
    error = refused.value
    assert (error.uri, error.description, error.details) == (
        "http://shop/error#language",
        "mind your language",
        {"word": 1},
    )


async def test_other_servers_are_not_asked() -> None:
    """A server that is not wampkit is sent a PUBLISH and nothing else, and `publish` says that it cannot know."""
    for ident in ("Other/1.0", "wampkit"):
        async with foreign() as other, connect(other.url) as client:
            other.ident = ident
            assert await client.publish("t", 1, eligible=["a"], confirm=True) is False
            await client.call("echo")
            assert (other.sent(7), len(other.sent(2))) == ([[7, "t", 1, None, ["a"]]], 1)


async def test_a_confirmation_has_a_timeout_and_ends_with_the_connection() -> None:
    """Nothing waits for an answer without bound."""
    app, gate = App(), asyncio.Event()

    @app.topic("slow")
    async def slow(event: int) -> None:
        await gate.wait()

    async with serve(app) as server, connect(server.url, reconnect=False) as client:
        with pytest.raises(TimeoutError, match="slow: no answer within 0.05 s"):
            await client.publish("slow", 1, confirm=True, timeout=0.05)
        waiting = asyncio.ensure_future(client.publish("slow", 2, confirm=True))
        await asyncio.sleep(0)
        next(iter(app.connections)).hang_up(1006, "gone")
        with pytest.raises(ConnectionLost):
            await waiting
        gate.set()


async def test_what_a_restart_left_unanswered_is_published_then() -> None:
    """A confirmed publish during a restart is made once, on the next connection, as a call is."""
    app, taken = App(), []

    @app.topic("t")
    async def take(event: int) -> None:
        taken.append(event)

    async with restartable(app) as server, connect(server.url, backoff=(0.01, 0.05)) as client:
        await server.stop()
        await client.wait_for(client.state.RECONNECTING, timeout=5)
        waiting = asyncio.ensure_future(client.publish("t", 1, confirm=True))
        await server.start()
        assert await asyncio.wait_for(waiting, 10) is True
    assert taken == [1]


# ---- the command


async def test_the_command_fails_where_the_server_refuses(tmp_path: Path) -> None:
    """`wampkit publish` exits with 1 and one line with the reason; with 0 where it was taken, or nobody can know."""
    async with serve(shop()) as server, foreign() as other:
        rows = [
            (server.url, "shop:open", "1", 0, ""),
            (server.url, "shop:server", "1", 1, f"{FORBIDDEN}: only the server publishes to this topic\n"),
            (server.url, "shop:nowhere", "1", 1, f"{UNKNOWN}: no such topic\n"),
            (server.url, "shop:number", '"x"', 1, f"{INVALID}: "),
            (other.url, "anything", "1", 0, ""),
        ]
        for url, topic, event, code, text in rows:
            result = await asyncio.to_thread(wampkit, "publish", url, topic, event, cwd=tmp_path)
            assert (result.returncode, result.stdout) == (code, ""), result
            assert result.stderr.startswith(text) if text else result.stderr == "", result
            assert result.stderr.count("\n") <= 1, result


# ---- empty lists


async def test_an_empty_list_of_eligible_sessions(caplog: pytest.LogCaptureFixture) -> None:
    """The two empty lists of each Gos PUBLISH restrict nothing with the option, else one line names it."""
    received = {}
    for option in ("nobody", "everybody"):
        app = App(empty_eligible=option)  # type: ignore[arg-type]  # each of the two
        app.topic("acme/channel", relay=True)
        async with serve(app) as server:
            pusher, page = await server.peer(), await server.peer()
            await page.subscribe("acme/channel")
            for _ in range(3):
                await pusher.send_text('[7,"acme\\/channel",{"a":1},[],[]]')
            await pusher.send_text('[7,"acme\\/channel",{"a":2},[]]')
            await pusher.settle()
            await page.settle()
            received[option] = [message[2]["a"] for message in page.rest()]
    assert received == {"nobody": [2], "everybody": [1, 1, 1, 2]}
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2  # at once, and at the end how many more there were
    assert all('App(empty_eligible="everybody")' in line for line in lines)


def test_another_word_for_empty_lists_is_refused() -> None:
    """The option is one of two words."""
    with pytest.raises(TypeError, match="empty_eligible is 'nobody' or 'everybody'"):
        App(empty_eligible="all")  # type: ignore[arg-type]
