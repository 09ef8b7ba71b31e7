"""A message is answered, and its events leave, when its dependencies have ended well; otherwise it failed."""

import asyncio
import contextlib
import gc
import logging
import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from wampkit import (
    App,
    CallNext,
    Connection,
    Depends,
    Incoming,
    MemoryBroker,
    NotAllowed,
    Publication,
    Topic,
    WampError,
    run_on_loop,
)
from wampkit.handlers.transaction import Transaction

from ..support.wire import CALL, ERROR, EVENT, PUBLISH, RESULT, SUBSCRIBE, Peer, Server, serve

GENERIC = "http://api.wamp.ws/error#generic"
NEWS = "news"


def events_of(peer: Peer) -> list[Any]:
    return [message[2] for message in peer.rest() if message[0] == EVENT]


@contextlib.asynccontextmanager
async def listening(app: App) -> AsyncIterator[tuple[Server, Peer, Peer]]:
    """A caller, and a listener who is subscribed to the news."""
    async with serve(app) as server:
        caller, listener = await server.peer(), await server.peer()
        await listener.subscribe(NEWS)
        await listener.settle()
        yield server, caller, listener


# ---- a real database


def notes(file: Path, *, blocking: bool) -> App:
    """Keeps notes in SQLite, as examples/dependencies.py does, and tells of each."""
    app = App()
    app.topic(NEWS)

    def opened() -> sqlite3.Connection:
        db = sqlite3.connect(file, check_same_thread=False, timeout=0.05)
        db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        return db

    def database() -> Iterator[sqlite3.Connection]:
        with contextlib.closing(opened()) as db, db:
            yield db

    async def database_on_the_loop() -> AsyncIterator[sqlite3.Connection]:
        with contextlib.closing(opened()) as db, db:
            yield db

    provider = database if blocking else database_on_the_loop
    Database = Annotated[sqlite3.Connection, Depends(provider)]

    @app.rpc("add")
    async def add(text: str, db: Database, connection: Connection) -> int:
        db.execute("INSERT INTO notes VALUES (?)", (text,))
        await app.publish(NEWS, text)
        (count,) = db.execute("SELECT count(*) FROM notes").fetchone()
        return int(count)

    @app.rpc("list")
    async def listed(db: Database) -> list[str]:
        return [text for (text,) in db.execute("SELECT text FROM notes")]

    return app


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("handled", [False, True])
async def test_a_commit_that_fails_is_the_answer(
    blocking: bool, handled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While another connection reads, SQLite cannot commit: the call fails, and nobody hears of the note."""
    file = tmp_path / "notes.db"
    app = notes(file, blocking=blocking)
    if handled:

        @app.error_handler(sqlite3.OperationalError)
        async def busy(error: sqlite3.OperationalError) -> WampError:
            return WampError("db:busy", str(error))

    async with listening(app) as (server, caller, listener):
        assert await caller.result("add", "one") == 1
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM notes").fetchall()
            answer = await caller.call("add", "two")
        assert answer[0] == ERROR
        assert answer[2:4] == (["db:busy", "database is locked"] if handled else [GENERIC, "the procedure failed"])
        assert await caller.result("list") == ["one"]
        assert await caller.result("add", "three") == 2
        await listener.settle()
        assert events_of(listener) == ["one", "three"]
        name = "database" if blocking else "database_on_the_loop"
        line = f"procedure 'add' failed: its dependency notes.<locals>.{name} failed at its end"
        told = [record.getMessage() for record in caplog.records if line in record.getMessage()]
        assert len(told) == (0 if handled else 1)
        assert all(server.connection(caller).id[:8] in each for each in told)


# ---- from wherever it is published


class Ways:
    """An app that publishes in each way that there is, inside a message with a generator dependency."""

    def __init__(self, ending: str) -> None:
        self.app = app = App()
        self.ending = ending
        app.topic(NEWS)
        app.on_connect(lambda connection: setattr(connection, "user", "everybody"))
        self.done = asyncio.Event()

        async def unit() -> AsyncIterator[None]:
            yield
            self.done.set()
            if ending == "the dependency fails":
                raise RuntimeError("cannot commit")

        def unit_in_thread() -> Iterator[None]:
            yield
            if ending == "the dependency fails":
                raise RuntimeError("cannot commit")

        async def telling(unit: Annotated[None, Depends(unit)]) -> None:
            await app.publish(NEWS, "from a dependency")

        async def telling_at_its_end(unit: Annotated[None, Depends(unit)]) -> AsyncIterator[None]:
            yield
            await app.publish(NEWS, "from the end of a dependency")

        Unit, InThread = Annotated[None, Depends(unit)], Annotated[None, Depends(unit_in_thread)]

        @app.rpc("app")
        async def by_app(_: Unit) -> None:
            await app.publish(NEWS, "from the app")
            self.end()

        @app.rpc("user")
        async def by_user(_: InThread) -> None:
            await app.to_user("everybody").publish(NEWS, "to a user")
            self.end()

        @app.rpc("thread")
        def by_thread(_: Unit) -> None:
            run_on_loop(app.publish(NEWS, "from a thread"))
            self.end()

        @app.rpc("other thread")
        async def by_other_thread(_: Unit) -> None:
            await asyncio.to_thread(lambda: None)
            await app.publish(NEWS, "after another thread")
            self.end()

        @app.rpc("task")
        async def by_task(_: Unit) -> None:
            await asyncio.create_task(app.publish(NEWS, "from a task"))
            self.end()

        @app.rpc("dependency")
        async def by_dependency(_: Annotated[None, Depends(telling)]) -> None:
            self.end()

        @app.rpc("end of a dependency")
        async def by_end(_: Annotated[None, Depends(telling_at_its_end)]) -> None:
            self.end()

        @app.topic("topic")
        async def by_topic(event: Any, topic: Topic, _: Unit) -> Any:
            await topic.publish("from a topic")
            self.end()
            return "returned"

        hooked = app.topic("hooked")

        @hooked.on_subscribe
        async def by_hook(topic: Topic, _: Unit) -> None:
            await app.publish(NEWS, "from a hook")
            await topic.publish("to the newcomer")
            self.end()

    def end(self) -> None:
        if self.ending == "the handler refuses":
            raise NotAllowed("no")
        if self.ending == "the handler fails":
            raise ValueError("oops")


WAYS = {
    "app": ["from the app"],
    "user": ["to a user"],
    "thread": ["from a thread"],
    "other thread": ["after another thread"],
    "task": ["from a task"],
    "dependency": ["from a dependency"],
    "end of a dependency": ["from the end of a dependency"],
    "topic": ["from a topic", "returned"],
    "hooked": ["from a hook", "to the newcomer"],
}
ENDINGS = ("well", "the dependency fails", "the handler refuses", "the handler fails")


async def test_events_leave_only_if_all_ends_well(caplog: pytest.LogCaptureFixture) -> None:
    """Whichever way a message publishes, its events leave if it ends well, in order, and are dropped otherwise."""
    caplog.set_level(logging.CRITICAL)
    wrong = {}
    for ending in ENDINGS:
        ways = Ways(ending)
        async with listening(ways.app) as (_, caller, listener):
            await listener.subscribe("topic")
            for way, wanted in WAYS.items():
                if way == "topic":
                    await caller.send(PUBLISH, way, 1)
                elif way == "hooked":
                    await listener.send(SUBSCRIBE, way)
                else:
                    answer = await caller.call(way)
                    if (answer[0] == RESULT) != (ending == "well"):
                        wrong[f"{way}, {ending}: answer"] = answer
                await caller.settle()
                await listener.settle()
                received = events_of(listener)
                if received != (wanted if ending == "well" else []):
                    wrong[f"{way}, {ending}"] = received
    assert wrong == {}


async def test_events_wait_for_the_end_of_the_dependencies() -> None:
    """No event leaves before the dependency has ended, nor an answer; `now=True` does not wait."""
    app = App()
    app.topic(NEWS)
    ending, end = asyncio.Event(), asyncio.Event()

    async def unit() -> AsyncIterator[None]:
        yield
        ending.set()
        await end.wait()

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> str:
        for number in range(3):
            await app.publish(NEWS, number)
        await app.publish(NEWS, "at once", now=True)
        await app.to_user("nobody").publish(NEWS, "to nobody", now=True)
        return "done"

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.wait_for(ending.wait(), 5)
        await listener.settle()
        await caller.settle()
        assert events_of(listener) == ["at once"]
        end.set()
        assert await caller.answer("c") == [RESULT, "c", "done"]
        await listener.settle()
        assert events_of(listener) == [0, 1, 2]


async def test_events_wait_for_no_dependency_that_ends_with_the_handler() -> None:
    """Where no dependency is a generator, events leave while the handler still runs."""
    app, go_on = App(), asyncio.Event()
    app.topic(NEWS)

    def made() -> str:
        return "made"

    @app.rpc("tell")
    async def tell(conn: Connection, what: Annotated[str, Depends(made)]) -> None:
        await app.publish(NEWS, what)
        await go_on.wait()

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "tell")
        assert await listener.next() == [EVENT, NEWS, "made"]
        go_on.set()
        assert await caller.next() == [RESULT, "c", None]


async def test_what_cannot_be_published_is_told_where_it_is_published() -> None:
    """An unknown topic and an event that is no JSON fail at the call; an event is what it was then."""
    app = App()
    app.topic(NEWS)

    async def unit() -> AsyncIterator[None]:
        yield

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> list[str]:
        errors = []
        for topic, event in (("unknown", 1), (NEWS, object())):
            try:
                await app.publish(topic, event)
            except (ValueError, TypeError) as error:
                errors.append(type(error).__name__)
        event = {"number": 1}
        await app.publish(NEWS, event)
        event["number"] = 2
        return errors

    async with listening(app) as (_, caller, listener):
        assert await caller.result("f") == ["ValueError", "NotJson"]
        await listener.settle()
        assert events_of(listener) == [{"number": 1}]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_task_that_outlives_its_message_publishes_at_once(fails: bool) -> None:
    """What a handler started and left behind is not held back any more once the message has ended, however."""
    app = App()
    app.topic(NEWS)
    go, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def unit() -> AsyncIterator[None]:
        yield

    async def later() -> None:
        await go.wait()
        await app.publish(NEWS, "later")

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        tasks.add(asyncio.create_task(later()))
        if fails:
            raise NotAllowed("no")

    async with listening(app) as (_, caller, listener):
        await caller.call("f")
        go.set()
        await asyncio.gather(*tasks)
        await listener.settle()
        assert events_of(listener) == ["later"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_transaction_that_has_ended_keeps_no_event(fails: bool) -> None:
    """A task that goes on for hours with its message's transaction costs no memory for what is published in it."""

    class Send:
        async def __call__(self) -> None: ...

    transaction, sends = Transaction(), [Send(), Send()]
    kept = [weakref.ref(each) for each in sends]
    assert transaction.hold(sends[0])
    if fails:
        transaction.roll_back(given_up=False)
    else:
        await transaction.commit()
    assert not transaction.hold(sends[1])
    sends.clear()
    assert [each() for each in kept] == [None, None]


# ---- calls that are given up


async def test_a_call_that_times_out_publishes_nothing() -> None:
    """A handler whose time is over is rolled back with its events; so is a `def` one, though its thread goes on.

    A middleware around it may publish what became of it.
    """

    async def tell_failures(message: Incoming, call_next: CallNext) -> Any:
        try:
            return await call_next(message)
        except asyncio.CancelledError:
            await app.publish(NEWS, f"{message.uri} failed")
            raise

    app = App(middlewares=[tell_failures])
    app.topic(NEWS)
    saw: list[str] = []
    go, over = threading.Event(), asyncio.Event()

    def unit() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            saw.append(type(error).__name__)
            raise

    @app.rpc("async", timeout=0.05)
    async def on_the_loop(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, "never")
        await asyncio.Event().wait()

    @app.rpc("def", timeout=0.05)
    def in_a_thread(_: Annotated[None, Depends(unit)]) -> None:
        run_on_loop(app.publish(NEWS, "never"))
        go.wait(5)
        try:
            run_on_loop(app.publish(NEWS, "too late"))
        except RuntimeError as error:
            saw.append(str(error))
        run_on_loop(tell())

    async def tell() -> None:
        over.set()

    async with listening(app) as (_, caller, listener):
        for name in ("async", "def"):
            assert (await caller.call(name))[2] == "http://api.wamp.ws/error#timeout"
        go.set()
        await asyncio.wait_for(over.wait(), 5)
        await listener.settle()
        assert events_of(listener) == ["async failed", "def failed"]
        assert saw[:2] == ["CancelledError", "CancelledError"]
        assert saw[2].startswith("this call was given up")


async def test_a_dependency_whose_call_was_given_up_publishes_nothing() -> None:
    """Nor does a `def` dependency that goes on in its thread, also where the handler itself is async."""
    app = App()
    app.topic(NEWS)
    saw: list[str] = []
    go, over = threading.Event(), asyncio.Event()

    async def tell() -> None:
        over.set()

    def unit() -> Iterator[None]:
        yield

    def lookup(_: Annotated[None, Depends(unit)]) -> None:
        go.wait(5)
        try:
            run_on_loop(app.publish(NEWS, "too late"))
        except RuntimeError as error:
            saw.append(str(error))
        run_on_loop(tell())

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(lookup)]) -> None: ...

    async with listening(app) as (_, caller, listener):
        assert (await caller.call("f"))[2] == "http://api.wamp.ws/error#timeout"
        go.set()
        await asyncio.wait_for(over.wait(), 5)
        await listener.settle()
        assert events_of(listener) == []
        assert saw[0].startswith("this call was given up")


async def test_what_dependencies_raise_does_not_hide_that_time_is_over() -> None:
    """A call that takes too long is told so, whatever else fails behind its cancellation or failed before it."""
    app = App()

    async def refuses() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            raise WampError("a:b", "cannot roll back") from None

    async def hangs() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.Event().wait()

    @app.rpc("refuses", timeout=0.05)
    async def slow(_: Annotated[None, Depends(refuses)]) -> None:
        await asyncio.Event().wait()

    @app.rpc("hangs", timeout=0.05)
    async def fail(_: Annotated[None, Depends(hangs)]) -> None:
        raise KeyError("isbn")

    async with serve(app) as server:
        caller = await server.peer()
        for name in ("refuses", "hangs"):
            assert (await caller.call(name))[2] == "http://api.wamp.ws/error#timeout", name


async def test_a_timeout_does_not_cut_a_commit_in_a_thread_off() -> None:
    """A clean-up in a thread cannot be stopped, so all wait for it, and the answer is true."""
    app = App()
    app.topic(NEWS)
    ending, end, order = threading.Event(), threading.Event(), list[str]()

    def outer() -> Iterator[None]:
        yield
        order.append("outer")

    def inner(_: Annotated[None, Depends(outer)]) -> Iterator[None]:
        yield
        ending.set()
        end.wait(5)
        order.append("inner")

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(inner)]) -> str:
        await app.publish(NEWS, "committed")
        return "done"

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.to_thread(ending.wait, 5)
        await asyncio.sleep(0.1)  # longer than the timeout
        assert order == []
        end.set()
        assert await caller.answer("c") == [RESULT, "c", "done"]
        assert order == ["inner", "outer"]
        await listener.settle()
        assert events_of(listener) == ["committed"]


async def test_what_is_opened_for_a_call_that_was_given_up_is_closed() -> None:
    """A `def` generator that still opens when its call is over closes in its thread, as soon as it has opened."""
    app = App()
    opening, go, closed = threading.Event(), threading.Event(), threading.Event()
    saw: list[str] = []

    def slow() -> Iterator[None]:
        opening.set()
        go.wait(5)
        saw.append("opened")
        try:
            yield
        except BaseException as error:
            saw.append(type(error).__name__)
            raise
        finally:
            closed.set()

    @app.rpc("f", timeout=0.05)
    async def f(_: Annotated[None, Depends(slow)]) -> None: ...

    async with serve(app) as server:
        caller = await server.peer()
        assert (await caller.call("f"))[2] == "http://api.wamp.ws/error#timeout"
        assert saw == []
        go.set()
        assert await asyncio.to_thread(closed.wait, 5)
        assert saw == ["opened", "CancelledError"]


async def test_a_client_that_leaves_takes_its_events_along() -> None:
    """A call whose client has gone is rolled back, and its events are dropped."""
    app = App()
    app.topic(NEWS)
    begun, rolled_back = asyncio.Event(), asyncio.Event()

    async def unit() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            rolled_back.set()
            raise

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, "never")
        begun.set()
        await asyncio.Event().wait()

    async with listening(app) as (_, caller, listener):
        await caller.send(CALL, "c", "f")
        await asyncio.wait_for(begun.wait(), 5)
        await caller.close()
        await asyncio.wait_for(rolled_back.wait(), 5)
        await listener.settle()
        assert events_of(listener) == []


# ---- several dependencies, and brokers


async def test_a_dependency_sees_that_a_later_one_failed() -> None:
    """A failed end rolls back what was opened before it, as the call has failed."""
    app = App()
    saw: list[str] = []

    async def outer() -> AsyncIterator[None]:
        try:
            yield
        except RuntimeError as error:
            saw.append(str(error))
            raise

    async def inner(_: Annotated[None, Depends(outer)]) -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot commit")

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(inner)]) -> str:
        return "never"

    async with serve(app) as server:
        assert (await (await server.peer()).call("f"))[2] == GENERIC
    assert saw == ["cannot commit"]


@pytest.mark.parametrize(
    ("raised", "instead", "answer"),
    [
        (KeyError("isbn"), WampError("a:taken", "taken"), ["a:taken", "taken"]),
        (WampError("a:no", "no"), WampError("a:taken", "taken"), ["a:taken", "taken"]),
        (WampError("a:no", "no"), RuntimeError("cannot roll back"), ["a:no", "no"]),
        (KeyError("isbn"), RuntimeError("cannot roll back"), [GENERIC, "the procedure failed"]),
    ],
)
async def test_what_a_failed_message_ends_with(raised: Exception, instead: Exception, answer: list[str]) -> None:
    """A dependency may make a `WampError` of what a handler raised; its own failures do not hide the handler's."""
    app = App()

    async def unit() -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            raise instead from None

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        raise raised

    async with serve(app) as server:
        assert (await (await server.peer()).call("f"))[2:4] == answer


class Brittle(MemoryBroker):
    """A broker that loses its first event."""

    lost = False

    async def publish(self, publication: Publication) -> None:
        if not self.lost:
            self.lost = True
            raise ConnectionError("the broker is gone")
        await super().publish(publication)


async def test_a_broker_that_fails_behind_the_commit_is_the_answer() -> None:
    """As without dependencies, an event that could not be sent fails the call; the others are sent."""
    app = App(broker=Brittle())
    app.topic(NEWS)

    async def unit() -> AsyncIterator[None]:
        yield

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, 1)
        await app.publish(NEWS, 2)

    async with listening(app) as (_, caller, listener):
        assert (await caller.call("f"))[2] == GENERIC
        await listener.settle()
        assert events_of(listener) == [2]


async def test_of_events_that_fail_behind_the_commit_the_first_is_told() -> None:
    """The answer is what the broker raised first, and what it raised is freed with the message."""
    raised: list[weakref.ref[WampError]] = []

    class Refusal(WampError):
        pass

    class Full(MemoryBroker):
        async def publish(self, publication: Publication) -> None:
            error = Refusal(f"a:{publication.event.decode()}")
            raised.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    app = App(broker=Full())
    app.topic(NEWS)

    async def unit() -> AsyncIterator[None]:
        yield

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(unit)]) -> None:
        await app.publish(NEWS, 1)
        await app.publish(NEWS, 2)

    async with serve(app) as server:
        caller = await server.peer()
        gc.disable()
        try:
            assert (await caller.call("f"))[2] == "a:1"
            await caller.settle()
            assert [each() for each in raised] == [None, None]
        finally:
            gc.enable()


# ---- results and events that JSON cannot carry


class Question:
    """As much of a pydantic model as is needed here."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        return {}


class Answer(Question):
    """Another one."""


CURES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "pydantic": (Question, "tests.handlers.test_transaction.Question", '.model_dump(mode="json")'),
    "within": (lambda: {"all": [Answer()]}, "tests.handlers.test_transaction.Answer", '.model_dump(mode="json")'),
    "sqlite3.Row": (
        lambda: sqlite3.Row(sqlite3.connect(":memory:").cursor(), (1,)),
        "sqlite3.Row",
        "dict(...)",
    ),
    "generator": (lambda: (each for each in "abc"), "generator", "list"),
    "future": (lambda: asyncio.get_running_loop().create_future(), "_asyncio.Future", "await"),
    "object": (object, " object:", "dataclass"),
}


async def test_what_json_cannot_carry_is_named_with_its_cure(caplog: pytest.LogCaptureFixture) -> None:
    """The log says of a result or an event of which type it is, where it comes from, and what to do about it."""
    app = App(debug=True)

    @app.rpc("result/{name}")
    async def result(name: str) -> Any:
        return CURES[name][0]()

    @app.rpc("publish/{name}")
    async def publish(name: str) -> None:
        await app.publish("topic", CURES[name][0]())

    @app.topic("topic")
    async def topic(event: str) -> Any:
        return CURES[event][0]()

    async with serve(app) as server:
        peer = await server.peer()
        wrong = []
        for name, (_, kind, cure) in CURES.items():
            where: dict[str, Awaitable[Any]] = {
                f"procedure 'result/{name}'": peer.call(f"result/{name}"),
                f"procedure 'publish/{name}'": peer.call(f"publish/{name}"),
                "PUBLISH 'topic'": peer.send(PUBLISH, "topic", name),
            }
            for place, message in where.items():
                caplog.clear()
                await message
                await peer.settle()
                lines = [record.getMessage() for record in caplog.records]
                if not any(place in line and kind in line and cure in line for line in lines):
                    wrong.append((name, place, lines))
        assert wrong == []
