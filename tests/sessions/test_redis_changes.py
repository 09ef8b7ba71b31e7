"""Changing a session that is kept in Redis: what is written, when, and what has ended stays ended."""

import asyncio
import json
import time
from typing import Any

import pytest
import redis as blocking_redis
from aiohttp_session.redis_storage import RedisStorage
from redis.asyncio import Redis

from wampkit import App, CallError, Connection, NotAllowed, Session, run_on_loop
from wampkit.sessions import storage as storage

from ..support.redis_server import RedisServer
from ..support.session_redis import KEY, ended, until
from ..support.website import Visitor, website
from ..support.wire import eventually


async def _held(redis: Redis, visitor: Visitor) -> dict[str, Any]:
    """What Redis holds of the visitor's session."""
    content = await redis.get(KEY + visitor.cookie)
    assert content is not None
    session: dict[str, Any] = json.loads(content).get("session", {})
    session.pop("sid", None)
    return session


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
            await until(lambda: _held(redis, visitor), lambda held: held == expected)


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
                assert await ended(client) == (4401, "the session has ended")
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
            assert await ended(client) == (4401, "the session has ended")
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
            assert await ended(client) == (4401, "the session has ended")
            assert await ended(other) == (4401, "the session has ended")
            assert json.loads(await visitor.get("/get")) == {}
