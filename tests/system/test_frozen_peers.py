"""Clients whose process is frozen: those that thaw in time lose nothing, the others are cut."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wampkit import Connection

from ..support.command import environment
from ..support.stalled import T, make
from ..support.wire import Peer, Server, eventually, serve

CLIENT = """
import asyncio, json, sys
from tests.support.wire import SUBSCRIBE, RawPeer

async def main():
    peer = await RawPeer.open(int(sys.argv[1]))
    await peer.send_message(SUBSCRIBE, "news")
    try:
        while True:
            opcode, payload = await peer.read_frame()
            if opcode == 9:
                await peer.send_frame(10, payload)
            else:
                print(json.loads(payload)[2][0], flush=True)
    except (EOFError, ConnectionError):
        print("ended", flush=True)

asyncio.run(main())
"""


class Frozen:
    """A client in a process of its own, that can be stopped and made to go on; it prints what it receives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdout is not None
        self._out = process.stdout

    async def line(self) -> str:
        """The next line that it prints."""
        return (await asyncio.wait_for(self._out.readline(), 10)).decode().strip()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def freezable(server: Server) -> AsyncIterator[Frozen]:
    """A client that has subscribed and received event 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, str(server.port)),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=Path(__file__).parents[2],
    )
    try:
        client = Frozen(process)
        await eventually(lambda: server.app.topics, "it has subscribed", timeout=20)
        await server.app.publish(T, [0])
        assert await client.line() == "0"
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            process.kill()
        await process.wait()


async def test_a_frozen_client_that_thaws_in_time_loses_nothing() -> None:
    """A client that stands still, though a ping comes, and goes on before its pong is late, gets every event."""
    app, ends = make(keepalive=1.0)
    arrived = asyncio.Event()

    @app.on_connect
    async def came(connection: Connection) -> None:
        arrived.set()

    async with serve(app) as server:

        async def come_next() -> Peer:
            await arrived.wait()
            return await server.peer()

        coming = asyncio.create_task(come_next())
        async with freezable(server) as client:
            witness = await coming
            assert witness.pings == 0
            client.freeze()
            count = 1
            # Who came right after it is pinged no earlier than it is. Then half of its time for the pong goes by.
            late = 0
            while not witness.pings or late < 20:
                await app.publish(T, [count, "x" * 1000])
                count += 1
                late += bool(witness.pings)
                await asyncio.sleep(0.01)
            client.thaw()
            assert count > 40
            assert [await client.line() for _ in range(1, count)] == [str(number) for number in range(1, count)]
            pings = witness.pings
            await eventually(lambda: witness.pings > pings)
            assert ends.seen == {}


async def test_a_frozen_client_that_thaws_too_late_is_cut_cleanly() -> None:
    """A client that stands still for too long is cut; when it goes on it sees the first of the events, and the end."""
    app, ends = make(keepalive=0.4)
    async with serve(app) as server, freezable(server) as client:
        client.freeze()
        count = 1
        async with asyncio.timeout(20):
            while not ends.seen:
                await app.publish(T, [count, "x" * 1000])
                count += 1
                await asyncio.sleep(0.002)
        assert ends.codes == [1006]
        client.thaw()
        lines = []
        while (line := await client.line()) != "ended":
            lines.append(line)
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        assert len(lines) < count
