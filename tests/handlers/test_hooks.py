"""Hooks: start and stop, clients that come and go, and what runs on a clock."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wampkit import App, Connection, DeclarationError, WampError

from ..support.wire import CALL, RESULT, Peer, eventually, message, serve


def make(**options: Any) -> tuple[App, list[str]]:
    app = App(**options)
    log: list[str] = []

    @app.rpc("echo")
    async def echo(x: Any) -> Any:
        return x

    return app, log


# ---- start and stop


async def test_hooks_run_in_order_and_back() -> None:
    """Lifespan, then start-up hooks in order; at the stop on_disconnect, shutdown hooks in reverse, lifespan last."""
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        log.append("lifespan in")
        yield
        log.append("lifespan out")

    app = App(lifespan=lifespan)
    app.on_startup(lambda: log.append("up 1"))

    @app.on_startup
    async def second() -> None:
        log.append("up 2")

    app.on_shutdown(lambda: log.append("down 1"))

    @app.on_shutdown
    async def down() -> None:
        log.append("down 2")

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        await asyncio.sleep(0.01)
        log.append("gone")

    async with serve(app) as server:
        assert app.running
        await server.peer()
        await server.runner.cleanup()
    assert log == ["lifespan in", "up 1", "up 2", "gone", "down 2", "down 1", "lifespan out"]
    assert not app.running


async def test_stopping_without_draining_waits_for_the_hooks() -> None:
    """`stop` alone cuts whoever is there, and hooks of theirs, blocking ones too, have run when it returns."""
    app, log = make()

    @app.on_disconnect
    def gone(connection: Connection) -> None:
        log.append(f"gone {connection.close_code}")

    app.on_shutdown(lambda: log.append("down"))
    async with serve(app) as server:
        await server.peer()
        await server.raw()
        await app.stop()
        assert log == ["gone 1001", "gone 1001", "down"]
        assert not app.running


async def test_a_failing_shutdown_hook_stops_no_other() -> None:
    """A shutdown hook that raises is logged, the others and the lifespan's end run, and the stop is clean."""
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        log.append("out")

    app = App(lifespan=lifespan)
    app.on_shutdown(lambda: log.append("first"))

    @app.on_shutdown
    async def fails() -> None:
        raise RuntimeError("x")

    async with serve(app):
        pass
    assert log == ["first", "out"]


class Boom(Exception):
    pass


@pytest.mark.parametrize("where", ["startup", "lifespan", "declaration"])
async def test_a_start_that_fails_is_undone_and_can_be_repeated(where: str) -> None:
    """What fails at the start reaches whoever starts, nothing is left running, and the next start may succeed."""
    log: list[str] = []
    failing = True

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if failing and where == "lifespan":
            raise Boom
        log.append("in")
        yield
        log.append("out")

    app = App(lifespan=lifespan)
    app.on_startup(lambda: log.append("up"))

    @app.on_startup
    async def maybe() -> None:
        if failing and where == "startup":
            raise Boom

    if where == "declaration":

        @app.rpc("bad/{x}")
        async def bad() -> None: ...

    @app.every(seconds=0.001)
    async def tick() -> None: ...

    before = asyncio.all_tasks()
    with pytest.raises(DeclarationError if where == "declaration" else Boom):
        await app.start()
    assert not app.running
    assert asyncio.all_tasks() == before
    assert log == {"startup": ["in", "up", "out"], "lifespan": [], "declaration": []}[where]
    if where == "declaration":
        return
    failing = False
    log.clear()
    async with serve(app) as server:
        assert (await (await server.peer()).call("x"))[1]
    assert log == ["in", "up", "out"]


async def test_a_start_that_fails_stops_the_aiohttp_application() -> None:
    """Served by aiohttp, a failing start-up hook stops the runner's start, and no port is open."""
    app, _ = make()

    @app.on_startup
    async def fails() -> None:
        raise Boom

    with pytest.raises(Boom):
        async with serve(app):
            raise AssertionError("must not be served")
    assert not app.running


async def test_an_app_starts_again_after_its_stop() -> None:
    """An app can be served, stopped and served again, with what was declared between, and nothing carried over."""
    app, _ = make()
    ids = []
    for round_number in range(3):
        app.add_rpc(f"round {round_number}", lambda: "def")
        async with serve(app) as server:
            peer = await server.peer()
            ids.append(peer.id)
            assert await peer.result("echo", round_number) == round_number
            assert await peer.result(f"round {round_number}") == "def"
            assert len(app.connections) == 1
    assert len(set(ids)) == 3


async def test_starting_twice_is_an_error() -> None:
    """An app that runs cannot be started again, and goes on running."""
    app, _ = make()
    async with serve(app) as server:
        with pytest.raises(RuntimeError, match="running already"):
            await app.start()
        assert await (await server.peer()).result("echo", 1) == 1


async def test_what_needs_a_running_app_says_so() -> None:
    """Publishing and the registers say that the app does not run, before and after."""
    app, _ = make()
    app.topic("t")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not running"):
            await app.publish("t", 1)
        with pytest.raises(RuntimeError, match="not running"):
            _ = app.connections
        with pytest.raises(RuntimeError, match="not running"):
            _ = app.topics
        await app.start()
        await app.stop()
    await app.stop()


# ---- clients


async def test_on_connect_runs_before_the_first_message() -> None:
    """on_connect hooks, blocking ones too, are done before a message of the client is taken."""
    app, log = make()
    gate = asyncio.Event()

    @app.on_connect
    async def connected(connection: Connection) -> None:
        await gate.wait()
        connection.attributes["user"] = "alice"
        log.append("connected")

    @app.on_connect
    def blocking(connection: Connection) -> None:
        log.append(connection.attributes["user"])

    @app.rpc("who")
    async def who(connection: Connection) -> Any:
        return connection.attributes["user"]

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "who")
        gate.set()
        assert await peer.next() == [RESULT, "1", "alice"]
        assert log == ["connected", "alice"]


async def test_on_connect_may_refuse_with_a_reason() -> None:
    """A WampError in on_connect closes with 1008 and its description; messages sent meanwhile are not run."""
    app, log = make()

    @app.on_connect
    async def refuse(connection: Connection) -> None:
        raise WampError("app:banned", "you are banned")

    @app.on_connect
    async def later(connection: Connection) -> None:
        log.append("later")

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append(f"{connection.close_code} {connection.close_reason}")

    @app.rpc("run")
    async def run() -> None:
        log.append("ran")

    async with serve(app) as server:
        peer = await server.raw(behind=message(CALL, "1", "run"))
        assert await peer.read_close() == (1008, "you are banned")
        peer.close()
        await eventually(lambda: len(app.connections) == 0)
    assert log == ["1008 you are banned"]


@pytest.mark.parametrize(
    "error", [ValueError("hunter2"), SystemExit("hunter2"), asyncio.CancelledError("hunter2")], ids=repr
)
async def test_an_on_connect_that_fails_closes_with_1011(error: BaseException) -> None:
    """Any other exception closes with 1011 and no internals, and on_error and on_disconnect hear of it."""
    app, log = make()

    @app.on_connect
    async def fails(connection: Connection) -> None:
        raise error

    @app.on_error
    async def heard(what: BaseException, connection: Connection) -> None:
        log.append(type(what).__name__)

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append(str(connection.close_code))

    async with serve(app) as server:
        peer = await Peer.open(server.url)
        code, reason = await peer.closed()
        assert code == 1011
        assert "hunter2" not in reason
        await peer.close()
        await eventually(lambda: len(app.connections) == 0)
    assert log == [type(error).__name__, "1011"]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit("x"), asyncio.CancelledError("x")], ids=repr)
async def test_a_failing_on_disconnect_stops_no_other(error: BaseException) -> None:
    """Each on_disconnect hook runs, whatever an earlier one raises, and the connection leaves the register."""
    app, log = make()

    @app.on_disconnect
    async def fails(connection: Connection) -> None:
        raise error

    @app.on_disconnect
    def blocking(connection: Connection) -> None:
        assert threading.current_thread() is not threading.main_thread()
        log.append(connection.id)

    async with serve(app) as server:
        peer = await server.raw()
        peer.reset()
        await eventually(lambda: len(app.connections) == 0)
        assert log == [peer.id]


async def test_a_client_that_goes_during_on_connect_is_noticed() -> None:
    """A client that vanishes while on_connect runs ends with 1006, is told to on_disconnect, and runs nothing."""
    app, log = make()
    entered, gate = asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def slow(connection: Connection) -> None:
        entered.set()
        await gate.wait()

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append(f"{connection.close_code}")

    async with serve(app) as server:
        peer = await server.raw()
        await entered.wait()
        peer.reset()
        gate.set()
        await eventually(lambda: log == ["1006"])


async def test_a_server_that_stops_during_on_connect_tells_on_disconnect() -> None:
    """A stop in the middle of on_connect ends the connection properly: the hook is told a code, nothing hangs."""
    app, log = make()
    entered = asyncio.Event()

    @app.on_connect
    async def slow(connection: Connection) -> None:
        entered.set()
        await asyncio.Event().wait()

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append(f"{connection.close_code}")

    async with serve(app, drain=0.1) as server:
        await server.raw()
        await entered.wait()
        await asyncio.wait_for(server.runner.cleanup(), 20)
    assert log == ["1012"]


# ---- on a clock


async def test_every_runs_again_and_again() -> None:
    """`every` runs its function, async or not, for as long as the app runs, whatever it raises."""
    app, _ = make()
    counts = {"async": 0, "def": 0}

    @app.every(seconds=0.005)
    async def tick() -> None:
        counts["async"] += 1
        raise RuntimeError("logged, and on it goes")

    @app.every(seconds=0.005)
    def block() -> None:
        counts["def"] += 1

    async with serve(app):
        await eventually(lambda: min(counts.values()) >= 3)
    after = dict(counts)
    await asyncio.sleep(0.03)
    assert counts == after


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_every_needs_a_time(seconds: float) -> None:
    """An interval that is not above 0 is refused."""
    with pytest.raises(DeclarationError):
        App().every(seconds=seconds)


# ---- wrong declarations


@pytest.mark.parametrize(
    ("add", "count"), [("on_startup", 0), ("on_shutdown", 0), ("on_connect", 1), ("on_disconnect", 1), ("on_error", 2)]
)
def test_a_hook_of_the_wrong_form_is_refused(add: str, count: int) -> None:
    """A hook that takes another number of arguments is refused with its name and what it must take."""
    app = App()

    async def zero() -> None: ...

    async def one(a: Any) -> None: ...

    async def two(a: Any, b: Any) -> None: ...

    for number, hook in enumerate((zero, one, two)):
        if number == count:
            assert getattr(app, add)(hook) is hook
        else:
            with pytest.raises(DeclarationError, match=rf"{add}: .*{hook.__name__} must take"):
                getattr(app, add)(hook)


async def test_shutdown_hooks_run_only_after_a_whole_start() -> None:
    """Where a start-up hook failed, what the others would take down was never all put up."""
    app, log = make()
    app.on_shutdown(lambda: log.append("down"))

    @app.on_startup
    async def fail() -> None:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        await app.start()
    assert log == []
    assert not app.running
