"""What one client without rights can make a server hold in memory: each row of the table in docs/security.md, measured.

A server of its own is asked how much its Python objects take before and after a client has done its worst.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from wampkit import Limits
from wampkit.connection.tasks import memory_of

from ..support.command import command, write
from ..support.wire import CALL, PREFIX, PUBLISH, RESULT, SUBSCRIBE, RawPeer, frame, handshake, message

KIB = 1024
MIB = 1024 * KIB

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"

SERVED = """
import asyncio, gc, threading, tracemalloc
from wampkit import App, Connection, Cra, Credentials, anyone

ended, released = asyncio.Event(), threading.Event()

class Gate:
    async def connect(self, connection):
        if "wait" in connection.request.query:
            await ended.wait()

login = Cra(lambda authkey, extra: Credentials("secret"), timeout=None)
app = App(cra=login, middlewares=[Gate()], prefixes={"t": "http://example.com/"}, keepalive=None)
app.topic("t:{name}", relay=True, requires=anyone)
undecided = app.topic("undecided", relay=True, requires=anyone)

@undecided.on_subscribe
async def decide():
    await ended.wait()

@app.topic("hanging", requires=anyone)
async def hanging(event: object, connection: Connection):
    if not connection.closed:
        await ended.wait()

@app.rpc("hang", requires=anyone)
async def hang(*args: object):
    await ended.wait()

@app.rpc("block", requires=anyone)
def block(*args: object):
    released.wait(30)

@app.rpc("item/{name}", requires=anyone)
async def item(name: str):
    return 1

@app.rpc("tell", requires=anyone)
async def tell(room: str):
    await app.publish(f"t:{room}", 1)

@app.rpc("figures", requires=anyone)
async def figures():
    gc.collect()
    unsent = max(connection.unsent for connection in app.connections)
    return [tracemalloc.get_traced_memory()[0], len(app.connections) + len(app.connections.arriving), unsent]

@app.rpc("part", requires=anyone)
async def part(connection: Connection):
    global ended, released
    for other in app.connections:
        if other is not connection:
            other.cut(1000, "the row has been measured")
    ended.set()
    released.set()
    await asyncio.sleep(0)
    ended, released = asyncio.Event(), threading.Event()
"""


class Meter:
    """Clients of a server, and one that asks it what it holds."""

    def __init__(self, port: int, watcher: RawPeer) -> None:
        self._port = port
        self._watcher = watcher
        self._peers: list[RawPeer] = []

    async def peer(self, **options: Any) -> RawPeer:
        """A client that has been welcomed."""
        return self._kept(await RawPeer.open(self._port, **options))

    async def stranger(self) -> RawPeer:
        """A client that has said nothing yet."""
        return self._kept(await RawPeer.connect(self._port))

    def _kept(self, peer: RawPeer) -> RawPeer:
        self._peers.append(peer)
        return peer

    async def ask(self, procedure: str) -> Any:
        """What a procedure says."""
        await self._watcher.send_message(CALL, "", procedure)
        kind, _, answer = (await self._watcher.read_message())[:3]
        assert kind == RESULT, answer
        return answer

    async def unsent(self) -> int:
        """Bytes that wait for the client for which most waits."""
        return int((await self.ask("figures"))[2])

    async def held(self) -> int:
        """Bytes of the server's objects, once they grow no more."""
        before = -1
        for _ in range(200):
            now = int((await self.ask("figures"))[0])
            if abs(now - before) < 2 * KIB:
                break
            before = now
        return now

    async def part(self) -> None:
        """End all clients."""
        await self.ask("part")
        for peer in self._peers:
            peer.close()
        self._peers.clear()
        async with asyncio.timeout(10):
            while (await self.ask("figures"))[1] > 1:
                pass


async def pushed(peer: RawPeer, data: bytes) -> None:
    """Send as much as the server takes."""
    for start in range(0, len(data), 64 * KIB):
        try:
            async with asyncio.timeout(0.3):
                await asyncio.get_running_loop().sock_sendall(peer.sock, data[start : start + 64 * KIB])
        except TimeoutError:
            return


async def told(peer: RawPeer) -> None:
    """Wait until the server has taken what was sent."""
    await peer.send_message(CALL, "told", "figures")
    while (await peer.read_message())[1] != "told":
        pass


def dense(begin: bytes, end: bytes) -> bytes:
    """Messages that just do not fill `calls_size`, and then three of the largest and worst."""
    short = begin + b'{"":0},' * 1000 + end
    nested = b"[" * 60 + b"]" * 60 + b","
    worst = begin + nested * ((MIB - 100) // len(nested)) + end
    limits = Limits()
    return frame(1, short) * ((limits.calls_size - 1) // memory_of(short)) + frame(1, worst) * 3


# ---- what a client does, by the name of its row


async def idle(meter: Meter) -> None:
    await meter.peer()


async def headers(meter: Meter) -> None:
    lines = [f"X{number:03}: {'x' * 240}" for number in range(110)] + ["Cookie: " + "c" * 4000]
    peer = await meter.stranger()
    await peer.send(handshake("/ws", *lines))
    assert b" 101 " in await peer.read_head()


async def half_a_request(meter: Meter) -> None:
    peer = await meter.stranger()
    await peer.send(b"GET /ws HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"x" * 8000) for i in range(120)))


async def behind_the_handshake(meter: Meter) -> None:
    peer = await meter.stranger()
    await peer.send(handshake("/ws?wait=1"))
    await pushed(peer, frame(1, b"") * 100_000)


async def prefixes(meter: Meter) -> None:
    peer = await meter.peer()
    await peer.send(b"".join(message(PREFIX, f"p{number:03}", "x" * 60) for number in range(1000)))
    await told(peer)


async def many_subscriptions(meter: Meter) -> None:
    peer = await meter.peer()
    await peer.send(b"".join(message(SUBSCRIBE, f"t:{number:085}") for number in range(10_000)))
    await told(peer)


async def long_subscriptions(meter: Meter) -> None:
    peer = await meter.peer()
    await peer.send(b"".join(message(SUBSCRIBE, f"t:{number:01000}") for number in range(1100)))
    await told(peer)


async def small_calls(meter: Meter) -> None:
    peer = await meter.peer()
    await pushed(peer, b"".join(message(CALL, str(number), "hang", "x" * 200) for number in range(1100)))


async def blocking_calls(meter: Meter) -> None:
    peer = await meter.peer()
    await pushed(peer, b"".join(message(CALL, str(number), "block", "x" * 200) for number in range(1100)))


async def dense_calls(meter: Meter) -> None:
    await pushed(await meter.peer(), dense(b'[2,"1","hang",', b"0]"))


async def dense_publishes(meter: Meter) -> None:
    await pushed(await meter.peer(), dense(b'[7,"hanging",[', b"0]]"))


async def waiting_frames(meter: Meter) -> None:
    peer = await meter.peer()
    await pushed(peer, message(CALL, "1", "hang") * 1000)
    await pushed(peer, frame(1, b"") * 200_000)


async def half_a_message(meter: Meter) -> None:
    peer = await meter.peer()
    await pushed(peer, frame(1, b"[", final=False) + frame(0, b"x", final=False) * 600_000)


async def unread(meter: Meter) -> None:
    peer, other = await meter.peer(rcvbuf=4096), await meter.peer()
    await peer.send_message(SUBSCRIBE, "t:a")
    while await meter.unsent() < MIB - 30 * KIB:
        await other.send_message(PUBLISH, "t:a", "x" * 20_000, True)
        await told(other)


async def undecided(meter: Meter) -> None:
    peer, other = await meter.peer(), await meter.peer()
    await peer.send_message(SUBSCRIBE, "undecided")
    for _ in range(50):
        await other.send_message(PUBLISH, "undecided", "x" * 20_000)
        await told(other)


async def login(meter: Meter) -> None:
    peer = await meter.peer()
    extra = {"x": "y" * 16_000}
    await peer.send_message(CALL, "1", "http://api.wamp.ws/procedure#authreq", "\U0001f600" * 1024, extra)
    await peer.read_message()


async def complaints(meter: Meter) -> None:
    peer = await meter.peer(source="127.0.0.2")
    for number in range(100):
        await peer.send_message(SUBSCRIBE, f"no{number}" + "\U0001f600" * 250)
        await peer.send_message(PUBLISH, f"no{number}" + "\U0001f600" * 250, 1)
        await peer.send_message(CALL, "1", f"figures{number}", 1)
    await told(peer)


async def remembered(meter: Meter) -> None:
    peer = await meter.peer()
    names = [f"{number:0950}\U0001f600" for number in range(1024)]
    await peer.send(b"".join(message(CALL, "1", f"item/{name}") + message(PUBLISH, f"t:{name}", 1) for name in names))
    await told(peer)


async def published(meter: Meter) -> None:
    peer = await meter.peer()
    for number in range(40):
        await peer.send_message(CALL, "1", "tell", str(number) * 500_000)
        await peer.read_message()


ROWS: dict[str, list[Callable[[Meter], Awaitable[None]]]] = {
    "a connection that does nothing": [idle],
    "the headers of its handshake": [headers],
    "a request that it does not end": [half_a_request],
    "what it sends before its handshake is decided": [behind_the_handshake],
    "kinds of log lines": [complaints],
    "prefixes": [prefixes],
    "subscriptions": [many_subscriptions, long_subscriptions],
    "small unfinished calls": [small_calls, blocking_calls],
    "large unfinished calls and topic messages": [dense_calls, dense_publishes],
    "frames behind those": [waiting_frames],
    "a message that it does not end": [half_a_message],
    "what it does not read": [unread],
    "events that wait for `on_subscribe`": [undecided],
    "a login that it does not end": [login],
    "URIs that the server remembers": [remembered, published],
}
"""What clients do, by the row of the table that says how much it may cost."""


def documented() -> dict[str, int]:
    """Bytes of each row of the table."""
    table = SECURITY.read_text().partition("## What one client can make the server hold")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| .* \| (\d+) (KiB|MiB) \|$", table, re.MULTILINE)
    return {name: int(number) * (KIB if unit == "KiB" else MIB) for name, number, unit in rows}


async def test_what_one_client_can_make_the_server_hold_is_as_documented(tmp_path: Path) -> None:
    """Each row of the table in docs/security.md holds, and is not much above what a client can reach."""
    bounds = documented()
    assert bounds.keys() == ROWS.keys()
    write(tmp_path, served=SERVED)
    wrong = []
    env = {"PYTHONTRACEMALLOC": "1"}
    async with command("run", "served:app", "--port", "0", cwd=tmp_path, env=env) as server:
        found = re.search(r":(\d+)/", await server.url())
        assert found is not None
        watcher = await RawPeer.open(int(found[1]))
        meter = Meter(int(found[1]), watcher)
        await idle(meter)
        await meter.part()
        for row, acts in ROWS.items():
            held = 0
            for act in acts:
                before = await meter.held()
                await act(meter)
                held = max(held, await meter.held() - before)
                await meter.part()
            if not bounds[row] / 10 < held <= bounds[row]:
                wrong.append(f"{row}: {held / KIB:.0f} KiB, documented are {bounds[row] / KIB:.0f}")
        watcher.close()
    assert not wrong
