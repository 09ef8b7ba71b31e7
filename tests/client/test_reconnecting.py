"""Reconnecting: which ends are final, the delays, and subscriptions and prefixes put back."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from wampkit import ConnectionLost, HandshakeRefused, State, connect
from wampkit.client.dialer import reconnect_delay
from wampkit.testing import drop, no_event

from ..support.client_app import FAST
from ..support.foreign import Foreign
from ..support.logins import AUTH, AUTHREQ
from ..support.restartable import Restartable
from ..support.wire import eventually

# ---- reconnecting


async def test_a_dropped_wire_is_made_again_with_everything_put_back(server: Restartable) -> None:
    """After `drop` the client is open again with a new session, its prefixes, and each subscription once."""
    states: list[State] = []
    options: dict[str, Any] = {"prefixes": {"room": "http://example.com/chat/"}, "backoff": FAST}
    async with (
        connect(server.url, on_state=states.append, **options) as client,
        client.subscribe("room:a") as events,
    ):
        before = client.session_id
        await drop(client)
        await client.wait_for(State.OPEN, timeout=5)
        assert client.session_id not in ("", before)
        for number in range(3):
            await client.publish("room:a", number, exclude_me=False)
        assert [await events.get(timeout=5) for _ in range(3)] == [0, 1, 2]
        assert [topic.uri for topic in server.app.topics.values()] == ["http://example.com/chat/a"]
    assert states == [State.OPEN, State.RECONNECTING, State.OPEN, State.CLOSED]


async def test_a_server_that_comes_back_is_found_again(server: Restartable) -> None:
    """The server is stopped, stays away, and starts again on its port: the client is back, its subscription too."""
    options: dict[str, Any] = {"backoff": FAST, "restart_timeout": 0.05}
    async with connect(server.url, **options) as client, client.subscribe("chat:lobby") as events:
        await server.stop()
        await client.wait_for(State.RECONNECTING, timeout=5)
        with pytest.raises(ConnectionLost, match="reconnecting"):
            await client.call("calc:add", 1, 1)
        with pytest.raises(ConnectionLost):
            await client.publish("chat:lobby", 1)
        await server.start()
        await client.wait_for(State.OPEN, timeout=5)
        await server.app.publish("chat:lobby", "back")
        assert await events.get(timeout=5) == "back"
        assert await client.call("calc:add", 1, 1) == 2


async def test_calls_in_flight_fail_at_once(other: Foreign) -> None:
    """A lost wire fails every call that waits, rather than leaving it to hang."""
    async with connect(other.url, backoff=FAST) as client:
        calls = [asyncio.ensure_future(client.call("never")) for _ in range(3)]
        await eventually(lambda: len(other.sent(2)) == 3)
        await other.cut()
        failed = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [(type(each), getattr(each, "code", None)) for each in failed] == [(ConnectionLost, 1006)] * 3


async def test_each_attempt_asks_for_a_fresh_url_and_headers(server: Restartable) -> None:
    """A function for the URL and one for the headers, async or not, are asked before each attempt."""
    numbers = iter(range(1, 10))

    async def url() -> str:
        return f"{server.url}?n={next(numbers)}"

    tokens = iter("abcdef")
    async with connect(url, headers=lambda: {"X-Token": next(tokens)}, backoff=FAST) as client:
        told = await client.call("headers")
        assert (told["query"], told["token"]) == ("1", "a")
        await drop(client)
        await client.wait_for(State.OPEN, timeout=5)
        told = await client.call("headers")
        assert (told["query"], told["token"]) == ("2", "b")


@pytest.mark.parametrize("status", [400, 401, 403, 426])
async def test_a_refusal_while_reconnecting_is_final(other: Foreign, status: int) -> None:
    """A server that says no by 400, 401, 403 or 426 is not asked again."""
    async with connect(other.url, backoff=FAST) as client:
        other.refuse = status
        await drop(client)
        await client.wait_for(State.CLOSED, timeout=5)
        assert isinstance(client.error, HandshakeRefused)
        asked = len(other.handshakes)
    assert asked == 2


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
async def test_a_busy_server_is_asked_again(other: Foreign, status: int) -> None:
    """What a server answers while it is busy or not all there is no refusal: the client comes until it is let in."""
    async with connect(other.url, backoff=FAST) as client:
        other.refuse = status
        await drop(client)
        await eventually(lambda: len(other.handshakes) >= 4)
        other.refuse = None
        await client.wait_for(State.OPEN, timeout=5)


async def test_a_close_for_policy_is_final(other: Foreign) -> None:
    """Close code 1008 ends the client for good, with the server's reason in its error."""
    async with connect(other.url, backoff=FAST) as client:
        await other.sockets[0].close(code=1008, message=b"banned")
        await client.wait_for(State.CLOSED, timeout=5)
        assert client.error is not None
        assert (client.error.code, "banned" in client.error.reason) == (1008, True)
        with pytest.raises(ConnectionLost, match="banned"):
            await client.call("echo")


async def test_the_end_of_the_web_session_is_final(other: Foreign) -> None:
    """4401 would meet a dead cookie again, unless each attempt brings something fresh."""
    fresh: list[tuple[dict[str, Any], State]] = [
        ({}, State.CLOSED),
        ({"cookies": {"a": "b"}, "headers": {"X": "y"}, "anonymous": True}, State.CLOSED),
        ({"url": lambda: other.url}, State.OPEN),
        ({"headers": lambda: {"X": "y"}}, State.OPEN),
        ({"authkey": "ann", "secret": "s"}, State.OPEN),
    ]
    for options, state in fresh:
        other.answers = {AUTHREQ: [3, None if options.get("anonymous") else "{}"], AUTH: [3, None]}
        async with connect(options.pop("url", other.url), backoff=FAST, **options) as client:
            await other.sockets[-1].close(code=4401)
            await client.wait_for(State.RECONNECTING if state is State.OPEN else State.CLOSED, timeout=5)
            if state is State.OPEN:
                await client.wait_for(State.OPEN, timeout=5)


async def test_without_reconnect_a_lost_wire_closes(other: Foreign) -> None:
    """`reconnect=False` leaves a lost connection lost."""
    async with connect(other.url, reconnect=False) as client:
        await drop(client)
        await client.wait_for(State.CLOSED, timeout=5)
    assert len(other.handshakes) == 1


def test_delays_grow_and_are_spread() -> None:
    """A delay lies between 0 and a bound that doubles up to the longest, and no two crowds meet."""
    for attempt, bound in ((0, 0.1), (1, 0.2), (5, 3.2), (50, 30.0), (5000, 30.0)):
        delays = [reconnect_delay(attempt, (0.1, 30.0)) for _ in range(200)]
        assert all(0 <= delay <= bound for delay in delays)
        assert max(delays) - min(delays) > bound / 2


async def test_a_silent_server_is_cut(other: Foreign) -> None:
    """A server that answers no ping is given up, with the reason."""
    release = asyncio.Event()

    async def mute(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await release.wait()  # reads nothing, so no pong leaves

    other.script = mute
    async with connect(other.url, keepalive=0.1, reconnect=False) as client:
        await client.wait_for(State.CLOSED, timeout=5)
        assert client.error is not None
        assert "ping" in client.error.reason
        assert client.error.code == 1006
    release.set()


# ---- more of losing and finding the server


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
async def test_other_closes_are_followed_by_a_reconnect(other: Foreign, code: int) -> None:
    """A server that closes for any reason but policy is connected to again."""
    states: list[State] = []
    async with connect(other.url, backoff=FAST, on_state=states.append) as client:
        await other.sockets[0].close(code=code)
        await client.wait_for(State.RECONNECTING, timeout=5)
        await client.wait_for(State.OPEN, timeout=5)
    assert states == [State.OPEN, State.RECONNECTING, State.OPEN, State.CLOSED]


async def test_a_hundred_drops_leave_one_subscription(other: Foreign) -> None:
    """However often the wire is cut, each connection subscribes once and an event comes once."""
    async with connect(other.url, backoff=(0.001, 0.002)) as client, client.subscribe("t") as events:
        for _ in range(100):
            await drop(client)
            await client.wait_for(State.OPEN, timeout=5)
        await client.publish("t", "once")
        assert await events.get(timeout=5) == "once"
        await client.call("echo")
        await no_event(events, within=0.05)
    assert len(other.sent(5)) == len(other.handshakes) == 101


@pytest.mark.parametrize("welcomes", [False, True])
async def test_a_close_for_policy_during_a_reconnect_is_final(other: Foreign, welcomes: bool) -> None:
    """1008 is final before WELCOME and while subscriptions are put back, and its reason is kept."""

    async def expel(ws: web.WebSocketResponse) -> None:
        if welcomes:
            await ws.send_str('[0, "s", 1, "Other/1.0"]')
            await ws.receive()
        await ws.close(code=1008, message=b"banned")

    async with connect(other.url, backoff=FAST) as client, client.subscribe("t") as events:
        other.script = expel
        await drop(client)
        await client.wait_for(State.CLOSED, timeout=5)
        assert client.error is not None
        assert (client.error.code, "banned" in client.error.reason) == (1008, True)
        assert [event async for event in events] == []


async def test_waiting_for_what_never_comes_fails(other: Foreign) -> None:
    """`wait_for` raises when the client is closed for good, rather than waiting for ever."""
    client = await connect(other.url).open()
    waiting = asyncio.ensure_future(client.wait_for(State.RECONNECTING))
    await asyncio.sleep(0)
    await client.close()
    for waiter in (waiting, client.wait_for(State.OPEN)):
        with pytest.raises(ConnectionLost, match="closed"):
            await asyncio.wait_for(waiter, 5)


async def test_opening_may_be_tried_again(other: Foreign) -> None:
    """A client whose first connection failed keeps the reason, and can be opened once more."""
    other.refuse = 503
    client = connect(other.url)
    with pytest.raises(HandshakeRefused):
        await client.open()
    assert (client.state, isinstance(client.error, HandshakeRefused)) == (State.CLOSED, True)
    other.refuse = None
    async with client:
        assert await client.call("echo", 1) == [1]
        assert client.error is None


async def test_a_cancelled_close_leaves_nothing_open(other: Foreign) -> None:
    """`close` that is cancelled midway still closes: no task and no aiohttp session is left."""
    release = asyncio.Event()

    async def hang(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await release.wait()

    other.script = hang
    before = asyncio.all_tasks()
    client = await connect(other.url, close_timeout=0.2).open()
    closing = asyncio.ensure_future(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert client.state is State.CLOSED
    release.set()
    await eventually(lambda: asyncio.all_tasks() <= before, "no task of the client is left")
