"""How a connection ends: the close codes and reasons that the client and `on_disconnect` are told."""

import asyncio

import pytest

from wampkit import Limits

from ..support.connection import Ends, T, make
from ..support.wire import EVENT, PUBLISH, SUBSCRIBE, close, eventually, fds, message, serve


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3000, "ü"), (4999, "x" * 123)])
async def test_a_clients_close_reaches_on_disconnect(code: int, reason: str) -> None:
    """The client's close code and reason reach on_disconnect, and the code is echoed."""
    app = make()
    ends = Ends(app)
    text = reason.encode()[:123]
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send(close(code, text))
        assert await peer.read_close() == (code, "")
        assert await ends.first() == (code, text.decode())
        assert await peer.read_to_end() == b""


async def test_a_close_without_a_code_is_1005() -> None:
    """A close frame without a code is told as 1005, RFC 6455's name for it, and answered."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.raw()
        await peer.send_frame(8)
        opcode, _ = await peer.read_frame()
        assert opcode == 8
        assert await ends.first() == (1005, "")


@pytest.mark.parametrize("how", ["reset", "close", "half"])
async def test_a_peer_that_vanishes_is_1006(how: str) -> None:
    """A connection that ends without a close frame is told as 1006, and its socket is freed."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()
        match how:
            case "reset":
                peer.reset()
            case "close":
                peer.close()
            case "half":
                peer.half_close()
        assert (await ends.first())[0] == 1006
        if how == "half":
            assert await peer.read_to_end() == b""
            peer.close()
        await eventually(lambda: fds() <= before)


async def test_data_behind_a_close_is_ignored() -> None:
    """Whatever a client sends behind its close frame is not run."""
    app = make()
    async with serve(app) as server:
        listener = await server.peer()
        await listener.subscribe("t:relay")
        peer = await server.raw()
        await peer.send(close() + message(PUBLISH, "t:relay", 1))
        await peer.read_close()
        await peer.read_to_end()
        await listener.nothing()


async def test_the_servers_close_reaches_client_and_hook() -> None:
    """`connection.close` sends its code and reason, after what was sent before it; nothing follows."""
    app = make()
    ends = Ends(app)
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:relay")
        connection = server.connection(peer)
        await app.publish("t:relay", "before")
        connection.close(4321, "enough")
        connection.close(4322, "twice")
        await app.publish("t:relay", "after")
        assert connection.closed
        assert await peer.closed() == (4321, "enough")
        assert await peer.next() == [EVENT, T + "relay", "before"]
        assert await ends.first() == (4321, "enough")
        assert peer._messages.empty()
        await asyncio.wait_for(connection.wait_closed(), 5)


async def test_a_long_reason_is_cut_at_a_character() -> None:
    """A reason over 123 bytes is shortened, and stays UTF-8."""
    app = make()
    async with serve(app) as server:
        peer = await server.peer()
        server.connection(peer).close(4000, "é" * 100)
        assert await peer.closed() == (4000, "é" * 61)


async def test_a_peer_that_does_not_answer_a_close_is_cut() -> None:
    """A client that ignores the close frame is cut after close_timeout; the hook is told the server's code."""
    app = make(close_timeout=0.1)
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw()
        server.connection(peer).close(4000, "go")
        assert await peer.read_close() == (4000, "go")
        await peer.send(message(PUBLISH, "t:relay", 1))
        assert await ends.first() == (4000, "go")
        peer.close()
        await eventually(lambda: fds() <= before)


async def test_a_stalled_peer_that_is_closed_is_cut() -> None:
    """Closing a client that reads nothing and has much to read ends in time and frees its socket."""
    app = make(close_timeout=0.1, limits=Limits(queue=10**8))
    ends = Ends(app)
    async with serve(app) as server:
        before = fds()
        peer = await server.raw(rcvbuf=4096)
        await peer.send_message(SUBSCRIBE, "t:relay")
        await eventually(lambda: len(app.topics) == 1)
        connection = server.connection(peer)
        while connection.unsent == 0:
            await app.publish("t:relay", "x" * 100_000)
            await asyncio.sleep(0)
        connection.close(4000, "go")
        assert await ends.first() == (4000, "go")
        await eventually(lambda: fds() <= before + 1)
