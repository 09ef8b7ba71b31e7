"""Dependencies over a real call: made once, nested, cleaned up in reverse, whatever happens."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from wampkit import App, Call, Connection, Depends, Topic, WampError

from ..support.wire import CALL, ERROR, RESULT, eventually, serve


class Log(list[str]):
    """What happened, in order."""

    def dependency(self, name: str, *, fail: BaseException | None = None) -> Any:
        async def provide() -> AsyncIterator[str]:
            self.append(f"{name} in")
            try:
                yield name
            except BaseException as error:
                self.append(f"{name} saw {type(error).__name__}")
                raise
            finally:
                self.append(f"{name} out")
                if fail is not None:
                    raise fail

        return provide


async def test_a_dependency_is_made_once_a_message() -> None:
    """Two parameters and a nested dependency share one value; the next message gets another."""
    app = App()
    made: list[int] = []

    async def number() -> int:
        made.append(len(made))
        return made[-1]

    async def twice(n: Annotated[int, Depends(number)]) -> int:
        return 2 * n

    @app.rpc("f")
    async def f(
        a: Annotated[int, Depends(number)], b: Annotated[int, Depends(number)], c: Annotated[int, Depends(twice)]
    ) -> list[int]:
        return [a, b, c]

    async with serve(app) as server:
        peer = await server.peer()
        assert [await peer.result("f"), await peer.result("f")] == [[0, 0, 0], [1, 1, 2]]


async def test_none_is_a_value_like_any_other() -> None:
    """A dependency that gives None is not asked again."""
    app = App()
    asked: list[None] = []

    def nothing() -> None:
        asked.append(None)

    @app.rpc("f")
    async def f(a: Annotated[None, Depends(nothing)], b: Annotated[None, Depends(nothing)]) -> int:
        return len(asked)

    async with serve(app) as server:
        assert await (await server.peer()).result("f") == 1


async def test_cleanup_runs_in_reverse_before_the_answer() -> None:
    """What was made last is cleaned up first, and the caller's answer comes after it."""
    app, log = App(), Log()
    outer = log.dependency("outer")

    async def inner(value: Annotated[str, Depends(outer)]) -> AsyncIterator[str]:
        log.append("inner in")
        yield value + "/inner"
        log.append("inner out")

    @app.rpc("f")
    async def f(value: Annotated[str, Depends(inner)]) -> str:
        log.append("handler")
        return value

    async with serve(app) as server:
        assert await (await server.peer()).result("f") == "outer/inner"
        assert log == ["outer in", "inner in", "handler", "inner out", "outer out"]


async def test_blocking_dependencies_run_in_threads() -> None:
    """A plain function and a plain generator run off the loop, its cleanup too."""
    app = App()
    threads: list[bool] = []

    def note() -> None:
        threads.append(threading.current_thread() is threading.main_thread())

    def plain() -> str:
        note()
        return "plain"

    def generator(first: Annotated[str, Depends(plain)]) -> Iterator[str]:
        note()
        yield first + "/generator"
        note()

    @app.rpc("f")
    async def f(value: Annotated[str, Depends(generator)]) -> str:
        return value

    async with serve(app) as server:
        assert await (await server.peer()).result("f") == "plain/generator"
    assert threads == [False, False, False]


async def test_a_dependency_is_given_what_a_handler_is() -> None:
    """Connection and message reach dependencies, in calls and in topics; other parameters keep their defaults."""
    app = App()
    seen: list[str] = []

    def caller(conn: Connection, call: Call, between: str = " ") -> str:
        return f"{conn.id}{between}{call.id}"

    async def place(topic: Topic) -> str:
        return topic.uri

    @app.rpc("f")
    async def f(who: Annotated[str, Depends(caller)]) -> str:
        return who

    @app.topic("t")
    async def t(event: Any, where: Annotated[str, Depends(place)]) -> None:
        seen.append(where)

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "c1", "f")
        assert await peer.next() == [RESULT, "c1", f"{peer.id} c1"]
        await peer.send(7, "t", 1)
        await eventually(lambda: seen == ["t"])


@pytest.mark.parametrize("error", [WampError("a:b", "no"), RuntimeError("boom")])
async def test_cleanup_sees_the_handlers_error(error: Exception) -> None:
    """A handler that fails throws its error into the generators, so that they can roll back; the caller is told."""
    app, log = App(), Log()

    @app.rpc("f")
    async def f(value: Annotated[str, Depends(log.dependency("db"))]) -> None:
        raise error

    async with serve(app) as server:
        answer = await (await server.peer()).call("f")
    assert answer[0] == ERROR
    assert log == ["db in", f"db saw {type(error).__name__}", "db out"]


async def test_a_generator_that_swallows_the_error_does_not_hide_it() -> None:
    """The caller is told of the handler's failure even if a dependency caught it."""
    app = App()

    async def swallow() -> AsyncIterator[int]:
        with contextlib.suppress(WampError):
            yield 1

    @app.rpc("f")
    async def f(value: Annotated[int, Depends(swallow)]) -> None:
        raise WampError("a:b", "still told")

    async with serve(app) as server:
        assert (await (await server.peer()).call("f"))[2:] == ["a:b", "still told"]


async def test_a_failing_cleanup_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """When a cleanup fails those before it run and see that, and the caller is told; a further failure is logged."""
    app, log = App(), Log()
    first = log.dependency("first")
    second = log.dependency("second", fail=RuntimeError("cleanup failed"))
    third = log.dependency("third", fail=SystemExit(3))

    @app.rpc("f")
    async def f(
        a: Annotated[str, Depends(first)], b: Annotated[str, Depends(second)], c: Annotated[str, Depends(third)]
    ) -> str:
        return a + b + c

    async with serve(app) as server:
        assert (await (await server.peer()).call("f"))[2] == "http://api.wamp.ws/error#generic"
    assert log[3:] == ["third out", "second saw SystemExit", "second out", "first saw SystemExit", "first out"]
    assert "CALL 'f' failed, and then its dependency Log.dependency.<locals>.provide failed at its end" in caplog.text
    assert "cleanup failed" in caplog.text


async def test_where_an_exception_came_from_is_noted_once() -> None:
    """An app that raises the same exception object for each message does not fill it with notes."""
    app, full = App(), WampError("a:full", "the disk is full")

    async def store() -> AsyncIterator[None]:
        yield
        raise full

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(store)]) -> None: ...

    async with serve(app) as server:
        peer = await server.peer()
        for _ in range(3):
            assert (await peer.call("f"))[2] == "a:full"
    assert len(full.__notes__) == 1


async def test_a_failing_cleanup_leaves_nothing_to_the_garbage_collector() -> None:
    """What a dependency raises at its end is freed with the message, and with it what its frames hold."""
    app, raised = App(), list[weakref.ref[WampError]]()

    class Full(WampError):
        pass

    async def store() -> AsyncIterator[None]:
        yield
        error = Full("a:full", "the disk is full")
        raised.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    @app.rpc("f")
    async def f(_: Annotated[None, Depends(store)]) -> None: ...

    async with serve(app) as server:
        peer = await server.peer()
        gc.disable()
        try:
            assert (await peer.call("f"))[2:] == ["a:full", "the disk is full"]
            await peer.settle()
            assert raised[0]() is None
        finally:
            gc.enable()


async def test_a_failing_dependency_answers_the_call_and_cleans_up() -> None:
    """Where a dependency refuses, the handler never runs, what was made is cleaned up, and the caller is told."""
    app, log = App(), Log()

    async def refuse() -> str:
        raise WampError("a:b", "no database")

    @app.rpc("f")
    async def f(a: Annotated[str, Depends(log.dependency("first"))], b: Annotated[str, Depends(refuse)]) -> str:
        log.append("handler")
        return a

    async with serve(app) as server:
        assert (await (await server.peer()).call("f"))[2:] == ["a:b", "no database"]
    assert log == ["first in", "first saw WampError", "first out"]


async def test_arguments_are_checked_before_dependencies() -> None:
    """A call whose arguments do not fit runs no dependency."""
    app, log = App(), Log()

    @app.rpc("f")
    async def f(x: int, a: Annotated[str, Depends(log.dependency("first"))]) -> None: ...

    async with serve(app) as server:
        assert (await (await server.peer()).call("f", "x"))[0] == ERROR
    assert log == []


async def test_a_call_whose_client_leaves_is_cleaned_up() -> None:
    """Cancelling a call runs the cleanup of its dependencies."""
    app, log = App(), Log()

    @app.rpc("f")
    async def f(a: Annotated[str, Depends(log.dependency("db"))]) -> None:
        await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "c", "f")
        await eventually(lambda: log == ["db in"])
        await peer.close()
        await eventually(lambda: log == ["db in", "db saw CancelledError", "db out"])


def test_depends_takes_a_function() -> None:
    """`Depends` of something that cannot be called says so at once."""
    with pytest.raises(TypeError, match="takes a function"):
        Depends(5)  # type: ignore[arg-type]
    assert "test_depends_takes" in repr(Depends(test_depends_takes_a_function))
