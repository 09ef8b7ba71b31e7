"""Every bound: one below it, at it and beyond it, what the client learns, and that nobody else is harmed."""

import asyncio
import json
import tracemalloc
from typing import Any

import pytest

from wampkit import App, Connection, DeclarationError, Limits, connect
from wampkit.connection.tasks import memory_of
from wampkit.limits import TokenBucket
from wampkit.protocol.messages import decode

from .support.loops import on_each_loop
from .support.tables import rows
from .support.wire import (
    CALL,
    ERROR,
    PATIENCE,
    PREFIX,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    Server,
    eventually,
    frame,
    handshake,
    message,
    serve,
)

LIMIT = "http://api.wamp.ws/error#limit-exceeded"
FLOOD = "http://api.wamp.ws/error#too-many-messages"


def make(**limits: Any) -> App:
    """An app with a few procedures and topics, and these limits."""
    app = App(prefixes={"t": "http://x/"}, limits=Limits(**limits), keepalive=1)

    @app.rpc("echo")
    async def echo(value: object) -> object:
        return value

    @app.rpc("item/{name}")
    async def item(name: str) -> str:
        return name

    @app.rpc("count")
    async def count(conn: Connection) -> int:
        return len(conn.topics)

    app.topic("t:{name}", relay=True)
    return app


async def is_well(server: Server) -> bool:
    """Whether another client is served."""
    peer = await server.peer()
    return await peer.result("echo", "still here") == "still here"


# ---- the options


@rows(
    ("limits", "word"),
    [
        ({"message_size": 0}, "message_size"),
        ({"nesting": -1}, "nesting"),
        ({"calls": None}, "calls"),
        ({"queue": "1 MiB"}, "queue"),
        ({"connections": 0}, "connections"),
        ({"prefixes": True}, "prefixes"),
        ({"messages_per_second": 0}, "messages_per_second"),
        ({"messages_per_second": float("nan")}, "messages_per_second"),
        ({"burst": 5}, "burst"),
        ({"flood": "shout"}, "flood"),
        ({"slow_reader": "wait"}, "slow_reader"),
    ],
)
def test_a_limit_that_cannot_work_is_refused(limits: dict[str, Any], word: str) -> None:
    """A wrong limit is an error at once that names it."""
    with pytest.raises(DeclarationError, match=word):
        Limits(**limits)


def test_the_defaults_are_documented() -> None:
    """The table of docs/options.md has each limit with its default."""
    from dataclasses import fields

    from .support.pages import page

    table = page("docs/options.md").text
    for field in fields(Limits):
        default = "off" if field.default is None else f"`{json.dumps(field.default)}`"
        default = {
            "1052672": "1 MiB + 4 KiB",
            "1048576": "1 MiB",
            "8388608": "8 MiB",
            "32768": "32 KiB",
            "65536": "64 KiB",
        }.get(default.strip("`"), default)
        if field.name == "threads_per_connection":
            default = "a quarter of `threads`"
        if isinstance(field.default, int) and "iB" not in default:
            default = f"{field.default:,}"
        assert f"| `{field.name}` | {default} |" in table, f"{field.name}: {default}"


# ---- messages


async def test_by_default_one_mebibyte_of_argument_is_taken() -> None:
    """1 MiB and its envelope is answered, 1 MiB and 8 KiB closes with 1009."""
    async with serve(make()) as server:
        peer = await server.peer()
        assert len(await peer.result("echo", "x" * 2**20)) == 2**20
        await peer.send(CALL, "1", "echo", "x" * (2**20 + 8192))
        assert (await peer.closed())[0] == 1009


@pytest.mark.parametrize("nesting", [3, 10, 200])
async def test_nesting_is_bounded(nesting: int) -> None:
    """Lists and objects nest as deep as the limit says, and one level more closes with 1007."""
    async with serve(make(nesting=nesting)) as server:
        for depth in (nesting - 1, nesting):
            peer = await server.peer()
            await peer.send_text('[2,"1","echo",' + "[" * (depth - 1) + "]" * (depth - 1) + "]")
            assert (await peer.next())[:2] == [RESULT, "1"]
        await peer.send_text('[2,"2","echo",' + '{"a":' * nesting + "1" + "}" * nesting + "]")
        code, reason = await peer.closed()
        assert (code, reason) == (1007, f"nested deeper than {nesting} levels")
        assert await is_well(server)


async def test_a_uri_is_bounded_in_bytes_with_its_prefix_expanded() -> None:
    """A URI at the limit is looked up; one byte more is answered with limit_exceeded, and the connection goes on."""
    async with serve(make(uri_length=100)) as server:
        peer = await server.peer()
        for name in ("x" * 95, "\u00e9" * 47 + "x"):
            assert len(("item/" + name).encode()) == 100
            assert await peer.result("item/" + name) == name
            answer = await peer.call("item/" + name + "x")
            assert answer == [ERROR, answer[1], LIMIT, "the URI is longer than 100 bytes"]
        assert (await peer.call("y" * 101))[2] == LIMIT
        assert (await peer.call("y" * 100))[2] == "http://api.wamp.ws/error#NoSuchRPCEndpoint"
        assert (await peer.call("t:" + "z" * 94))[2] == LIMIT
        await peer.send(SUBSCRIBE, "t:" + "z" * 91)
        await peer.send(SUBSCRIBE, "t:" + "z" * 92)
        assert await peer.result("count") == 1


async def test_prefixes_are_bounded() -> None:
    """As many prefixes as the limit says, besides the app's own; one more closes with 1008, redefining does not."""
    async with serve(make(prefixes=3)) as server:
        peer = await server.peer()
        for number in range(3):
            await peer.send(PREFIX, f"p{number}", "http://x/")
        await peer.send(PREFIX, "p1", "ec")
        await peer.send(PREFIX, "t", "http://y/")
        assert await peer.result("p1:ho", 1) == 1
        await peer.send(PREFIX, "p3", "http://x/")
        assert await peer.closed() == (1008, "more than 3 prefixes")
        assert await is_well(server)


async def test_the_bytes_of_prefixes_are_bounded() -> None:
    """Names and URIs of a client's prefixes count together; what is replaced counts no more, the app's never."""
    async with serve(make(prefixes_size=100)) as server:
        peer = await server.peer()
        for number in range(9):
            await peer.send(PREFIX, "p1", "x" * (90 + number))
        await peer.send(PREFIX, "p1", "\u00e9" * 40)  # 80 bytes
        await peer.send(PREFIX, "t", "")
        await peer.send(PREFIX, "p2", "y" * 15)
        assert await peer.result("echo", 1) == 1
        await peer.send(PREFIX, "p3", "")
        assert await peer.closed() == (1008, "more than 100 bytes of prefixes and their URIs")
        assert await is_well(server)


@pytest.mark.parametrize("prefix", [["p" * 51, "http://x/"], ["p", "u" * 51]])
async def test_a_prefix_is_as_short_as_a_uri(prefix: list[str]) -> None:
    """A prefix, and what it stands for, is no longer than a URI may be."""
    async with serve(make(uri_length=50)) as server:
        peer = await server.peer()
        await peer.send(PREFIX, *[text[:50] for text in prefix])
        assert await peer.result("echo", 1) == 1
        await peer.send(PREFIX, *prefix)
        assert await peer.closed() == (1008, "a prefix or its URI is longer than 50 bytes")


async def test_subscriptions_are_bounded() -> None:
    """Subscriptions beyond the limit are refused, and a place that is given back can be taken again."""
    app = make(subscriptions=3)
    async with serve(app) as server:
        peer = await server.peer()
        for number in range(5):
            await peer.send(SUBSCRIBE, f"t:{number}")
        assert await peer.result("count") == 3
        assert app.counters.over_limit == 2
        assert await peer.result("wampkit:subscription", "t:3") is None
        await peer.send(6, "t:0")
        await peer.send(SUBSCRIBE, "t:4")
        assert await peer.result("wampkit:subscription", "t:4") == "http://x/4"
        assert await is_well(server)


async def test_the_bytes_of_subscribed_uris_are_bounded() -> None:
    """Subscriptions whose URIs take more bytes than the limit are refused, and what is given back can be used again."""
    app = make(subscriptions_size=30)
    async with serve(app) as server:
        peer = await server.peer()
        for name in (
            "a" * 5,
            "b" * 5,
            "c" * 5,
            "\u00e9" * 4,
            "",
        ):  # with http://x/ in front: 14, 14, 14, 17 and 9 bytes
            await peer.send(SUBSCRIBE, f"t:{name}")
        assert await peer.result("count") == 2
        assert app.counters.over_limit == 2
        await peer.send(6, "t:bbbbb")
        await peer.send(SUBSCRIBE, "t:cccccc")
        assert await peer.result("wampkit:subscription", "t:cccccc") == "http://x/cccccc"
        assert await is_well(server)


async def test_the_client_learns_that_a_subscription_was_refused() -> None:
    """wampkit's own client knows that its subscription does not stand."""
    async with (
        serve(make(subscriptions=1)) as server,
        connect(server.url) as client,
        client.subscribe("t:1") as one,
        client.subscribe("t:2") as two,
    ):
        assert (one.accepted, two.accepted) == (True, False)


# ---- calls in flight


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_calls_in_flight_are_bounded_and_none_is_lost(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many calls under way as may be, reading pauses; each call is answered in the end, in time for others."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app = make(calls=10)
    gate = asyncio.Event()
    running: set[int] = set()
    most = 0

    @app.rpc("wait")
    async def wait(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        await gate.wait()
        running.discard(number)
        return number

    async with serve(app) as server:
        peer = await server.peer()
        for number in range(200):
            await peer.send(CALL, str(number), "wait", number)
        await eventually(lambda: len(running) == 10)
        assert await is_well(server)
        assert len(running) == 10
        gate.set()
        answers = [await peer.next() for _ in range(200)]
        assert sorted(answer[2] for answer in answers) == list(range(200))
        assert most == 10


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_a_flood_of_topic_messages_waits_in_the_wire(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing to a slow handler pauses reading too, keeps the order and loses nothing."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app = make(calls=5)
    gate = asyncio.Event()
    got: list[int] = []

    @app.topic("slow")
    async def slow(event: int) -> None:
        await gate.wait()
        got.append(event)

    async with serve(app) as server:
        peer = await server.peer()
        for number in range(100):
            await peer.send(PUBLISH, "slow", number)
        await eventually(lambda: server.connection(peer).tasks.full)
        assert await is_well(server)
        gate.set()
        assert await peer.result("echo", "after") == "after"
        await eventually(lambda: len(got) == 100)
        assert got == list(range(100))


@pytest.mark.parametrize("reader", ["direct", "queued"])
async def test_a_client_that_waits_for_its_turn_is_not_cut(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepalive does not hold it against a client that nobody reads its pongs."""
    monkeypatch.setenv("WAMPKIT_READER", reader)
    app = make(calls=1)
    app.keepalive = 0.1
    gate = asyncio.Event()

    @app.rpc("wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wait")
        await peer.send(CALL, "2", "echo", 1)
        end = asyncio.get_running_loop().time() + 0.5
        await eventually(lambda: asyncio.get_running_loop().time() > end)
        gate.set()
        assert await peer.next() == [RESULT, "1", "done"]
        assert await peer.next() == [RESULT, "2", 1]


async def test_a_client_that_is_held_back_and_vanishes_is_noticed() -> None:
    """A reset connection is noticed although nobody reads from it, and its calls are cancelled."""
    app = make(calls=2)
    app.keepalive = 0.2
    cancelled: list[int] = []

    @app.rpc("hang")
    async def hang(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(number)

    async with serve(app) as server:
        peer = await server.raw()
        for number in range(4):
            await peer.send_message(CALL, str(number), "hang", number)
        await eventually(lambda: server.connection(peer).tasks.full)
        peer.reset()
        await eventually(lambda: len(app.connections) == 0)
        assert sorted(cancelled)[:2] == [0, 1]


# ---- messages a second


async def test_calls_beyond_the_rate_get_their_own_error() -> None:
    """A burst passes, the next call is answered with too_many_messages, and time gives messages back."""
    app = make(messages_per_second=1, burst=5)
    async with serve(app) as server:
        peer = await server.peer()
        answers = [await peer.call("echo", number) for number in range(5)]
        assert all(answer[0] == RESULT for answer in answers)
        refused = await peer.call("echo", 6)
        assert refused == [ERROR, refused[1], FLOOD, "more than 1 messages a second"]
        assert app.counters.over_limit >= 1
        async with asyncio.timeout(PATIENCE):
            while (await peer.call("echo", 7))[0] == ERROR:
                pass
        assert await is_well(server)


async def test_what_was_spent_comes_back_at_the_rate() -> None:
    """Whether anything may pass can be asked without taking it, and is true again once the rate has given it back."""
    slow, fast = TokenBucket(1e-6, 1), TokenBucket(1000, 1)
    assert (slow.spent, slow.take(), fast.take()) == (False, True, True)
    await eventually(lambda: not fast.spent)
    assert fast.take()
    assert (slow.spent, slow.take()) == (True, False)


async def test_topic_messages_beyond_the_rate_are_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A PUBLISH has no answer in WAMP v1: the log has it, and the connection goes on."""
    app = make(messages_per_second=0.001, burst=3)
    async with serve(app) as server:
        watcher, peer = await server.peer(), await server.peer()
        await watcher.subscribe("t:a")
        for number in range(10):
            await peer.send(PUBLISH, "t:a", number)
        assert [(await watcher.next())[2] for _ in range(3)] == [0, 1, 2]
        await eventually(lambda: app.counters.over_limit == 7)
        assert not server.connection(peer).closed
    assert "PUBLISH 'http://x/a' dropped: more than 0.001 messages a second" in caplog.text


async def test_a_flood_can_close_the_connection() -> None:
    """With flood="close" the first message too many closes with 1008."""
    async with serve(make(messages_per_second=0.001, burst=2, flood="close")) as server:
        peer = await server.peer()
        for number in range(2):
            assert await peer.result("echo", number) == number
        await peer.send(CALL, "x", "echo", 1)
        assert await peer.closed() == (1008, "more than 0.001 messages a second")
        assert await is_well(server)


async def test_everything_that_is_sent_counts_against_the_rate() -> None:
    """Malformed, binary and control frames are counted too, each beyond the rate is refused, and no connection ends."""
    wrong = {}
    for name, opcode, payload in (
        ("malformed", 1, b"[["),
        ("binary", 2, b"x"),
        ("ping", 9, b"x"),
        ("pong", 10, b"x"),
        ("prefix", 1, b'[1,"p","http://x/"]'),
        ("unknown type", 1, b"[" + b"9" * 400 + b"]"),
    ):
        app = make(messages_per_second=0.001, burst=3)
        app.malformed = "ignore"
        async with serve(app) as server:
            peer = await server.raw()
            await peer.send(frame(opcode, payload) * 10)
            await eventually(lambda app=app: app.counters.over_limit >= 7)  # type: ignore[misc]
            if app.counters.over_limit != 7 or server.connection(peer).closed or app.counters.malformed > 3:
                wrong[name] = app.counters
    assert wrong == {}


async def test_a_flood_of_any_kind_can_close_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """With flood="close" the first frame too many closes with 1008, whatever it is, and the log says that alone."""
    wrong = {}
    for opcode in (1, 2, 9, 10):
        app = make(messages_per_second=0.001, burst=2, flood="close")
        app.malformed = "ignore"
        async with serve(app) as server:
            peer = await server.raw()
            await peer.send(frame(opcode, b"x") * 3)
            if (end := await peer.read_close()) != (1008, "more than 0.001 messages a second"):
                wrong[opcode] = end
    assert wrong == {}
    assert caplog.text.count("closed: more than 0.001 messages a second") == 4
    assert "dropped" not in caplog.text


async def test_the_rate_of_pings_is_not_that_of_messages() -> None:
    """A client that has used up its messages still has its pings answered, and answers to the server's are free."""
    app = make(messages_per_second=0.001, burst=2)
    app.keepalive = 0.1
    async with serve(app) as server:
        peer, chatty = await server.peer(), await server.raw()
        for number in range(5):
            await chatty.send_message(CALL, str(number), "echo", number)
        await chatty.send_frame(9, b"still there?")
        frames = [await chatty.read_frame() for _ in range(6)]
        assert (10, b"still there?") in frames
        await eventually(lambda: peer.pings > 5)
        assert not server.connection(peer).closed


async def test_what_is_beyond_the_rate_is_refused_by_its_head() -> None:
    """A call too many is answered without a look at what follows its name, and a PREFIX too many has no effect."""
    app = make(messages_per_second=0.001, burst=2)
    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("echo", 1) == 1
        assert await peer.result("echo", 2) == 2
        await peer.send(PREFIX, "mine", "http://x/")
        await peer.send_text(' [ 2 , "an \\u0069d" , "echo" , ' + "[" * 100_000)
        assert await peer.next() == [ERROR, "an id", FLOOD, "more than 0.001 messages a second"]
        assert app.counters.over_limit == 2
        assert app.counters.malformed == 0
        assert dict(server.connection(peer).protocol.prefixes) == {"t": "http://x/"}


async def test_compressed_messages_beyond_the_rate_are_not_even_inflated() -> None:
    """Where messages may be compressed, what is beyond the rate is read as slowly as the rate allows."""
    app = make(messages_per_second=1)
    app.compression = True
    async with serve(app) as server:
        peer, other = await server.peer(compress=15), await server.peer()
        assert peer.socket.compress
        for _ in range(40):
            await peer.send(PUBLISH, "t:a", "x" * 1_000_000)
        await eventually(lambda: app.counters.over_limit > 0)
        refused = [(await other.call("echo", number))[0] for number in range(50)].count(ERROR)
        assert app.counters.over_limit - refused < 5
        await peer.reset()


# ---- connections


async def test_connections_in_all_are_bounded() -> None:
    """One connection too many is refused with 503, and a place that becomes free can be taken."""
    app = make(connections=2)
    async with serve(app) as server:
        first, second = await server.peer(), await server.peer()
        refused = await server.ask(handshake())
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refused
        assert app.counters.refused == 1
        await first.close()
        await eventually(lambda: len(app.connections) == 1)
        assert await (await server.peer()).result("echo", 1) == 1
        assert await second.result("echo", 2) == 2


async def test_connections_of_one_address_are_bounded() -> None:
    """One connection too many from an address is refused with 429; other addresses are let in."""
    async with serve(make(connections_per_address=2)) as server:
        peers = [await server.peer(), await server.peer()]
        assert (await server.ask(handshake())).startswith(b"HTTP/1.1 429 ")
        other = await server.raw(source="127.0.0.2")
        await other.send_message(CALL, "1", "echo", 1)
        assert await other.read_message() == [RESULT, "1", 1]
        assert [await peer.result("echo", 1) for peer in peers] == [1, 1]


async def test_the_headers_of_a_handshake_are_bounded() -> None:
    """URL and headers up to the limit are taken; a byte more is answered with 431, whether in one header or many."""
    app = make(handshake_size=2000)
    async with serve(app) as server:
        base = handshake("/ws")
        size = len(base.partition(b" ")[2]) - len(" HTTP/1.1\r\n")  # without the method
        lines = base.count(b"\r\n") - 2
        size -= 4 * lines + 2  # each line's colon, space and end, and the last empty one
        spare = 2000 - size - 2
        assert (await server.ask(handshake("/ws", "X: " + "x" * (spare + 1)))).startswith(b"HTTP/1.1 101 ")
        for more in (["X: " + "x" * (spare + 2)], [f"X{number:02}: {'x' * 20}" for number in range(90)]):
            assert (await server.ask(handshake("/ws", *more))).startswith(b"HTTP/1.1 431 "), more
        assert (await server.ask(handshake("/ws?" + "x" * 2000))).startswith(b"HTTP/1.1 431 ")
        assert await is_well(server)


async def test_one_address_is_one_however_it_is_written() -> None:
    """Addresses of one IPv6 /64, and an IPv4 address in both its forms, share their places; others have their own."""
    refused = []
    for first, second, same in (
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("203.0.113.7", "203.0.113.8", False),
    ):
        app = App(limits=Limits(connections_per_address=1), trusted_proxies=["127.0.0.1"])
        async with serve(app) as server:
            await server.peer(headers={"X-Forwarded-For": first})
            peer = await server.tcp()
            await peer.send(handshake(server.path, f"X-Forwarded-For: {second}"))
            if (await peer.read_head()).startswith(b"HTTP/1.1 429 ") is not same:
                refused.append((first, second))
    assert refused == []


async def test_a_refused_handshake_gives_its_place_back() -> None:
    """A handshake that a middleware refuses, or that is none, does not count any more."""
    app = make(connections=1, connections_per_address=1)
    async with serve(app) as server:
        for _ in range(3):
            assert (await server.ask(handshake(protocol="other"))).startswith(b"HTTP/1.1 400 ")
        assert await (await server.peer()).result("echo", 1) == 1


async def test_large_messages_that_wait_are_bounded_by_their_size() -> None:
    """Publishing large events to a slow handler pauses reading by their bytes, before there are too many."""
    app = make(calls_size=1_000_000)
    gate = asyncio.Event()
    got: list[int] = []

    @app.topic("slow")
    async def slow(event: str) -> None:
        await gate.wait()
        got.append(len(event))

    async with serve(app) as server:
        peer = await server.raw()
        events = b"".join(message(PUBLISH, "slow", "x" * 100_000) for _ in range(60))
        sending = asyncio.create_task(peer.send(events))
        await eventually(lambda: server.connection(peer).tasks.full)
        assert await is_well(server)
        waiting = server.connection(peer).tasks._queue
        assert waiting is not None
        assert len(waiting) <= 14
        gate.set()
        await sending
        await eventually(lambda: len(got) == 60)
    assert set(got) == {100_000}


DENSE = {
    "lists": b"[],",
    "lists in lists": b"[" * 50 + b"]" * 50 + b",",
    "objects": b'{"":0},',
    "objects in objects": b'{"":' * 50 + b"0" + b"}" * 50 + b",",
    "numbers": b"1.5,",
    "short texts": '"a\u00e9",'.encode(),
    "keys": b'{"a1":0,"a2":0,"a3":0,"a4":0,"a5":0,"a6":0,"a7":0},',
    "records": b'{"id":17,"name":"Ann Smith","tags":["a","b"],"x":1.5},',
    "a wide text": b'"' + b"a" * 40_000 + b'\\ud83d\\ude00",',
}
"""What takes much more memory than its text does."""


def _memory_taken(text: bytes) -> int:
    tracemalloc.start()
    message = decode(text)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del message
    return taken


def test_what_a_message_takes_in_memory_is_estimated() -> None:
    """The estimate is never much below what the values take, and for plain text it is its length."""
    wrong = []
    for name, item in DENSE.items():
        text = b'[2,"1","hang",' + item * (100_000 // len(item)) + b"0]"
        taken = _memory_taken(text)
        if not taken < memory_of(text) < 10 * taken:
            wrong.append(f"{name}: {memory_of(text)} for {taken}")
    assert not wrong
    assert memory_of(b'[7,"topic","' + b"x" * 100_000 + b'"]') < 100_500


@rows("kind", DENSE)
async def test_calls_that_wait_are_bounded_by_what_they_take_in_memory(kind: str) -> None:
    """Reading pauses when the values of the messages that wait take too much, however short their texts are."""
    app = make(calls_size=1_000_000)
    gate = asyncio.Event()

    @app.rpc("hang")
    async def hang(*args: Any) -> None:
        await gate.wait()

    @app.topic("hang")
    async def hanging(event: Any) -> None:
        await gate.wait()

    item = DENSE[kind]
    values = item * (40_000 // len(item) + 1)
    call = frame(1, b'[2,"1","hang",' + values + b"0]")
    publish = frame(1, b'[7,"hang",[' + values + b"0]]")
    taken = _memory_taken(b'[2,"1","hang",' + values + b"0]")
    for data in (call, publish):
        gate.clear()
        async with serve(app) as server:
            peer = await server.raw()
            most = 1_000_000 // taken + 2
            sending = asyncio.create_task(peer.send(data * 26))
            await eventually(lambda: server.connection(peer).tasks.full)  # noqa: B023
            tasks = server.connection(peer).tasks
            assert len(tasks._calls) + len(tasks._queue or ()) <= most
            assert await is_well(server)
            gate.set()
            await sending
            await eventually(lambda: not server.connection(peer).tasks.busy)  # noqa: B023
            assert not tasks.full
            assert tasks._bytes == 0


@pytest.mark.parametrize("reader", ["direct", "queued"])
@on_each_loop
async def test_a_client_that_is_lost_behind_calls_that_never_end_leaves_nothing(reader: str) -> None:
    """Its end is seen though as much as may be is under way by the time that what it sent has been read."""
    app = App(limits=Limits(calls=100))
    began = asyncio.Event()

    @app.rpc("wait")
    async def wait() -> None:
        began.set()
        await asyncio.Event().wait()

    @app.rpc("answer")
    async def answer() -> None: ...

    # The answer cannot be written, which tells of the loss while most of the calls still wait to be taken.
    procedures = ["wait"] * 60 + ["answer"] + ["wait"] * 139
    calls = b"".join(message(CALL, str(number), each) for number, each in enumerate(procedures))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAMPKIT_READER", reader)
        async with serve(app) as server:
            peer = await server.raw()
            await peer.send(calls)
            await began.wait()
            peer.reset()
            await eventually(lambda: not app.connections)
