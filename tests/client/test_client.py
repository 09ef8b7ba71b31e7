"""The client: calls, publishing, and a connection that is made again with everything put back."""

import asyncio
import gc
import json
import logging
import traceback
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wampkit import (
    AllowOrigins,
    App,
    CallError,
    Client,
    Connection,
    ConnectionLost,
    HandshakeRefused,
    State,
    WampError,
    connect,
)
from wampkit.client.dialer import reconnect_delay
from wampkit.testing import drop, no_event

from ..support.foreign import Foreign, foreign
from ..support.hostile import EXPECTED, ROWS, misbehave
from ..support.logins import AUTH, AUTHREQ
from ..support.restartable import Restartable, restartable
from ..support.wire import PATIENCE, eventually, serve

FAST = (0.01, 0.05)


def demo() -> App:
    app = App(
        prefixes={"calc": "http://example.com/calc#", "chat": "http://example.com/chat/"},
        middlewares=[AllowOrigins("https://example.com", allow_missing=True)],
    )

    @app.rpc("calc:add")
    async def add(x: float, y: float) -> float:
        return x + y

    @app.rpc("slow")
    async def slow(seconds: float, value: object) -> object:
        await asyncio.sleep(seconds)
        return value

    @app.rpc("fail")
    async def fail() -> None:
        raise WampError("calc:error", "it failed", {"code": 7})

    @app.rpc("headers")
    async def headers(conn: Connection) -> dict[str, Any]:
        request = conn.request
        return {
            "token": request.headers.get("X-Token"),
            "query": request.query.get("n"),
            "origin": request.headers.get("Origin"),
            "cookie": request.cookies.get("user"),
        }

    app.topic("chat:{room}", relay=True)
    return app


@pytest.fixture
async def server() -> AsyncIterator[Restartable]:
    async with restartable(demo()) as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[Foreign]:
    async with foreign() as server:
        yield server


# ---- what a user sees

CLIENT = (
    "call close error open permissions prefixes publish server_ident session_id set_prefix state subscribe wait_for"
)
SUBSCRIPTION = "accepted dropped get start stop topic uri"
STATE = "CLOSED CONNECTING OPEN RECONNECTING"


def test_an_editor_shows_what_is_for_the_user() -> None:
    """A client, a subscription and the states offer these names and no others."""
    client = connect("ws://127.0.0.1:1/")
    for shown, names in ((client, CLIENT), (client.subscribe("t"), SUBSCRIPTION)):
        assert [name for name in dir(shown) if not name.startswith("_")] == names.split()
    assert sorted(State.__members__) == STATE.split()


# ---- calls


async def test_a_call_returns_its_result(server: Restartable) -> None:
    """A call by CURIE of the client's prefixes, and one by CURIE that only the server knows, return their results."""
    async with connect(server.url, prefixes={"c": "http://example.com/calc#"}) as client:
        assert await client.call("c:add", 2, 3) == 5
        assert await client.call("calc:add", 2, 3) == 5


async def test_a_failed_call_raises_with_all_that_the_server_said(server: Restartable) -> None:
    """CALLERROR becomes `CallError` with the URI in full, the description and the details."""
    async with connect(server.url) as client:
        with pytest.raises(CallError) as failed:
            await client.call("fail")
    assert (failed.value.uri, failed.value.description, failed.value.details) == (
        "http://example.com/calc#error",
        "it failed",
        {"code": 7},
    )


async def test_many_calls_at_once_are_answered_in_any_order(server: Restartable) -> None:
    """A hundred calls share the connection; each gets its own answer though the first ends last."""
    async with connect(server.url) as client:
        first = asyncio.ensure_future(client.call("slow", 0.3, "first"))
        rest = await asyncio.gather(*(client.call("slow", 0, number) for number in range(100)))
        assert rest == list(range(100))
        assert not first.done()
        assert await first == "first"


async def test_a_call_without_an_answer_times_out(other: Foreign) -> None:
    """A timeout ends the waiting, the late answer harms nobody, and the connection goes on."""
    async with connect(other.url) as client:
        with pytest.raises(TimeoutError, match="never: no answer within 0.05 s"):
            await client.call("never", timeout=0.05)
        call_id = other.sent(2)[0][1]
        await other.sockets[0].send_str(json.dumps([3, call_id, "late"]))
        assert await client.call("echo", 1) == [1]


async def test_the_default_timeout_is_the_clients(other: Foreign) -> None:
    """`call_timeout` holds for calls that name none."""
    async with connect(other.url, call_timeout=0.05) as client:
        with pytest.raises(TimeoutError):
            await client.call("never")


async def test_a_cancelled_call_leaves_the_others_alone(other: Foreign) -> None:
    """Cancelling one of two calls does not reach the other."""
    async with connect(other.url) as client:
        doomed = asyncio.ensure_future(client.call("never"))
        await eventually(lambda: len(other.sent(2)) == 1)
        doomed.cancel()
        assert await client.call("echo", "still here") == ["still here"]
        with pytest.raises(asyncio.CancelledError):
            await doomed


async def test_arguments_that_json_cannot_carry_are_refused_here(server: Restartable) -> None:
    """A value that is no JSON raises at the caller, and nothing is sent."""
    async with connect(server.url) as client:
        with pytest.raises(TypeError):
            await client.call("calc:add", object(), 1)
        assert await client.call("calc:add", 1, 1) == 2


# ---- the handshake


async def test_headers_cookies_and_origin_reach_the_server(server: Restartable) -> None:
    """The handshake carries what `connect` was given."""
    options: dict[str, Any] = {"headers": {"X-Token": "t"}, "cookies": {"user": "ann"}, "origin": "https://example.com"}
    async with connect(server.url + "?n=1", **options) as client:
        told = await client.call("headers")
    assert told == {"token": "t", "query": "1", "origin": "https://example.com", "cookie": "ann"}


async def test_a_session_of_the_caller_is_used_and_left_open(server: Restartable) -> None:
    """An aiohttp session brings its cookies and outlives its clients; further ones add nothing to it."""
    async with aiohttp.ClientSession(cookies={"user": "bert"}) as session:
        for _ in range(2):
            async with connect(server.url, session=session) as client:
                assert (await client.call("headers"))["cookie"] == "bert"
        assert not session.closed
        assert len(session.trace_configs) == 1


async def test_the_first_connection_fails_at_once() -> None:
    """Where nobody listens, `open` raises and says so; it does not try again."""
    client = connect("ws://127.0.0.1:1/ws")
    with pytest.raises(ConnectionLost, match="127.0.0.1:1"):
        await client.open()
    assert client.state is State.CLOSED


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_a_refused_handshake_says_its_status(other: Foreign, status: int) -> None:
    """An HTTP error becomes `HandshakeRefused` with the status; for a path that is not there it asks for another."""
    other.refuse = status
    with pytest.raises(HandshakeRefused, match=f"HTTP {status}") as refused:
        await connect(other.url).open()
    assert refused.value.status == status
    assert ("another path" in str(refused.value)) == (status == 404)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://127.0.0.1/", "127.0.0.1:8080/ws"])
async def test_what_is_no_url_is_a_value_error(url: str) -> None:
    """A URL of another kind raises ValueError that says what to write."""
    with pytest.raises(ValueError, match="write ws://host:port/path"):
        await connect(url).open()


async def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever host it names: nothing is sent there, and the error says where the server wanted the client to go."""
    sent: list[tuple[str, Any]] = []
    wrong = []
    async with foreign() as elsewhere, foreign() as other, aiohttp.ClientSession() as theirs:
        here = other.url.removeprefix("ws://").rstrip("/")
        there = elsewhere.url.removeprefix("ws://").rstrip("/")
        rows = [(f"http://{there}/?token=x", there), (f"//{there}/", there), (f"ws://u:p@{there}/", there), ("/ws", "")]
        for status in (301, 302, 303, 307, 308):
            for location, host in rows:
                for session in (None, theirs):
                    other.answer = web.Response(status=status, headers={"Location": location})
                    client = connect(other.url, headers={"X-Api-Key": "SECRET"}, cookies={"a": "b"}, session=session)
                    with pytest.raises(HandshakeRefused) as refused:
                        await client.open()
                    sent.append((refused.value.reason, refused.value.status))
                    where = f"a redirect to '{host}'" if host else "a redirect to another path"
                    hint = "" if host else "; is the socket there, such as at /ws?"
                    expected = (
                        f"ws://{here}/: the server refused the handshake: HTTP {status}, {where}, which is not "
                        f"followed{hint}"
                    )
                    if (refused.value.reason, refused.value.status) != (expected, status):
                        wrong.append((status, location, refused.value.reason))
        other.answer = web.Response(status=302, headers={"Location": f"http://{there}/"})
        async with theirs.get(other.url.replace("ws", "http", 1)) as answer:
            assert str(answer.url.authority) == there  # other requests of that session are as they were
        del elsewhere.handshakes[-1]
        assert (wrong, elsewhere.handshakes) == ([], [])
    assert caplog.text == ""


async def test_a_failed_connection_is_a_short_error() -> None:
    """One exception says what was wrong, in the system's words, and none of those inside aiohttp is shown with it."""
    for url, reason in (("ws://127.0.0.1:1/ws", "Connection refused"), ("ws://nowhere.invalid/ws", "ws://nowhere")):
        with pytest.raises(ConnectionLost, match=reason) as lost:
            await connect(url).open()
        shown = "".join(traceback.format_exception(lost.value))
        assert shown.count("Traceback") == 1, shown


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


# ---- servers that misbehave


async def test_no_message_of_a_server_is_raised_where_nobody_catches(other: Foreign) -> None:
    """After any text a call is answered, or raises ConnectionLost and the client is closed; nothing else is raised."""
    other.script = misbehave
    wrong: list[tuple[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(("uncaught", context)))
    for row, (name, expected) in enumerate(EXPECTED):
        client = connect(f"{other.url}?row={row}", reconnect=False, prefixes={"a": "http://a/"})
        try:
            async with client, client.subscribe("t"):
                seen: Any = await client.call("echo", timeout=5)
        except ConnectionLost as lost:
            seen = lost.code if lost.code != 1007 else 1002  # what is no JSON at all
            if row < len(ROWS) and "the server broke WAMP v1" not in lost.reason:
                wrong.append((name, lost.reason))
        if seen != (expected[0] if expected[0] == "answered" else expected[1]):
            wrong.append((name, seen))
    gc.collect()
    await asyncio.sleep(0)
    assert wrong == []


async def test_binary_and_huge_messages_end_the_connection(other: Foreign) -> None:
    """A binary message, and one over `max_message_size`, are not taken."""
    frames: list[Any] = [b"\x00", '[3, "x", "' + "x" * 5000 + '"]']

    async def speak(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await ws.receive()
        frame = frames.pop()
        await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
        await ws.receive()

    other.script = speak
    for _ in range(2):
        async with connect(other.url, reconnect=False, max_message_size=1000) as client:
            with pytest.raises(ConnectionLost, match="broke"):
                await client.call("echo", timeout=5)


async def test_a_message_may_have_four_mebibytes(other: Foreign) -> None:
    """A larger one ends the connection, unless `max_message_size` is raised."""
    other.answers = {"large": [3, "x" * (5 << 20)]}
    async with connect(other.url, reconnect=False, max_message_size=6 << 20) as client:
        assert len(await client.call("large")) == 5 << 20
    async with connect(other.url, reconnect=False) as client:
        with pytest.raises(ConnectionLost, match="exceeds limit|too large|size"):
            await client.call("large")


@pytest.mark.parametrize("first", ['[8, "t", 1]', "hello", '[0, 1, 1, "x"]'])
async def test_what_does_not_welcome_is_no_server(other: Foreign, first: str) -> None:
    """A server whose first message is no WELCOME is refused with an error that says what it is not."""

    async def speak(ws: web.WebSocketResponse) -> None:
        await ws.send_str(first)
        await ws.receive()

    other.script = speak
    with pytest.raises(ConnectionLost, match="no WAMP v1 server"):
        await connect(other.url).open()


async def test_a_server_that_says_nothing_is_not_waited_for(other: Foreign) -> None:
    """Without WELCOME within `open_timeout` the attempt fails."""

    async def mute(ws: web.WebSocketResponse) -> None:
        await ws.receive()

    other.script = mute
    with pytest.raises(ConnectionLost, match="no WELCOME within 0.1 s"):
        await connect(other.url, open_timeout=0.1).open()


async def test_a_server_without_subprotocol_is_accepted() -> None:
    """wamp.io selects no subprotocol; if it welcomes, it is a WAMP v1 server."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str('[0, "s", 1]')
        message = json.loads((await ws.receive()).data)
        await ws.send_str(json.dumps([3, message[1], "yes"]))
        await ws.receive()
        return ws

    web_app = web.Application()
    web_app.router.add_get("/", handle)
    runner = web.AppRunner(web_app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    try:
        async with connect("ws://{}:{}/".format(*runner.addresses[0])) as client:
            assert await client.call("anything") == "yes"
    finally:
        await runner.cleanup()


# ---- the rest


async def test_publish_sends_the_shortest_form(other: Foreign) -> None:
    """What is not asked for is not sent, so that servers which know fewer forms understand."""
    async with connect(other.url) as client:
        await client.publish("t", 1)
        await client.publish("t", 2, exclude_me=True)
        await client.publish("t", 3, exclude=["a"])
        await client.publish("t", 4, exclude=["a"], eligible=["b"])
        await client.publish("t", 5, eligible=["b"])
        await client.publish("t", 6, exclude_me=False, eligible=[])
        await client.call("echo")
    assert other.sent(7) == [
        [7, "t", 1],
        [7, "t", 2, True],
        [7, "t", 3, ["a"]],
        [7, "t", 4, ["a"], ["b"]],
        [7, "t", 5, None, ["b"]],
        [7, "t", 6, False, []],
    ]


async def test_prefixes_can_be_added_later(server: Restartable) -> None:
    """`set_prefix` holds at once and after a reconnect."""
    async with connect(server.url, backoff=FAST) as client:
        await client.set_prefix("c", "http://example.com/calc#")
        assert await client.call("c:add", 1, 2) == 3
        await drop(client)
        await client.wait_for(State.OPEN, timeout=5)
        assert await client.call("c:add", 1, 2) == 3


async def test_open_and_close_without_async_with(server: Restartable) -> None:
    """`open` and `close` do what the block does; a closed client says that it is."""
    client: Client = await connect(server.url).open()
    assert client.state is State.OPEN
    assert client.server_ident == "wampkit"
    await client.close()
    await client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        await client.call("calc:add", 1, 1)


async def test_close_does_not_wait_for_a_server_that_hangs(other: Foreign) -> None:
    """A server that answers no close is left after `close_timeout`, each client's own."""
    release = asyncio.Event()

    async def hang(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await release.wait()

    other.script = hang
    patient = await connect(other.url, close_timeout=60).open()
    client = await connect(other.url, close_timeout=0.1).open()
    waits = asyncio.ensure_future(patient.close())
    await asyncio.sleep(0)
    await asyncio.wait_for(client.close(), PATIENCE)
    assert client.state is State.CLOSED
    assert not waits.done()
    release.set()
    await asyncio.wait_for(waits, PATIENCE)


async def test_a_failing_state_callback_harms_nothing(server: Restartable, caplog: pytest.LogCaptureFixture) -> None:
    """What `on_state` raises is logged and the client goes on."""

    def broken(state: State) -> None:
        raise RuntimeError("boom")

    async with connect(server.url, on_state=broken) as client:
        assert await client.call("calc:add", 1, 1) == 2
    assert "on_state failed" in caplog.text


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


# ---- more of what is sent


async def test_cookies_join_those_of_the_callers_session(other: Foreign) -> None:
    """Cookies given to `connect` are sent besides those in the jar of the caller's session, unchanged."""
    async with (
        aiohttp.ClientSession(cookies={"jar": "yes"}) as session,
        connect(other.url, session=session, cookies={"user": "ann", "odd": 'a b="c"'}),
    ):
        pass
    assert dict(other.handshakes[0].cookies) == {"jar": "yes", "user": "ann", "odd": 'a b="c"'}


async def test_one_session_id_is_no_list_of_them(other: Foreign) -> None:
    """A text where a list of session ids belongs is refused here: its letters are no ids."""
    async with connect(other.url) as client:
        for name in ("exclude", "eligible"):
            with pytest.raises(TypeError, match="a list of session ids"):
                await client.publish("t", 1, **{name: "abc"})


async def test_exclude_me_holds_beside_a_list(other: Foreign) -> None:
    """On the wire a list takes the place of `excludeMe`, so this client joins the list."""
    async with connect(other.url) as client:
        await client.publish("t", 1, exclude=["a"], exclude_me=True)
        await client.publish("t", 2, exclude=["a"], exclude_me=False)
        await client.call("echo")
        assert other.sent(7) == [[7, "t", 1, ["a", client.session_id]], [7, "t", 2, ["a"]]]


# ---- what other servers do


async def test_names_that_a_server_shortened_are_understood(other: Foreign) -> None:
    """The error URI of a CALLERROR and the topic of an EVENT may be CURIEs of the client's own prefixes."""
    other.answers = {"teapot": [4, "err:teapot", "short"], "full": [4, "http://err/full", "and stout"]}
    async with (
        connect(other.url, prefixes={"err": "http://err/", "t": "http://t/"}) as client,
        client.subscribe("http://t/a") as events,
    ):
        for procedure in ("teapot", "full"):
            with pytest.raises(CallError) as failed:
                await client.call(procedure)
            assert failed.value.uri == f"http://err/{procedure}"
        await other.sockets[0].send_json([1, "t", "http://theirs/"])
        await other.sockets[0].send_json([8, "t:a", 1])
        assert await events.get(timeout=5) == 1


async def test_a_server_without_welcome_is_spoken_to(other: Foreign) -> None:
    """As the League of Legends client: with `welcome=False` the client is open at once, and empty texts are nothing."""

    async def league(ws: web.WebSocketResponse) -> None:
        await ws.send_str("")
        async for frame in ws:
            if frame.data == '[5,"OnJsonApiEvent"]':
                await ws.send_str("")
                await ws.send_str('[8,"OnJsonApiEvent",{"data":1,"eventType":"Update","uri":"/lol"}]')

    other.script = league
    async with connect(other.url, welcome=False) as client, client.subscribe("OnJsonApiEvent") as events:
        assert (await events.get(timeout=5))["uri"] == "/lol"
        assert (client.session_id, client.server_ident, events.accepted) == ("", "", None)
    with pytest.raises(ConnectionLost, match="no WAMP v1 server"):
        await connect(other.url).open()


async def test_what_a_server_calls_itself_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A wampkit server that is called otherwise tells refusals, and another that is called wampkit is asked nothing."""
    app = App(ident="my shop")
    app.topic("open", relay=True)
    async with (
        serve(app) as server,
        connect(server.url) as client,
        client.subscribe("open") as taken,
        client.subscribe("nowhere") as refused,
    ):
        assert (taken.accepted, refused.accepted) == (True, False)
    async with foreign() as other:
        other.ident = "wampkit/9"
        async with connect(other.url) as client, client.subscribe("t") as events:
            assert (events.accepted, other.sent(2)) == (None, [])
