"""`app.connections`: finding and walking the live connections, and what each of them costs."""

from ..support.connection import T, make
from ..support.wire import ERROR, PREFIX, eventually, serve


async def test_live_connections_can_be_found_and_walked() -> None:
    """`app.connections` knows who is connected, by id, with attributes, until they have gone."""
    app = make()
    async with serve(app) as server:
        one, two = await server.peer(), await server.peer()
        assert {each.id for each in app.connections} == {one.id, two.id}
        connection = app.connections.get(one.id)
        assert connection is not None
        assert connection in app.connections
        assert one.id not in app.connections
        assert connection.request.remote == "127.0.0.1"
        await one.subscribe("t:relay")
        assert connection.topics == (T + "relay",)
        assert one.id in repr(connection)
        await one.close()
        await eventually(lambda: len(app.connections) == 1)
        assert connection not in app.connections
        assert connection.closed
        assert app.connections.get(one.id) is None


async def test_prefixes_of_a_client_cost_others_nothing() -> None:
    """A thousand prefixes of one client are that client's alone and leave with it."""
    app = make()
    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        for number in range(999):
            await peer.send(PREFIX, f"p{number}", f"http://x/{number}/")
        await peer.send(PREFIX, "mine", T)
        assert await peer.result("mine:echo", 1) == 1
        assert (await other.call("mine:echo", 1))[0] == ERROR
        assert len(server.connection(other).protocol.prefixes) == 1
