"""Abuse, all at once: what one client does to the server must not be felt by the next."""

import asyncio
import gc
import json
import logging
import random
import time
from typing import Any

import pytest

from wampkit import App, Connection, Limits

from ..support.tables import table
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PREFIX,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Peer,
    Server,
    close,
    eventually,
    fds,
    frame,
    message,
    serve,
    sockets_of,
)

T = "http://example.com/topic/"
LAG = 50
"""How many times longer than a plain message no message of its size may hold up the loop; a quadratic search takes
thousands of times."""


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay/{name}", relay=True)
    app.topic("t:deep/{a}/x/{b}/x/{c:path}/end", relay=True)

    @app.rpc("echo")
    async def echo(*args: Any) -> list[Any]:
        return list(args)

    @app.rpc("proc/{a}/x/{b}/x/{c:path}/end")
    async def pattern(a: str, b: str, c: str) -> int:
        return len(a + b + c)

    @app.rpc("add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app


class Watch:
    """Measures for how much of the processor's time the loop was held up while the block ran."""

    async def __aenter__(self) -> "Watch":
        self.lag = 0.0
        # What the process of the tests holds besides is not the server's: `wampkit run` leaves out its own so, too.
        gc.collect()
        gc.freeze()
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def _run(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.lag, last = max(self.lag, now - last), now

    async def __aexit__(self, *error: Any) -> None:
        gc.unfreeze()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _well(neighbour: Peer, app: App) -> None:
    """The neighbour still calls and still receives what is published, in JSON."""
    assert await neighbour.result("add", 1, 2) == 3
    await app.publish("t:relay/well", "mark")
    await neighbour.find(lambda message: message == [EVENT, T + "relay/well", "mark"])


def _texts(seed: int, count: int) -> list[str]:
    """Broken, strange and correct messages."""
    pick = random.Random(seed)
    atoms: list[Any] = [
        None, True, False, 0, -1, 2, 7, 8, 9, 1.5, 2.0, 10**30, "", "echo", "add", "t:relay/well", "t:relay/b",
        "x" * 300, [], {}, [[]], {"a": [1]}, "\ud800", "\u0000", "__proto__", "http://", ":", "t:", "é",
    ]  # fmt: skip
    dirt = ["", "[", "]", ",", '"', "\\", "1e999", "NaN", "\\ud800", "\x00", "{"]
    texts = []
    for _ in range(count):
        elements = [pick.randrange(-1, 11), *[pick.choice(atoms) for _ in range(pick.randrange(0, 6))]]
        text = json.dumps(elements)
        for _ in range(pick.choice([0, 0, 0, 1, 1, 3])):
            at = pick.randrange(len(text) + 1)
            text = text[:at] + pick.choice(dirt) + text[at + 1 :]
        texts.append(text)
    return texts


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_ten_thousand_strange_messages_harm_nobody(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Broken, strange and random messages leave the connection, its neighbour and the register as they were."""
    app = make(malformed="ignore")
    async with serve(app) as server:
        neighbour = await server.peer()
        await neighbour.subscribe("t:relay/well")
        peer = await server.peer()
        before = len(asyncio.all_tasks())
        for text in _texts(seed, 3500):
            await peer.send_text(text.encode("utf-8", "replace").decode())
        assert await peer.result("echo", "alive") == ["alive"]
        await _well(neighbour, app)
        for uri in server.connection(peer).topics:
            await peer.send(UNSUBSCRIBE, uri)
        # A prefix that the peer may have defined for itself must not turn this into something else.
        await peer.send(CALL, "last", "echo")
        await peer.answer("last")
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
    assert "Traceback" not in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) < 100


@pytest.mark.parametrize("seed", [4, 5])
async def test_strange_messages_on_many_connections_leave_nothing(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Connections that end by one malformed message each leave no topic, no task and no traceback."""
    app = make()
    async with serve(app) as server:
        neighbour = await server.peer()
        await neighbour.subscribe("t:relay/well")
        texts = _texts(seed, 600)
        for start in range(0, len(texts), 4):
            peer = await server.raw()
            await peer.send_message(SUBSCRIBE, f"t:relay/{start}")
            await peer.send(b"".join(frame(1, text.encode("utf-8", "replace")) for text in texts[start : start + 4]))
            peer.close()
        await eventually(lambda: len(app.connections) == 1)
        assert list(app.topics) == [T + "relay/well"]
        await _well(neighbour, app)
    assert "Traceback" not in caplog.text


LONG = 500_000


CONTRIVED = {
    "uri": json.dumps([CALL, "1", "x" * LONG]),
    "colons": json.dumps([CALL, "1", ":" * LONG]),
    "call id": json.dumps([CALL, "x" * LONG, "echo"]),
    "pattern": json.dumps([CALL, "1", "proc/" + "a/x/" * (LONG // 4) + "end"]),
    "pattern x": json.dumps([CALL, "1", "proc/" + "x/" * (LONG // 2)]),
    "subscribe pattern": json.dumps([SUBSCRIBE, "t:deep/" + "a/x/" * (LONG // 4)]),
    "subscribe": json.dumps([SUBSCRIBE, "x" * LONG]),
    "publish": json.dumps([PUBLISH, "t:deep/" + "/x/" * (LONG // 3), 1]),
    "separators": json.dumps([UNSUBSCRIBE, "\u2028" * (LONG // 6)]),
    "prefix": json.dumps([PREFIX, "p" * LONG, "u" * LONG]),
    "keys": json.dumps([CALL, "1", "echo", {f"key {number}": number for number in range(30_000)}]),
    "lists": json.dumps([CALL, "1", "echo", [[] for _ in range(100_000)]]),
    "wrong arguments": json.dumps([CALL, "1", "add", ["x" * LONG, {"y": "z" * LONG}]]),
    "session ids": json.dumps([PUBLISH, "t:relay/a", 1, ["x"] * 50_000, ["y"] * 50_000]),
    "brackets in text": '[2,"1","echo","' + "[{" * (LONG // 2) + '"]',
    "escapes": '[2,"1","echo","' + '\\"' * (LONG // 2) + '"]',
    "surrogates": '[2,"1","echo","' + "\\ud800" * (LONG // 6) + '"]',
    "open lists": '[2,"1","echo",' + "[" * LONG,
    "open objects": '[2,"1","echo",' + '{"a":' * (LONG // 5),
    "integer": '[2,"1","echo",' + "9" * LONG + "]",
    "exponent": '[2,"1","echo",1e' + "9" * LONG + "]",
    "fraction": '[2,"1","echo",0.' + "1" * LONG + "]",
    "quotes": '"' * LONG,
    "backslashes": "\\" * LONG,
}
"""Messages of about half a megabyte, made to be searched, matched and refused at length."""


async def test_no_message_holds_up_the_loop() -> None:
    """However a half-megabyte message is made, reading, matching and refusing it is linear, and neighbours go on."""
    plain = max([await _held_up(json.dumps([CALL, "1", "echo", "x" * LONG])) for _ in range(3)])
    for row in table(CONTRIVED.items()):
        with row as (_, text):
            assert await _held_up(text) < LAG * plain


async def _held_up(text: str) -> float:
    """For how long a message holds up the loop of a server whose other client is well afterwards."""
    app = make(malformed="ignore")
    async with serve(app) as server:
        neighbour, peer = await server.peer(), await server.peer()
        await neighbour.subscribe("t:relay/well")
        async with Watch() as watch:
            await peer.send_text(text)
            await peer.send(CALL, "end", "echo")
            await peer.answer("end")
        await _well(neighbour, app)
    return watch.lag


@pytest.mark.parametrize(
    "value",
    [
        *["1e308", "-0", "0.1", "9007199254740993", "-9007199254740993", "1e-400", "1.7976931348623157e308"],
        *['"\\u0000"', '"\\u2028\\u2029"', "1" + "0" * 300],
    ],
)
async def test_extreme_but_legal_values_reach_everybody(value: str) -> None:
    """What is JSON and fits a double is delivered to subscribers and callers as JSON that means the same."""
    app = make()
    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:relay/a")
        await peer.send_text(f'[7,"{T}relay/a",{value}]')
        assert await other.events(1) == [json.loads(value)]
        await peer.send_text(f'[2,"1","echo",{value}]')
        assert await peer.answer("1") == [RESULT, "1", [json.loads(value)]]


@pytest.mark.parametrize(
    "place",
    [
        '[2,"\\ud800","echo"]',
        '[2,"1","\\udc00"]',
        '[5,"\\ud800"]',
        '[7,"t:relay/\\ud800",1]',
        '[1,"\\ud800","\\ud800"]',
        '[7,"t:relay/a",1,["\\ud800"]]',
    ],
)
async def test_lone_surrogates_break_nothing(place: str) -> None:
    """A lone surrogate in a call id, URI, prefix or session id never stops the server from answering anybody."""
    app = make()
    async with serve(app) as server:
        neighbour, peer = await server.peer(), await server.peer()
        await neighbour.subscribe("t:relay/well")
        await peer.send_text(place)
        if place.startswith("[2"):
            # Any answer that is JSON will do: the id cannot come back as it was.
            assert (await peer.next())[0] in (RESULT, ERROR)
        await _well(neighbour, app)
        await _well(neighbour, app)


async def test_subscribing_unsubscribing_and_leaving_in_a_race_leaves_nothing() -> None:
    """Thirty clients that subscribe, unsubscribe, publish and vanish at random leave an empty register."""
    app = make()
    topic = app.topic("t:hooked/{name}", relay=True)
    balance: dict[tuple[str, str], int] = {}

    @topic.on_subscribe
    async def joined(connection: Connection, name: str) -> None:
        await asyncio.sleep(0)
        balance[connection.id, name] = balance.get((connection.id, name), 0) + 1

    @topic.on_unsubscribe
    async def left(connection: Connection, name: str) -> None:
        await asyncio.sleep(0)
        balance[connection.id, name] -= 1

    async def client(server: Server, seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(8):
            peer = await server.raw()
            for _ in range(pick.randrange(1, 30)):
                code = pick.choice([SUBSCRIBE, SUBSCRIBE, UNSUBSCRIBE, PUBLISH])
                uri = f"t:{pick.choice(['hooked', 'relay'])}/{pick.randrange(4)}"
                await peer.send(message(code, uri, *([1] if code == PUBLISH else [])))
                if pick.random() < 0.2:
                    await asyncio.sleep(0)
            if pick.random() < 0.5:
                peer.reset()
            else:
                peer.close()

    async with serve(app) as server:
        await asyncio.gather(*[client(server, seed) for seed in range(30)])
        await eventually(lambda: len(app.connections) == 0)
        assert app.topics == {}
        assert not app.topics._registry._locks
        assert {key: count for key, count in balance.items() if count} == {}
        assert balance


async def test_churn_leaves_no_task_and_no_socket() -> None:
    """Five hundred clients that come, subscribe, call and go, politely or not, leave what was there before."""
    app = make()
    async with serve(app) as server:
        tasks, files = len(asyncio.all_tasks()), fds()
        for number in range(500):
            peer = await server.raw()
            await peer.send(message(SUBSCRIBE, "t:relay/a") + message(CALL, "1", "echo", number))
            match number % 4:
                case 0:
                    await peer.send(close())
                    await peer.read_to_end()
                    peer.close()
                case 1:
                    peer.reset()
                case 2:
                    peer.close()
                case 3:
                    await peer.read_message()
                    peer.close()
        await eventually(lambda: len(app.connections) == 0)
        await eventually(lambda: fds() <= files)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert sockets_of(server) == 0
        assert app.topics == {}


async def test_stalled_subscribers_cost_readers_nothing() -> None:
    """Ten stalled subscribers among readers are cut; every reader gets every event, in order."""
    app = make(limits=Limits(queue=100_000))
    ends: list[int | None] = []
    app.on_disconnect(lambda connection: ends.append(connection.close_code))
    async with serve(app) as server:
        for _ in range(10):
            stalled = await server.raw(rcvbuf=4096)
            await stalled.send_message(SUBSCRIBE, "t:relay/a")
        readers = [await server.peer() for _ in range(5)]
        for reader in readers:
            await reader.subscribe("t:relay/a")
        await eventually(lambda: len(app.topics[T + "relay/a"]) == 15)
        count = 0
        async with asyncio.timeout(30):
            while len(ends) < 10:
                await app.publish("t:relay/a", [count, "x" * 20_000])
                count += 1
                await asyncio.sleep(0)
        for reader in readers:
            assert [event[0] for event in await reader.events(count)] == list(range(count))
        assert ends == [4008] * 10
        assert len(app.topics[T + "relay/a"]) == 5


async def test_a_flood_of_calls_from_one_client_starves_nobody() -> None:
    """While thousands of calls of one client wait, another's are answered in between."""
    app = make()
    ran = 0
    total = 20_000

    @app.rpc("count")
    async def count() -> None:
        nonlocal ran
        ran += 1

    async with serve(app) as server:
        flooder, other = await server.raw(), await server.peer()
        data = b"".join(message(CALL, str(number), "count") for number in range(total))
        flood = asyncio.create_task(flooder.send(data))
        await eventually(lambda: ran)
        for number in range(20):
            assert await other.result("echo", number) == [number]
        assert ran < total / 2
        await flood
        for _ in range(total):
            assert (await flooder.read_message())[0] == RESULT
        assert ran == total
