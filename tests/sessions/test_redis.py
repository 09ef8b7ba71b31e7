"""`Sessions` with real Redis: sessions on the server, which can be read anew, changed, and ended from elsewhere."""

import asyncio
import gc
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis as blocking_redis
from aiohttp_session.redis_storage import RedisStorage
from redis.asyncio import Redis

from wampkit import App, CallError, Client, Connection, NotAllowed, Session, Sessions, Tickets, requires, run_on_loop
from wampkit.sessions import storage as storage

from ..support.redis_server import RedisServer, redis_server
from ..support.tables import rows
from ..support.website import Visitor, website
from ..support.wire import PATIENCE, Server, eventually, handshake, serve
from .test_middleware import KEYED, UNKEYED, Noted

KEY = "AIOHTTP_SESSION_"


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """A Redis server of the test's own."""
    async with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """A client of it."""
    async with server.client() as client:
        yield client


async def _held(redis: Redis, visitor: Visitor) -> dict[str, Any]:
    """What Redis holds of the visitor's session."""
    content = await redis.get(KEY + visitor.cookie)
    assert content is not None
    session: dict[str, Any] = json.loads(content).get("session", {})
    session.pop("sid", None)
    return session


async def _ended(client: Client) -> tuple[int | None, str]:
    await eventually(lambda: client.state == "closed", "the server closes")
    assert client.error is not None
    return client.error.code, client.error.reason.partition(": ")[2].strip("'")


async def _until(ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """Ask until the answer is what is wanted."""
    end = time.monotonic() + PATIENCE
    while not wanted(answer := await ask()):
        assert time.monotonic() < end, answer
    return answer


def _put(redis: Redis, id: str, *, age: float = 0.0, **session: Any) -> Any:
    return redis.set(KEY + id, json.dumps({"created": time.time() - age, "session": session}))


def _headers(id: str) -> dict[str, str]:
    return {"Cookie": f"AIOHTTP_SESSION={id}"}


# ---- reading and changing


class Shop:
    """Procedures that read and change the session."""

    def __init__(self) -> None:
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()

    def __call__(self, app: App) -> None:
        for name in (
            "put",
            "put_in_thread",
            "add",
            "drop",
            "clear",
            "wait",
            "refuse",
            "fail",
            "early",
            "anew",
            "unfit",
        ):
            app.add_rpc(name, getattr(self, name))

    async def put(self, key: str, value: Any, session: Session) -> None:
        session[key] = value

    def put_in_thread(self, key: str, value: Any, session: Session, conn: Connection) -> None:
        session[key] = value
        conn.session[f"{key} by hand"] = value

    async def add(self, item: str, session: Session) -> None:
        session.setdefault("cart", []).append(item)

    async def drop(self, key: str, session: Session) -> None:
        del session[key]

    async def clear(self, session: Session) -> None:
        session.clear()

    async def wait(self, session: Session) -> list[str]:
        session["waited"] = True
        self.entered.set()
        await self.go_on.wait()
        return sorted(session)

    async def refuse(self, session: Session) -> None:
        session["attempts"] = 1
        raise NotAllowed("not you")

    async def fail(self, session: Session) -> None:
        session["failed"] = True
        raise ValueError("oops")

    async def early(self, session: Session) -> bool:
        session["early"] = True
        await session.save()
        return "early" in session

    async def anew(self, session: Session) -> list[Any]:
        before = session.get("theme")
        session["mine"] = 1
        await session.refresh()
        return [before, session.get("theme"), session.get("mine")]

    async def unfit(self, session: Session) -> None:
        session["x"] = object()


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_a_change_is_there_when_the_call_is_answered(redis: Redis, shop: Shop) -> None:
    """What a handler changes in the session, the site sees as soon as the call is answered; and the other way round."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            assert await client.call("who") == ["ann", []]
            await client.call("put", "x", {"deep": [1]})
            assert json.loads(await visitor.get("/get"))["x"] == {"deep": [1]}
            assert (await client.call("seen"))["x"] == {"deep": [1]}
            await client.call("drop", "x")
            assert "x" not in json.loads(await visitor.get("/get"))
            assert await client.call("early") is True
            await client.call("add", "tea")
            await client.call("add", "milk")
            assert (await _held(redis, visitor))["cart"] == ["tea", "milk"]


async def test_a_change_keeps_key_cookie_and_life(redis: Redis, shop: Shop) -> None:
    """A change is written under the session's own key, lives as long as aiohttp-session lets it, and makes no other."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann")
        key, cookie = KEY + visitor.cookie, visitor.cookie
        await redis.expire(key, 50)
        async with visitor.connect() as client:
            await client.call("put", "x", 1)
            (connection,) = visitor.website.app.connections
            assert connection.session.expires == pytest.approx(time.time() + 600, abs=2)
        assert await redis.keys("*") == [key.encode()]
        assert 590 < await redis.ttl(key) <= 600
        assert visitor.cookie == cookie


async def test_only_what_was_changed_is_written(redis: Redis, shop: Shop) -> None:
    """A view that changes the session while a handler runs does not lose its change to the handler's."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann", theme="dark")
        async with visitor.connect() as client:
            waiting = asyncio.create_task(client.call("wait"))
            await shop.entered.wait()
            await visitor.post("/set", theme="light", lang="fr")
            shop.go_on.set()
            assert await waiting == ["sid", "theme", "user", "waited"]  # a snapshot
        assert await _held(redis, visitor) == {"user": "ann", "theme": "light", "lang": "fr", "waited": True}


async def test_plain_handlers_and_hooks_change_it_too(redis: Redis, shop: Shop) -> None:
    """A `def` handler's change is written before its answer; one through `connection.session` soon after."""

    def declare(app: App) -> None:
        shop(app)

        @app.on_connect
        async def connected(connection: Connection) -> None:
            connection.session["connected"] = True
            assert connection.session["connected"] is True

        @app.rpc("in a thread")
        def in_a_thread(session: Session) -> Any:
            session["saved"] = True
            run_on_loop(session.save())
            run_on_loop(session.refresh())
            return session["saved"]

    async with website(RedisStorage(redis, max_age=600), declare) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            await client.call("put_in_thread", "x", 1)
            assert (await _held(redis, visitor))["x"] == 1
            assert await client.call("in a thread") is True
            expected = {"user": "ann", "connected": True, "x": 1, "x by hand": 1, "saved": True}
            await _until(lambda: _held(redis, visitor), lambda held: held == expected)


async def test_what_a_failed_handler_changed(redis: Redis, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Changes are written when the handler answers with a `WampError`, and given up with a word for other errors."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            with pytest.raises(CallError, match="not you"):
                await client.call("refuse")
            assert await _held(redis, visitor) == {"user": "ann", "attempts": 1}
            with pytest.raises(CallError, match="the procedure failed"):
                await client.call("fail")
            assert await _held(redis, visitor) == {"user": "ann", "attempts": 1}
    assert "ValueError: its changes to the session are not written" in caplog.text


async def test_a_value_that_cannot_be_written_fails_the_call(
    redis: Redis, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """What JSON cannot carry fails the call and leaves the session as it is."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            with pytest.raises(CallError, match="the procedure failed"):
                await client.call("unfit")
            await client.call("put", "y", 1)
            assert await _held(redis, visitor) == {"user": "ann", "y": 1}
    assert "not JSON serializable" in caplog.text


async def test_refresh_reads_anew(redis: Redis, shop: Shop) -> None:
    """`refresh` sees what a view has changed since, under what the handler itself has changed."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann", theme="dark")
        async with visitor.connect() as client:
            await visitor.post("/set", theme="light")
            assert (await client.call("seen"))["theme"] == "dark"
            assert await client.call("anew") == ["dark", "light", 1]
            assert (await client.call("seen"))["theme"] == "light"
        assert (await _held(redis, visitor))["mine"] == 1


async def test_changes_of_many_at_once_are_all_written(redis: Redis, shop: Shop) -> None:
    """Calls that change one session side by side, on two servers, lose none of their changes."""
    kept = RedisStorage(redis, max_age=600)
    async with website(kept, shop) as visitor, website(kept, Shop()) as other:
        await visitor.post("/login", user="ann")
        other.http.cookie_jar.update_cookies({"AIOHTTP_SESSION": visitor.cookie})
        async with visitor.connect() as one, other.connect() as two:
            await asyncio.gather(*[(one, two)[n % 2].call("put", f"key {n}", n) for n in range(40)])
        assert await _held(redis, visitor) == {"user": "ann", **{f"key {n}": n for n in range(40)}}


# ---- what has ended stays so


async def test_a_session_that_has_ended_is_not_brought_back(redis: Redis, shop: Shop) -> None:
    """A change after the logout fails the call with its reason, writes nothing, and closes the connection."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        for end in (redis.delete, lambda key: redis.set(key, "{}")):
            shop.entered.clear()
            shop.go_on.clear()
            await visitor.post("/login", user="ann")
            key = KEY + visitor.cookie
            async with visitor.connect() as client:
                waiting = asyncio.create_task(client.call("wait"))
                await shop.entered.wait()
                await end(key)
                shop.go_on.set()
                with pytest.raises(CallError, match="the session has ended: log in again") as refused:
                    await waiting
                assert refused.value.uri.endswith("not_authorized")
                assert await _ended(client) == (4401, "the session has ended")
            assert await redis.get(key) in (None, b"{}")


async def test_a_logout_in_the_middle_of_a_write_wins(server: RedisServer, redis: Redis, shop: Shop) -> None:
    """A session that ends between the reading and the writing of a change is not brought back either."""
    logouts: list[str] = []

    def encode(content: object) -> str:
        # This is called by the storage in just that moment.
        if logouts:
            with blocking_redis.Redis(unix_socket_path=server.socket) as elsewhere:
                elsewhere.set(logouts.pop(), "{}")
        return json.dumps(content)

    async with website(RedisStorage(redis, max_age=600, encoder=encode), shop) as visitor:
        await visitor.post("/login", user="ann")
        key = KEY + visitor.cookie
        async with visitor.connect() as client:
            logouts.append(key)
            with pytest.raises(CallError, match="the session has ended"):
                await client.call("put", "x", 1)
            assert await _ended(client) == (4401, "the session has ended")
        assert await redis.get(key) == b"{}"


async def test_a_hooks_change_to_an_ended_session_is_told(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A change that nobody waits for and that cannot be written is in the log."""

    def declare(app: App) -> None:
        @app.on_disconnect
        async def gone(connection: Connection) -> None:
            connection.session["last seen"] = time.time()

    async with website(RedisStorage(redis, max_age=600), declare) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect():
            await visitor.post("/logout")
        await eventually(lambda: "a change to a session is not written: the session has ended" in caplog.text)


class _Slow(RedisStorage):
    """A storage that takes its time to write."""

    async def save_session(self, *args: Any) -> None:
        await asyncio.sleep(0.2)
        await super().save_session(*args)


async def test_the_stop_waits_for_what_hooks_have_changed(redis: Redis) -> None:
    """What `on_disconnect` leaves in the session of a client that the stop sends away is written before it ends."""

    def declare(app: App) -> None:
        @app.on_disconnect
        async def gone(connection: Connection) -> None:
            connection.session["left"] = True

    async with website(_Slow(redis, max_age=600), declare) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect():
            await visitor.website.server.runner.cleanup()
            assert await _held(redis, visitor) == {"user": "ann", "left": True}


async def test_a_handler_can_end_the_session(redis: Redis, shop: Shop) -> None:
    """A handler that empties the session ends it: its call is answered, then its connections are closed."""
    async with website(RedisStorage(redis, max_age=600), shop) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client, visitor.connect() as other:
            await client.call("clear")
            assert await _ended(client) == (4401, "the session has ended")
            assert await _ended(other) == (4401, "the session has ended")
            assert json.loads(await visitor.get("/get")) == {}


# ---- its end closes connections


async def test_a_logout_view_closes_the_sockets_at_once(redis: Redis) -> None:
    """The view that logs out finds the connections by the session's key and closes them, long before any look."""
    async with website(RedisStorage(redis, max_age=600), check_every=3600) as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as client:
            assert await client.call("who") == ["ann", []]
            assert await visitor.post("/logout") == "1"
            assert await _ended(client) == (4401, "logged out")
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
        now = await _until(reads, lambda count: count > before)
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
