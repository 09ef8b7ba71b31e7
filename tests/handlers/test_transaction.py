"""A message is answered after its dependencies have ended; a commit or a broker that fails is its answer."""

import contextlib
import gc
import sqlite3
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import pytest

from wampkit import App, Connection, Depends, MemoryBroker, Publication, WampError

from ..support.transaction import NEWS, events_of, listening
from ..support.wire import ERROR, serve

GENERIC = "http://api.wamp.ws/error#generic"


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
