"""The time limit for a login, and logins of clients that the handshake already knows."""

import asyncio
import weakref

from wampkit import App, Connection

from ..support.login_app import demo
from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in
from ..support.wire import Peer, RawPeer, eventually, serve

# ---- the time for it


async def test_who_does_not_log_in_in_time_is_closed() -> None:
    """1008 and the reason, for who does nothing, who asks only, and who fails; not for who has logged in."""
    async with serve(demo(timeout=0.5, anonymous=True)) as server:
        member, nobody = await server.peer(), await server.peer()
        await log_in(member)
        await ask(nobody, None)
        assert code_of(await nobody.call(AUTH)) == "ok"
        # These come later, so that the time of the others is over when theirs is.
        idle, asking, failing = [await server.peer() for _ in range(3)]
        await ask(asking)
        await log_in(failing, "alice", "wrong")
        for late in (idle, asking, failing):
            assert await late.closed() == (1008, "no login within 0.5 s")
        assert await member.result("whoami") == "alice"
        assert await nobody.result("ping") == "pong"


class Door:
    """Lets the user be whom the query names."""

    async def connect(self, connection: Connection) -> None:
        connection.user = connection.request.query.get("user")


async def test_whom_the_door_knows_needs_no_login() -> None:
    """A user of a middleware may do what the app's rules allow, and has no time limit."""
    async with serve(demo(timeout=0.3, app={"middlewares": [Door()]})) as server:
        known = await Peer.open(f"{server.url}?user=erin")
        unknown = await server.peer()
        assert await known.result("whoami") == "erin"
        assert (await unknown.closed())[0] == 1008
        assert await known.result("whoami") == "erin"
        await known.close()


async def test_a_time_limit_can_be_left_out() -> None:
    """With `timeout=None` a connection outlives those of another app that has a limit."""
    async with serve(demo(timeout=None)) as patient:
        stays = await patient.peer()
        async with serve(demo(timeout=0.2)) as other:
            assert (await (await other.peer()).closed())[0] == 1008
        assert await stays.result("ping") == "pong"


async def test_a_hundred_connections_wait_without_a_task() -> None:
    """Each is closed in its time; until then the limit costs them no task, and afterwards none is left."""

    async def tasks_of(app: App) -> int:
        async with serve(app) as server:
            peers = [await RawPeer.open(server.port) for _ in range(100)]
            tasks = len(asyncio.all_tasks())
            for peer in peers:
                if app.counters.connections and app is limited:
                    assert await peer.read_close() == (1008, "no login within 0.3 s")
                peer.close()
            return tasks

    limited = demo(timeout=0.3)
    assert await tasks_of(limited) == await tasks_of(demo(timeout=None))


async def test_connections_that_are_gone_leave_nothing() -> None:
    """Neither those that logged in nor those that did not are held by anything when they have gone."""
    async with serve(demo()) as server:
        peers = [await server.peer() for _ in range(10)]
        for peer in peers[:5]:
            await log_in(peer)
        gone = [weakref.ref(server.connection(peer)) for peer in peers]
        await server.disconnect()
        await eventually(lambda: not any(each() for each in gone), "no connection is held")


# ---- beside the door


async def test_a_login_replaces_the_user_of_the_door() -> None:
    """A keyed login proves more than the door knew; an anonymous one would only lose it, so it is refused."""
    async with serve(demo(anonymous=True, app={"middlewares": [Door()]})) as server:
        peer = await Peer.open(f"{server.url}?user=erin")
        assert code_of(await peer.call(AUTHREQ)) == "already-authenticated"
        assert await peer.result("whoami") == "erin"
        assert code_of(await log_in(peer)) == "ok"
        assert await peer.result("whoami") == "alice"
        assert server.app.connections(user="erin") == []
        await peer.close()


async def test_a_login_takes_away_what_it_does_not_grant() -> None:
    """Subscriptions of before end where the new permissions do not hold them."""
    async with serve(demo(app={"middlewares": [Door()]})) as server:
        peer = await Peer.open(f"{server.url}?user=erin")
        for topic in ("open", "closed", "room/lobby"):
            await peer.subscribe(topic)
        assert server.connection(peer).topics == ("open", "closed", "room/lobby")
        await log_in(peer, "dave")
        assert server.connection(peer).topics == ("open", "room/lobby")
        await peer.close()
