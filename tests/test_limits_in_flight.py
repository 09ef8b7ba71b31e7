"""The bounds of calls and topic messages that wait: the client is held back, memory stays bounded."""

import asyncio
import tracemalloc
from typing import Any

import pytest

from wampkit import App, Limits
from wampkit.connection.tasks import memory_of
from wampkit.protocol.messages import decode

from .support.limits import is_well, make
from .support.loops import on_each_loop
from .support.tables import rows
from .support.wire import CALL, PUBLISH, RESULT, eventually, frame, message, serve

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


# ---- memory of what waits


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
