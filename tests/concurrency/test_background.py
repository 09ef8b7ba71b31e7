"""Tasks that serve all connections: what one connection or one hook raises ends none of them."""

import asyncio
import contextlib
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web

from wampkit import App, Connection, Sessions
from wampkit.concurrency.background import BackgroundTask
from wampkit.connection.outbox import Outbox
from wampkit.connection.server_connection import ServerConnection
from wampkit.connection.sockets import PING_BATCH, Heartbeat, keep_alive
from wampkit.console.console import Console
from wampkit.sessions.watcher import SessionWatcher

from ..support.loops import on_each_loop
from ..support.wire import CALL, SUBSCRIBE, Peer, Server, eventually, handshake, message, serve

KEEPALIVE = 0.2


class Kept:
    """An app with a task of each kind, and what its `on_error` hook heard."""

    def __init__(self) -> None:
        storage = aiohttp_session.SimpleCookieStorage(max_age=3600)
        self.app = app = App(
            keepalive=KEEPALIVE, console=True, middlewares=[Sessions(storage, check_every=0.05, plain=True)]
        )
        self.errors: list[tuple[BaseException, Connection | None]] = []
        self.ticks = 0
        self.mistake: BaseException | None = None
        app.topic("news", relay=True)

        @app.on_error
        async def note(error: BaseException, connection: Connection | None) -> None:
            self.errors.append((error, connection))

        @app.every(seconds=0.02)
        async def tick() -> None:
            self.ticks += 1
            if self.mistake is not None:
                raise self.mistake


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks come back after a moment instead of a second."""
    monkeypatch.setattr("wampkit.concurrency.background.PAUSE", 0.01)


def tasks() -> dict[str, asyncio.Task[Any]]:
    """The tasks that serve all, by name."""
    return {task.get_name(): task for task in asyncio.all_tasks() if task.get_name().startswith("wampkit: ")}


async def pinged(peer: Peer, times: int = 2) -> None:
    """Wait until the server has pinged a client again."""
    target = peer.pings + times
    await eventually(lambda: peer.pings >= target, "the keepalive goes on")


@on_each_loop
async def test_whatever_kills_them_they_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """Each long-lived task that is cancelled from outside is logged by name and started again."""
    kept = Kept()
    async with serve(kept.app) as server:
        peer = await server.peer()
        before = tasks()
        assert set(before) == {
            "wampkit: the keepalive",
            "wampkit: the console's clock",
            "wampkit: the watch over sessions",
            "wampkit: every: Kept.__init__.<locals>.tick",
        }
        for name, task in before.items():
            task.cancel()
            await eventually(lambda: name in tasks() and tasks()[name] is not before[name], f"{name} again")  # noqa: B023
            assert f"{name.removeprefix('wampkit: ')} was cancelled; starting it again" in caplog.text
        ticks = kept.ticks
        await pinged(peer)
        await eventually(lambda: kept.ticks > ticks)
    assert tasks() == {}


@on_each_loop
async def test_what_raises_in_them_is_told_and_they_run_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the console's clock and the watch over sessions raise is logged, reaches `on_error`, and they go on."""
    for place, name, task in (
        (Console, "_state", "the console's clock"),
        (SessionWatcher, "_live", "the watch over sessions"),
    ):
        kept = Kept()
        original, failures = getattr(place, name), [RuntimeError("a mistake")]

        def failing(self: Any, original: Any = original, failures: list[RuntimeError] = failures) -> Any:
            if failures:
                raise failures.pop()
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr("wampkit.console.console.INTERVAL", 0.02)
            patch.setattr(place, name, failing)
            async with serve(kept.app):
                await eventually(lambda: kept.errors, task)  # noqa: B023
                assert [(str(error), connection) for error, connection in kept.errors] == [("a mistake", None)]
                assert f"{task} failed; starting it again" in caplog.text
                await eventually(lambda: f"wampkit: {task}" in tasks())  # noqa: B023


async def test_a_task_that_is_stopped_before_it_runs_again_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended just before the stop is not started again behind it, and what never began can be stopped."""
    monkeypatch.setattr("wampkit.concurrency.background.PAUSE", 0.05)
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    async with BackgroundTask("it", work):
        await eventually(lambda: runs)
        await asyncio.sleep(0)  # so that its end is known
    assert runs == 1
    await asyncio.sleep(0.1)  # twice the pause after which it would have come back
    assert runs == 1
    await BackgroundTask("another", work).stop()


async def test_a_stop_waits_until_a_task_has_cleaned_up() -> None:
    """What a task still has to do when it is cancelled is done when the stop returns."""
    log: list[str] = []

    async def work() -> None:
        log.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    async with BackgroundTask("it", work) as task:
        assert isinstance(task, BackgroundTask)
        await eventually(lambda: log)
    assert log == ["begun", "cleaned up"]


@on_each_loop
async def test_one_connections_failure_is_told_once_and_the_others_are_kept_alive(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection whose keepalive raises is logged once, given to `on_error` and cut; the others are pinged on."""
    kept = Kept()
    original = Heartbeat.is_due
    async with serve(kept.app) as server:
        peers = [await server.peer() for _ in range(3)]
        victim = server.connection(peers[1])
        its = victim._heartbeat

        def is_due(self: Heartbeat, now: float, *, reading_paused: bool) -> bool:
            if self is its:
                raise ValueError("negative file descriptor")
            return original(self, now, reading_paused=reading_paused)

        monkeypatch.setattr(Heartbeat, "is_due", is_due)
        await pinged(peers[0])
        await pinged(peers[2])
        assert (await peers[1].closed())[0] == 1006
        assert [(str(error), connection) for error, connection in kept.errors] == [("negative file descriptor", victim)]
    assert caplog.text.count("the keepalive of the client failed") == 1


@on_each_loop
async def test_a_connection_that_cannot_even_be_cut_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where cutting raises too, the others are still kept alive, and the app still stops with all its hooks."""
    monkeypatch.setattr("wampkit.server.runtime.FLUSH_TIMEOUT", 0.2)
    kept = Kept()
    stopped: list[str] = []
    kept.app.on_shutdown(lambda: stopped.append("stopped"))
    async with serve(kept.app) as server:
        peers = [await server.peer() for _ in range(2)]
        victim = server.connection(peers[0])
        originals = {name: getattr(ServerConnection, name) for name in ("keep_alive", "cut", "close")}

        def failing(name: str) -> Any:
            def method(self: ServerConnection, *args: Any, **options: Any) -> Any:
                if self is victim:
                    raise ValueError("negative file descriptor")
                return originals[name](self, *args, **options)

            return method

        with monkeypatch.context() as patch:
            for name in originals:
                patch.setattr(ServerConnection, name, failing(name))
            await pinged(peers[1])
            await kept.app.drain(0.1)
            assert (await peers[1].closed())[0] == 1012
            await asyncio.wait_for(kept.app.stop(), 20)
            await eventually(lambda: "wait_closed" not in str(asyncio.all_tasks()), "nothing waits for it any more")
    assert stopped == ["stopped"]
    assert "could not be ended" in caplog.text


@on_each_loop
async def test_clients_that_flood_and_reset_do_not_end_the_keepalive() -> None:
    """After clients whose calls fill their connection and who reset it, silent peers are still found and cut."""
    app = App(keepalive=KEEPALIVE)

    @app.rpc("wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    calls = b"".join(message(CALL, str(number), "wait") for number in range(1100))
    async with serve(app) as server:
        for _ in range(4):
            peers = [await server.raw() for _ in range(10)]
            await asyncio.gather(*(peer.send(calls) for peer in peers))
            for peer in peers:
                peer.reset()
            await eventually(lambda: len(app.connections) == 0)
        silent = await server.raw()
        await eventually(lambda: len(app.connections) == 0, "the silent peer is cut")
        silent.close()


@on_each_loop
async def test_what_every_raises_reaches_on_error(caplog: pytest.LogCaptureFixture) -> None:
    """`on_error` hears of each failure of a periodic function, without a connection; the log says it now and then."""
    kept = Kept()
    kept.mistake = ZeroDivisionError("in the clock")
    async with serve(kept.app):
        await eventually(lambda: len(kept.errors) >= 3)
    assert {(str(error), connection) for error, connection in kept.errors} == {("in the clock", None)}
    assert caplog.text.count("tick failed") == 2, (
        "the first with its traceback, and at the end how many more there were"
    )


async def test_what_a_shutdown_hook_raises_reaches_on_error() -> None:
    """`on_error` hears of a shutdown hook that fails, without a connection."""
    kept = Kept()

    @kept.app.on_shutdown
    async def fail() -> None:
        raise ZeroDivisionError("at the end")

    async with serve(kept.app):
        pass
    assert [(str(error), connection) for error, connection in kept.errors] == [("at the end", None)]


@on_each_loop
async def test_an_outbox_that_raises_loses_only_its_own_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where writing to one subscriber raises, it is cut and told, and the event reaches the others."""
    for method in ("flush", "send_events"):
        kept = Kept()
        original = getattr(Outbox, method)
        async with serve(kept.app) as server:
            peers = [await server.peer() for _ in range(4)]
            for peer in peers:
                await peer.subscribe("news")
            victim = server.connection(peers[1])

            def failing(self: Outbox, *args: Any, original: Any = original, victim: Connection = victim) -> Any:
                if self.owner is victim:
                    raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")
                return original(self, *args)

            with monkeypatch.context() as patch:
                patch.setattr(Outbox, method, failing)
                await kept.app.publish("news", "to all")
                for peer in (peers[0], *peers[2:]):
                    assert await peer.events(1) == ["to all"], method
                assert (await peers[1].closed())[0] == 1006
                await eventually(lambda: kept.errors)  # noqa: B023
                assert kept.errors[0][1] is victim
        assert "writing to the client failed" in caplog.text


# ---- the stop


class Ending:
    """An app that notes what its stop has run, and whose clients' farewells take as long as the test says."""

    def __init__(self, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.log: list[str] = []

        @contextlib.asynccontextmanager
        async def lifespan(app: App) -> Any:
            yield
            self.log.append("lifespan")

        self.app = app = App(lifespan=lifespan, **options)
        self.news = app.topic("news", relay=True)
        app.on_shutdown(lambda: self.log.append("shutdown 1"))
        app.on_shutdown(lambda: self.log.append("shutdown 2"))

    async def linger(self, connection: Connection) -> None:
        self.log.append("begun")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        self.log.append("left")


ENDED = ["shutdown 2", "shutdown 1", "lifespan"]


async def stopped(server: Server) -> None:
    """Stop as a signal does, within a bounded time."""
    await asyncio.wait_for(server.runner.cleanup(), 20)


@on_each_loop
async def test_a_stop_waits_for_hooks_that_are_running() -> None:
    """Clients whose on_disconnect still runs when the app stops have it run to its end, before the shutdown hooks."""
    ending = Ending()
    ending.app.on_disconnect(ending.linger)
    async with serve(ending.app) as server:
        for _ in range(5):
            (await server.raw()).reset()
        await eventually(lambda: ending.log.count("begun") == 5)
        assert len(ending.app.connections) == 0, "who has gone is not counted"
        stopping = asyncio.create_task(stopped(server))
        await eventually(lambda: not ending.app.connections and server.runner.server is not None)
        asyncio.get_running_loop().call_later(0.3, ending.gate.set)
        await stopping
    assert ending.log == ["begun"] * 5 + ["left"] * 5 + ENDED


@on_each_loop
async def test_a_farewell_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks and a broker that hang do not hold up the stop: it goes on after a bounded time, and says so."""
    monkeypatch.setattr("wampkit.server.runtime.HOOKS_TIMEOUT", 0.1)
    for place in ("on_disconnect", "on_unsubscribe", "unsubscribe"):
        ending = Ending()
        if place == "on_disconnect":
            ending.app.on_disconnect(ending.linger)
        elif place == "on_unsubscribe":
            ending.news.on_unsubscribe(ending.linger)
        else:
            gate = ending.gate
            monkeypatch.setattr(
                "wampkit.pubsub.broker.MemoryBroker.unsubscribe", lambda self, topic, gate=gate: gate.wait()
            )
        async with serve(ending.app) as server:
            raw = await server.raw()
            await raw.send_message(SUBSCRIBE, "news")
            await eventually(lambda: len(ending.app.topics) == 1)  # noqa: B023
            raw.reset()
            await eventually(lambda: len(ending.app.connections) == 0, place)  # noqa: B023
            await stopped(server)
            assert ending.log[-3:] == ENDED, place
            assert ("cancelled" in ending.log) == (place != "unsubscribe"), place
    assert "hooks of 1 clients took longer than 0.1 s and are cancelled" in caplog.text


@on_each_loop
async def test_a_step_of_the_stop_that_fails_skips_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step of a stop raises, the hooks and the lifespan run, and the app can start again."""
    for place in (
        "_end_keepalive",
        "_end_logins",
        "_end_periodic",
        "_end_connections",
        "_end_departures",
        "wait_closed",
    ):
        ending = Ending()

        async def fail(*_: Any) -> None:
            raise ValueError("negative file descriptor")

        with monkeypatch.context() as patch:
            async with serve(ending.app) as server:
                peer = await server.peer()
                patch.setattr(f"wampkit.server.runtime.Runtime.{place}", fail)
                await ending.app.drain(0.1)
                await asyncio.wait_for(ending.app.stop(), 20)
                assert ending.log == ENDED, place
                assert not ending.app.running
                patch.undo()
                await peer.close()
                for task in tasks().values():
                    task.cancel()


# ---- connections that were never welcomed


async def test_who_was_never_welcomed_is_not_told_of_as_gone() -> None:
    """A client that is closed between its gates and WELCOME runs neither on_connect nor on_disconnect."""
    app = App()
    log: list[str] = []
    app.on_connect(lambda connection: log.append("connect"))
    app.on_disconnect(lambda connection: log.append("disconnect"))
    site = web.Application()
    app.setup(site)
    closing = True

    @site.on_response_prepare.append
    async def close(request: web.Request, response: web.StreamResponse) -> None:
        for connection in app.connections.arriving if closing else ():
            connection.close(1008, "not you")

    async with serve(app, web_app=site) as server:
        raw = await server.tcp()
        await raw.send(handshake())
        await raw.read_to_end()
        assert len(app.connections) == 0
        closing = False
        peer = await server.peer()
        await peer.close()
        await eventually(lambda: log == ["connect", "disconnect"])


# ---- many connections


async def test_the_keepalive_of_many_connections_leaves_turns_to_others() -> None:
    """With 20,000 connections no more than a batch is looked at in one turn of the loop, and each one each tick.

    Timers that run late by less than a tick, as all do, are not taken for a loop that stood still.
    """
    turn = 0
    looks: dict[int, int] = {}
    turns: list[int] = []
    stalls: list[float] = []

    class Fake:
        def keep_alive(self, now: float, stalled: float) -> None:
            looks[id(self)] = looks.get(id(self), 0) + 1
            turns.append(turn)
            stalls.append(stalled)

    def count() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count)

    loop = asyncio.get_running_loop()
    loop.call_soon(count)
    connections: Any = [Fake() for _ in range(20_000)]
    task = asyncio.create_task(keep_alive(connections, 20.0, lambda connection, error: None))
    await eventually(lambda: len(turns) >= 20_000, timeout=20)
    task.cancel()
    await asyncio.wait({task})
    assert set(looks.values()) == {1}
    most = max(turns.count(each) for each in set(turns[:2000]))
    assert most <= PING_BATCH
    assert set(stalls[:2000]) == {0.0}
