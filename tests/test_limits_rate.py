"""Messages a second: what is beyond the rate is refused, dropped or closes the connection."""

import asyncio

import pytest

from wampkit.limits import TokenBucket

from .support.limits import is_well, make
from .support.wire import CALL, ERROR, PATIENCE, PREFIX, PUBLISH, RESULT, eventually, frame, serve

FLOOD = "http://api.wamp.ws/error#too-many-messages"


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
