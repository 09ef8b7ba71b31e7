"""`Sessions` with a real Redis: a session that ends elsewhere closes its connections, and Redis in trouble."""

import asyncio
import gc
import json
import logging
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp_session.redis_storage import RedisStorage
from redis.asyncio import Redis

from wampkit import App, Connection, Session, Sessions, Tickets, requires
from wampkit.sessions import storage as storage

from ..support.redis_server import RedisServer
from ..support.session_cookies import Noted
from ..support.session_redis import KEY, ended, until
from ..support.tables import rows
from ..support.website import website
from ..support.wire import Server, eventually, handshake, serve
from .test_cookies import KEYED, UNKEYED


def _put(redis: Redis, id: str, *, age: float = 0.0, **session: Any) -> Any:
    return redis.set(KEY + id, json.dumps({"created": time.time() - age, "session": session}))


def _headers(id: str) -> dict[str, str]:
    return {"Cookie": f"AIOHTTP_SESSION={id}"}


# ---- its end closes connections


async def test_a_logout_view_closes_the_sockets_at_once(redis: Redis) -> None:
    """The view that logs out finds the connections by the session's key and closes them, long before any look."""
    async with website(RedisStorage(redis, max_age=600), check_every=3600) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            assert await client.call("who") == ["ann", []]
            assert await visitor.post("/logout") == "1"
            assert await ended(client) == (4401, "logged out")
        async with visitor.connect() as client:
            assert await client.call("who") == [None, []]


@pytest.mark.parametrize("how", ["invalidated", "deleted", "garbled", "other user", "no user"])
async def test_a_session_that_ends_elsewhere_is_noticed(how: str, redis: Redis) -> None:
    """A session that another process ends, or gives to another user, closes its connections within the interval."""
    async with serve(_alone(redis, check_every=0.3)) as wamp:
        await _put(redis, "s1", user="ann")
        await _put(redis, "s2", user="ann")
        peer, stays = await wamp.peer(headers=_headers("s1")), await wamp.peer(headers=_headers("s2"))
        changes: dict[str, Callable[[], Any]] = {
            "invalidated": lambda: redis.set(KEY + "s1", "{}"),
            "deleted": lambda: redis.delete(KEY + "s1"),
            "garbled": lambda: redis.set(KEY + "s1", "[[["),
            "other user": lambda: _put(redis, "s1", user="eve"),
            "no user": lambda: _put(redis, "s1", cart=[]),
        }
        await changes[how]()
        reason = "the session belongs to another user now" if how.endswith("user") else "the session has ended"
        assert await peer.closed() == (4401, reason)
        assert await stays.result("who") == ["ann", []]


def _alone(redis: Redis, **options: Any) -> App:
    """An app beside no site, whose sessions are put into Redis by hand; an interval of 0.3 s unless it is given."""

    kept = RedisStorage(redis, max_age=options.pop("max_age", 60))
    app = App(middlewares=[Sessions(kept, roles="roles", **options)])

    @app.rpc("who")
    async def who(conn: Connection) -> list[Any]:
        return [conn.user, sorted(conn.roles)]

    @app.rpc("put")
    async def put(key: str, session: Session) -> None:
        session[key] = True

    return app


async def test_changed_roles_do_not_reach_who_has_become_another(redis: Redis) -> None:
    """The roles of a session are its own user's: they are not given to the user whom the app has put in its place."""
    app = _alone(redis, check_every=0.1)

    def become(connection: Connection) -> None:
        if "other" in connection.request.query:
            connection.user, connection.roles = "device", frozenset({"sensor"})

    app.on_connect(become)
    async with serve(app) as server:
        await _put(redis, "s1", user="ann", roles=["staff"])
        ann = await server.peer(headers=_headers("s1"))
        device = await server.peer(headers=_headers("s1"), params={"other": "1"})
        await _put(redis, "s1", user="ann", roles=["admin"])
        await eventually(lambda: server.connection(ann).roles == {"admin"})
        assert server.connection(device).roles == {"sensor"}


async def test_changed_roles_reach_the_connection(redis: Redis) -> None:
    """Roles that change in the session change on its connections within the interval; other roles stay."""
    app = _alone(redis, check_every=0.2)
    app.on_connect(lambda connection: setattr(connection, "roles", connection.roles | {"own"}))
    async with serve(app) as wamp:
        await _put(redis, "s1", user="ann", roles=["admin", "staff"])
        peer = await wamp.peer(headers=_headers("s1"))
        assert await peer.result("who") == ["ann", ["admin", "own", "staff"]]
        await _put(redis, "s1", user="ann", roles=["staff", "new"])
        connection = wamp.connection(peer)
        await eventually(lambda: connection.roles == {"own", "staff", "new"})
        assert connection.session["roles"] == ["staff", "new"]


async def test_a_lost_role_ends_what_it_allowed(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """When a session loses a role, the subscriptions that needed it end with it, and nothing else is left of that."""
    app = _alone(redis, check_every=0.2)
    app.topic("staff", subscribe=requires("staff"))
    app.topic("all")
    async with serve(app) as wamp:
        await _put(redis, "s1", user="ann", roles=["staff"])
        peer = await wamp.peer(headers=_headers("s1"))
        await peer.subscribe("staff")
        await peer.subscribe("all")
        connection = wamp.connection(peer)
        assert connection.topics == ("staff", "all")
        await _put(redis, "s1", user="ann", roles=[])
        await eventually(lambda: connection.topics == ("all",))
        await eventually(lambda: not [task for task in _all_tasks_ever() if "recheck" in repr(task)])
    assert "ending what a session does not allow" not in caplog.text


def _all_tasks_ever() -> list[asyncio.Task[Any]]:
    """Those that have ended, too, if something still holds them."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]


async def test_a_session_is_looked_up_once_for_all_its_connections(redis: Redis) -> None:
    """At each interval a session costs one read, however many connections it has."""

    async def reads() -> int:
        stats = await redis.info("commandstats")
        return int(stats.get("cmdstat_get", {}).get("calls", 0))

    async with serve(_alone(redis, check_every=0.5)) as wamp:
        await _put(redis, "s1", user="ann")
        await _put(redis, "s2", user="bob")
        await asyncio.gather(*[wamp.peer(headers=_headers(id)) for id in ("s1", "s2") for _ in range(10)])
        before = await reads()
        now = await until(reads, lambda count: count > before)
        # The second of the two may be under way.
        assert now - before <= 2


async def test_expiry_and_what_puts_it_off(redis: Redis) -> None:
    """Connections are closed when their session expires, unless it was used on the web meanwhile."""
    app = _alone(redis, check_every=3600)
    ended: dict[str, float] = {}
    app.on_disconnect(lambda connection: ended.setdefault(connection.user, time.time()))
    async with serve(app) as wamp:
        start = time.time()
        await _put(redis, "s1", age=58.5, user="ann")
        await _put(redis, "s2", age=58.4, user="bob")
        await _put(redis, "s3", age=58.6, user="eve")
        ann, bob, eve = [await wamp.peer(headers=_headers(id)) for id in ("s1", "s2", "s3")]
        await _put(redis, "s2", age=57.4, user="bob")
        assert (await eve.call("put", "x"))[0] != 4
        assert await ann.closed() == (4401, "the session has expired")
        assert await bob.result("who") == ["bob", []]
        assert await bob.closed() == (4401, "the session has expired")
        assert await eve.result("who") == ["eve", []]
    assert abs(ended["ann"] - start - 1.5) < 1
    assert abs(ended["bob"] - start - 2.6) < 1


# ---- Redis in trouble


async def test_a_frozen_redis(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While Redis hangs: 503 for cookies, others come in, connections stay, changes fail; then all is well again."""
    monkeypatch.setattr(storage, "STORE_TIMEOUT", 0.3)
    async with serve(_alone(redis, check_every=0.2)) as wamp:
        await _put(redis, "s1", user="ann")
        peer = await wamp.peer(headers=_headers("s1"))
        server.signal(signal.SIGSTOP)
        answer = await wamp.ask(handshake("/ws", "Cookie: AIOHTTP_SESSION=s1"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in answer.lower()
        assert await (await wamp.peer()).result("who") == [None, []]
        refused = await peer.call("put", "x")
        assert refused[0] == 4
        await eventually(lambda: caplog.text.count("the session storage does not answer") == 1)
        assert await peer.result("who") == ["ann", []]
        server.signal(signal.SIGCONT)
        assert (await peer.call("put", "y"))[0] == 3
        again = await wamp.peer(headers=_headers("s1"))
        assert await again.result("who") == ["ann", []]
    assert "SessionUnavailable" in caplog.text
    assert json.loads(await redis.get(KEY + "s1"))["session"]["y"] is True


async def test_a_redis_that_is_gone(server: RedisServer, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Without Redis nobody is taken for somebody who is not logged in: 503, and one line in the log."""
    async with serve(_alone(redis, check_every=0.2)) as wamp:
        await _put(redis, "s1", user="ann")
        peer = await wamp.peer(headers=_headers("s1"))
        await server.stop()
        for _ in range(5):
            assert (await wamp.ask(handshake("/ws", "Cookie: AIOHTTP_SESSION=s1"))).startswith(b"HTTP/1.1 503 ")
        await wamp.peer()
        await eventually(lambda: "the session storage does not answer" in caplog.text)
        assert await peer.result("who") == ["ann", []]
        (line,) = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert "ConnectionError" in line
    assert "s1" not in line.replace("redis.sock", "")


async def test_an_expired_session_ends_even_without_redis(server: RedisServer, redis: Redis) -> None:
    """A storage that does not answer gives nobody more time than the session was known to have."""
    async with serve(_alone(redis, check_every=3600)) as wamp:
        await _put(redis, "s1", age=58.8, user="ann")
        peer = await wamp.peer(headers=_headers("s1"))
        await server.stop()
        assert await peer.closed() == (4401, "the session has expired")


# ---- what the gate says


@rows("name", [*UNKEYED, *KEYED])
async def test_no_cookie_and_no_content_breaks_the_door(
    name: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the cookie is, and whatever Redis has under it, its client is let in as nobody."""
    noted = Noted(RedisStorage(redis, max_age=60))
    value = UNKEYED.get(name, b"s1")
    await redis.set(KEY + "s1", KEYED.get(name, b"{}"))
    async with serve(App(middlewares=[noted])) as wamp:
        peer = await wamp.tcp()
        await peer.send(handshake("/ws").removesuffix(b"\r\n") + b"Cookie: AIOHTTP_SESSION=" + value + b"\r\n\r\n")
        assert b" 101 " in await peer.read_head()
        assert [each.user for each in wamp.app.connections] == [None]
    assert "Traceback" not in caplog.text
    assert len(noted.notes) == 1


async def test_the_gate_tells_an_unknown_session(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A cookie of no session in Redis has its own reason, and neither it nor a good one is ever in the log."""
    caplog.set_level(logging.INFO)
    noted = Noted(RedisStorage(redis, max_age=60))
    await _put(redis, "secret-good", user="ann")
    async with serve(App(middlewares=[noted])) as wamp:
        await wamp.peer(headers=_headers("secret-bad"))
        await wamp.peer(headers=_headers("secret-good"))
    assert noted.notes[0] == "the storage knows no such session"
    assert noted.notes[1].startswith("session of user 'ann', expires in ")
    assert "secret" not in caplog.text


# ---- tickets that processes share


async def test_tickets_are_spent_in_redis(redis: Redis) -> None:
    """With SET NX in Redis, of two servers that are asked at once one takes the ticket."""

    async def spent(id: str, expires: float) -> bool:
        return not await redis.set(f"ticket:{id}", 1, nx=True, exat=int(expires) + 1)

    key = b"k" * 32
    apps = [App(middlewares=[Tickets(key, spent=spent)]) for _ in range(2)]
    async with serve(apps[0]) as one, serve(apps[1]) as two:
        ticket = apps[0].tickets.issue("ann")
        answers = await asyncio.gather(*[_opened(each, ticket) for each in (one, two) for _ in range(5)])
        assert sorted(answers) == [101] + [403] * 9
        await one.disconnect()
    (stored,) = await redis.keys("ticket:*")
    assert 0 < await redis.ttl(stored) <= 32


async def _opened(wamp: Server, ticket: str) -> int:
    peer = await wamp.tcp()
    await peer.send(handshake(f"/ws?ticket={ticket}"))
    return int((await peer.read_head()).split()[1])
