"""Gates by address: which clients they keep out, before and while they are connected."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from wampkit import AllowAddresses, AllowHosts, AllowOrigins, App, BlockAddresses, Connection, DeclarationError

from ..support.tables import rows, table
from ..support.wire import Server, eventually, handshake, has_ipv6, serve

Gate = type[BlockAddresses] | type[AllowAddresses]


async def status(server: Server, *headers: str, source: str = "127.0.0.1", host: str | None = "localhost") -> int:
    """The HTTP status of a handshake."""
    peer = await server.tcp(source=source)
    line = b"" if host is None else b"Host: %b\r\n" % host.encode(errors="surrogateescape")
    await peer.send(handshake("/ws", *headers).replace(b"Host: localhost\r\n", line))
    head = await peer.read_head()
    peer.close()
    return int(head.split()[1])


# ---- addresses


@rows(
    ("networks", "held"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.0/8"], True),
        (["::ffff:127.0.0.1"], True),
        (["10.0.0.0/8", "::/0", "unix"], False),
        (["10.0.0.0/8", "127.0.0.1"], True),
        (["0.0.0.0/0"], True),
        (["127.0.0.2"], False),
        ([], False),
    ],
)
async def test_clients_are_judged_by_their_address(networks: list[str], held: bool) -> None:
    """Blocked addresses get HTTP 403; where addresses are allowed, all others do."""
    async with serve(App(middlewares=[BlockAddresses(*networks)])) as server:
        assert await status(server) == (403 if held else 101)
    async with serve(App(middlewares=[AllowAddresses(*networks)])) as server:
        assert await status(server) == (101 if held else 403)


@rows("gate", [BlockAddresses, AllowAddresses])
@rows("network", ["example.com", "10.0.0.0/99", "", "10.0.0"])
def test_what_is_no_network_is_refused_at_once(gate: Gate, network: str) -> None:
    """A wrong entry is an error that names the gate."""
    with pytest.raises(DeclarationError, match=gate.__name__):
        gate(network)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
async def test_an_ipv4_address_in_ipv6_clothes() -> None:
    """On a dual-stack socket an IPv4 client appears as ::ffff:a.b.c.d and is blocked all the same."""
    runner = web.AppRunner(App(middlewares=[BlockAddresses("127.0.0.0/8")]).web_app())
    await runner.setup()
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    await web.SockSite(runner, listener).start()
    try:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws", protocols=("wamp",))
        assert caught.value.status == 403
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def on_unix_socket(app: App, path: Path) -> AsyncIterator[None]:
    """An app that listens on a unix socket."""
    runner = web.AppRunner(app.web_app())
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def ask_unix(path: Path, own_name: str | None, *headers: str) -> int:
    """The HTTP status of a handshake over a unix socket, whose own end may have a name too."""
    with socket.socket(socket.AF_UNIX) as client:
        if own_name is not None:
            client.bind(own_name)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, str(path))
        await loop.sock_sendall(client, handshake("/ws", *headers))
        return int((await loop.sock_recv(client, 4096)).split()[1])


@rows("name", [None, "10.0.0.1"])
@rows(
    ("gate", "expected"),
    [
        (BlockAddresses("10.0.0.0/8"), 101),
        (BlockAddresses("unix"), 403),
        (AllowAddresses("10.0.0.0/8"), 403),
        (AllowAddresses("unix"), 101),
    ],
)
async def test_unix_sockets_are_named_unix(
    gate: BlockAddresses | AllowAddresses,
    expected: int,
    name: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A unix peer has no address, even if its own end is a file that is named like one; "unix" stands for it."""
    monkeypatch.chdir(tmp_path)
    app = App(middlewares=[gate])
    seen: list[str | None] = []
    app.on_connect(lambda connection: seen.append(connection.remote))
    async with on_unix_socket(app, tmp_path / "socket"):
        assert await ask_unix(tmp_path / "socket", name) == expected
        await eventually(lambda: len(seen) == (expected == 101))
    assert seen in ([], [None])


async def test_blocking_while_it_runs() -> None:
    """Who is blocked while the app runs is closed with 1008 and not let in again until unblocked; others stay."""
    gate = BlockAddresses()
    async with serve(App(middlewares=[gate])) as server:
        good, bad = await server.raw(), await server.raw(source="127.0.0.2")
        gate.block("127.0.0.2", "10.0.0.0/8")
        assert await bad.read_close() == (1008, "this address may not connect")
        assert await status(server, source="127.0.0.2") == 403
        assert await status(server, source="127.0.0.3") == 101
        gate.unblock("127.0.0.2")
        assert await status(server, source="127.0.0.2") == 101
        assert not server.connection(good).closed


async def test_disallowing_while_it_runs() -> None:
    """Who is no longer allowed is closed with 1008 and not let in again until allowed; others stay."""
    gate = AllowAddresses("127.0.0.1", "127.0.0.2")
    async with serve(App(middlewares=[gate])) as server:
        good, bad = await server.raw(), await server.raw(source="127.0.0.2")
        assert await status(server, source="127.0.0.3") == 403
        gate.disallow("127.0.0.2")
        assert await bad.read_close() == (1008, "this address may not connect")
        assert await status(server, source="127.0.0.2") == 403
        gate.allow("127.0.0.0/30")
        assert await status(server, source="127.0.0.2") == 101
        assert not server.connection(good).closed


async def test_blocking_in_every_app() -> None:
    """A gate that stands in several apps closes the connections of all of them, and forgets those that stopped."""
    gate = BlockAddresses()
    async with serve(App(middlewares=[gate], close_timeout=0.1)) as first:
        async with serve(App(middlewares=[gate], close_timeout=0.1)) as second:
            peers = [await first.raw(source="127.0.0.2"), await second.raw(source="127.0.0.2")]
            gate.block("127.0.0.2")
            for peer in peers:
                assert (await peer.read_close())[0] == 1008
        gate.unblock("127.0.0.2")
        peer = await first.raw(source="127.0.0.2")
        gate.block("127.0.0.2")
        assert (await peer.read_close())[0] == 1008


async def test_blocking_from_a_thread() -> None:
    """A plain `def` handler, which runs in a thread, may block; even its own caller."""
    gate = BlockAddresses()
    app = App(middlewares=[gate])

    @app.rpc("block")
    def block(network: str) -> str:
        gate.block(network)
        return "blocked"

    async with serve(app) as server:
        admin, bad = await server.peer(), await server.raw(source="127.0.0.2")
        assert await admin.result("block", "127.0.0.2") == "blocked"
        assert (await bad.read_close())[0] == 1008
        await admin.send(2, "1", "block", "127.0.0.1")
        assert (await admin.closed())[0] == 1008


async def test_blocking_who_is_at_the_door() -> None:
    """Who is blocked while later gates are still asked is refused, although the gate by address let it in before."""
    gate = BlockAddresses()
    at_door, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        async def connect(self, connection: Connection) -> None:
            at_door.set()
            await go_on.wait()

    app = App(middlewares=[gate, Slow()])
    async with serve(app) as server:
        peer = await server.tcp()
        await peer.send(handshake())
        await at_door.wait()
        gate.block("127.0.0.1")
        go_on.set()
        answer = await peer.read_to_end()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"this address may not connect" in answer
        assert app.connections.arriving == []


@pytest.mark.parametrize("gate", [BlockAddresses("127.0.0.0/8"), AllowAddresses("127.0.0.0/8")])
async def test_a_wrong_change_changes_nothing(gate: BlockAddresses | AllowAddresses) -> None:
    """What is no network is refused at run-time too, and so is taking out what a wider network goes on to hold."""
    add, remove = (gate.block, gate.unblock) if isinstance(gate, BlockAddresses) else (gate.allow, gate.disallow)
    before = gate.describe()
    with pytest.raises(ValueError, match="does not appear"):
        add("10.0.0.1", "10.0.0")
    with pytest.raises(ValueError, match="lies in"):
        remove("127.0.0.1")
    assert gate.describe() == before


async def test_an_address_that_cannot_be_read_is_refused() -> None:
    """Where an address is not what it should be, both gates keep it out: a site may have put anything there."""

    @web.middleware
    async def relabel(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:  # type: ignore[type-arg]
        return await handler(request.clone(remote="someone\n"))  # type: ignore[operator, no-any-return]

    for gate in BlockAddresses(), AllowAddresses("0.0.0.0/0"):
        site = web.Application(middlewares=[relabel])
        app = App(middlewares=[gate])
        app.setup(site)
        async with serve(app, web_app=site) as server:
            assert await status(server) == 403


# ---- what is written down


HOSTILE = "a\x1b[31mb\u2028c"


@pytest.mark.parametrize("trusted", [False, True])
async def test_what_a_peer_sends_is_escaped_in_the_log(trusted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever stands in Origin, Host or a forwarding header, each log line is one printable line of bounded length."""
    caplog.set_level(logging.DEBUG)
    gates = [BlockAddresses("10.0.0.1"), AllowHosts("localhost"), AllowOrigins("https://example.com")]
    unreadable = 400 if trusted else 403
    rows = [
        ([f"Origin: https://{HOSTILE}"], "localhost", 403),
        (["Origin: https://x", f"Origin: https://{HOSTILE}"], "localhost", 403),
        (["Origin: http://x"], HOSTILE, 403),
        ([f"X-Forwarded-For: {HOSTILE}"], "localhost", unreadable),
        ([f"Forwarded: for={HOSTILE}"], "localhost", 403),
        ([f"X-Forwarded-For: {'x' * 5000}"], "localhost", unreadable),
        ([f"Origin: https://{'x' * 5000}"], "localhost", 403),
    ]
    for row in table(rows):
        with row as (headers, host, expected):
            caplog.clear()
            app = App(middlewares=gates, trusted_proxies=["127.0.0.1"] if trusted else [])
            async with serve(app) as server:
                assert await status(server, *headers, host=host) in (400, 403)
                # The escape character is no HTTP, so that this comes further.
                plain = [each.replace("\x1b", "") for each in headers]
                assert await status(server, *plain, host="localhost") == expected
            lines = [record.getMessage() for record in caplog.records if record.name.startswith("wampkit")]
            assert lines
            for line in lines:
                assert line.isprintable()
                assert len(line) < 600
