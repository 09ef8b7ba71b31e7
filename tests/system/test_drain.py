"""A restart under load loses no call: what was begun is answered, what has no answer was not begun and is retried."""

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from wampkit import App, CallError, ConnectionLost, connect
from wampkit.protocol.extensions import RESTART

from ..support.command import command, free_port, write
from ..support.wire import CALL, ERROR, RESULT, Peer, eventually, serve

APP = """
import asyncio
import os
import time

from wampkit import App

app = App(ident="my shop")
log = open("begun.log", "a", buffering=1)


@app.rpc("work")
async def work(number: int, seconds: float) -> int:
    log.write(f"{number}\\n")
    await asyncio.sleep(seconds)
    return number


@app.rpc("block")
def block(number: int, seconds: float) -> int:
    log.write(f"{number}\\n")
    time.sleep(seconds)
    return number


@app.rpc("quick")
async def quick(number: int) -> int:
    log.write(f"{number}\\n")
    return number
"""


def begun(directory: Path) -> list[int]:
    """The numbers of the calls whose handlers ran, with repetitions."""
    return [int(line) for line in (directory / "begun.log").read_text().split()]


def arguments(number: int) -> list[Any]:
    """A call: of three kinds, the slower ones up to 100 ms."""
    seconds = random.Random(number).uniform(0.005, 0.1)
    return [["work", number, seconds], ["block", number, seconds], ["quick", number]][number % 3]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_what_was_begun_is_answered_before_1012(tmp_path: Path, loop: str) -> None:
    """On SIGTERM under load every call whose handler ran has its answer on the wire before the close frame."""
    write(tmp_path, app=APP)
    async with command("run", "app:app", "--port", "0", "--loop", loop, cwd=tmp_path) as server:
        url = await server.url()
        peers = [await Peer.open(url) for _ in range(20)]
        numbers = iter(range(1_000_000))

        async def load(peer: Peer) -> None:
            while True:
                for _ in range(5):
                    number = next(numbers)
                    procedure, *args = arguments(number)
                    await peer.send(CALL, str(number), procedure, *args)
                await asyncio.sleep(0.005)

        loads = [asyncio.create_task(load(peer)) for peer in peers]
        await eventually(lambda: (tmp_path / "begun.log").exists() and len(begun(tmp_path)) > 300)
        server.signal(signal.SIGTERM)
        assert [(await peer.closed())[0] for peer in peers] == [1012] * len(peers)
        assert await server.exit() == 0
        await asyncio.gather(*loads, return_exceptions=True)
    answered = [int(message[1]) for peer in peers for message in peer.rest() if message[0] == RESULT]
    for peer in peers:
        await peer.close()
    assert sorted(begun(tmp_path)) == sorted(answered)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_client_loses_no_call_in_restarts(tmp_path: Path, loop: str) -> None:
    """Clients that call all the time, through three restarts, get each answer, and nothing runs twice."""
    write(tmp_path, app=APP)
    port = str(free_port())
    stop = asyncio.Event()
    numbers = iter(range(1_000_000))
    asked: list[int] = []

    async def load(client: Any) -> None:
        while not stop.is_set():
            number = next(numbers)
            asked.append(number)
            assert await client.call(*arguments(number), timeout=20) == number

    clients: list[Any] = []
    loads: list[asyncio.Task[None]] = []
    for _ in range(3):
        async with command("run", "app:app", "--port", port, "--loop", loop, cwd=tmp_path) as server:
            url = await server.url()
            if not clients:
                clients = [await connect(url, backoff=(0.02, 0.2)).open() for _ in range(10)]
                loads = [asyncio.create_task(load(client)) for client in clients for _ in range(4)]
            before = len(asked)
            await eventually(lambda count=before: len(asked) > count + 200)
            server.signal(signal.SIGTERM)
            assert await server.exit() == 0
    async with command("run", "app:app", "--port", port, "--loop", loop, cwd=tmp_path) as server:
        await server.url()
        stop.set()
        await asyncio.gather(*loads)
        for client in clients:
            await client.close()
    assert sorted(begun(tmp_path)) == sorted(asked)


# ---- the client, against servers that end in one way or another


def slow_app(**options: Any) -> tuple[App, list[int], asyncio.Event]:
    """An app with a procedure that waits, the numbers of the calls that it began, and what ends the waiting."""
    app = App(**options)
    ran: list[int] = []
    gate = asyncio.Event()

    @app.rpc("wait")
    async def wait(number: int) -> int:
        ran.append(number)
        await gate.wait()
        return number

    return app, ran, gate


async def test_a_call_that_is_cut_off_at_the_deadline_is_told() -> None:
    """A call that was begun and takes too long for the drain has an error as its answer, before 1012."""
    app, ran, _ = slow_app()
    async with serve(app, drain=0.1) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wait", 1)
        await eventually(lambda: ran == [1])
        await server.runner.cleanup()
        answer = await peer.next()
        assert answer == [
            ERROR,
            "1",
            "http://api.wamp.ws/error#timeout",
            "the server stopped before the procedure ended",
        ]
        assert (await peer.closed())[0] == 1012


async def test_a_call_that_ran_is_not_made_again() -> None:
    """The client passes on the error of a call that was cut off, since it did run."""
    app, ran, _ = slow_app()
    async with serve(app, drain=0.1) as server, connect(server.url, backoff=(0.01, 0.05)) as client:
        call = asyncio.create_task(client.call("wait", 1))
        await eventually(lambda: ran == [1])
        await server.runner.cleanup()
        with pytest.raises(CallError, match="the server stopped"):
            await call
    assert ran == [1]


async def test_a_call_made_while_the_server_restarts_waits_for_it(tmp_path: Path) -> None:
    """After 1012 calls wait for the new server; a timeout and a cancellation hold while they wait."""
    write(tmp_path, app=APP)
    port = str(free_port())
    async with command("run", "app:app", "--port", port, cwd=tmp_path) as server:
        client = await connect(await server.url(), backoff=(0.02, 0.1)).open()
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0
    await client.wait_for(client.state.RECONNECTING, timeout=5)
    with pytest.raises(TimeoutError):
        await client.call("quick", 0, timeout=0.05)
    cancelled = asyncio.create_task(client.call("quick", 1))
    waiting = [asyncio.create_task(client.call("quick", number)) for number in range(2, 6)]
    await asyncio.sleep(0)
    cancelled.cancel()
    async with command("run", "app:app", "--port", port, cwd=tmp_path) as server:
        await server.url()
        assert await asyncio.gather(*waiting) == [2, 3, 4, 5]
        await client.close()
    assert begun(tmp_path) == [2, 3, 4, 5]


@pytest.mark.parametrize("how", ["off", "another reason", "drop", "no reconnect"])
async def test_without_the_promise_a_call_is_not_made_again(how: str) -> None:
    """Where retrying is off, or the server did not say that what has no answer has not run, a call fails at once."""
    app, ran, gate = slow_app()
    options: dict[str, Any] = {"restart_timeout": 0 if how == "off" else 30, "reconnect": how != "no reconnect"}
    async with serve(app) as server, connect(server.url, backoff=(0.01, 0.05), **options) as client:
        call = asyncio.create_task(client.call("wait", 1))
        await eventually(lambda: ran == [1])
        connection = next(iter(app.connections))
        if how == "drop":
            connection.hang_up(1012, "no word of it")
        else:
            connection.close(1012, "back soon" if how == "another reason" else RESTART)
        with pytest.raises(ConnectionLost):
            await call
        gate.set()
    assert ran == [1]


async def test_a_goodbye_without_a_closing_handshake(tmp_path: Path) -> None:
    """With goodbye="drop" a stop answers what was begun and ends the connection without a close frame."""
    app, ran, gate = slow_app(goodbye="drop")
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "wait", 1)
        await eventually(lambda: ran == [1])
        stopping = asyncio.create_task(server.runner.cleanup())
        gate.set()
        assert await peer.next() == [RESULT, "1", 1]
        assert (await peer.closed())[0] == 1006
        await stopping
