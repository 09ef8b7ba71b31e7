"""CALLERROR: the URI, description and details that a caller gets for each exception of a handler."""

import asyncio
from typing import Any

import pytest

from wampkit import ERROR_URIS, App, Connection, InvalidArgument, NotAllowed, NotFound, WampError

from ..support.tables import rows
from ..support.wire import CALL, ERROR, PREFIX, serve

API = "http://example.com/api#"


SECRET = "hunter2"


def make(**options: Any) -> App:
    return App(prefixes={"api": API, "t": "http://example.com/topic/"}, **options)


# ---- errors


async def test_a_wamp_error_travels_whole() -> None:
    """A WampError arrives as a CALLERROR with its URI in full, its description and its details."""
    app = make()

    @app.rpc("api:divide")
    async def divide(x: float, y: float) -> float:
        raise WampError("api:division-by-zero", "cannot divide by zero", {"x": x})

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "api:divide", 1, 0)
        assert await peer.next() == [ERROR, "1", API + "division-by-zero", "cannot divide by zero", {"x": 1}]


async def test_an_error_uri_is_not_shrunk_by_the_clients_prefixes() -> None:
    """The error URI is expanded with the app's prefixes, whatever the client's own PREFIX says."""
    app = make()

    @app.rpc("http://example.com/fail")
    async def fail() -> None:
        raise WampError("api:error")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(PREFIX, "api", "http://elsewhere.example/")
        assert (await peer.call("http://example.com/fail"))[2] == API + "error"


@rows(("details", "length"), [(None, 4), ({}, 5), (0, 5), (False, 5), ("", 5), ([1], 5)])
async def test_only_details_that_exist_make_a_fifth_element(details: Any, length: int) -> None:
    """A CALLERROR has five elements exactly where there are details; they are never null."""
    app = make()

    @app.rpc("api:fail")
    async def fail() -> None:
        raise WampError("api:e", "text", details)

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:fail")
        assert len(answer) == length
        assert answer[4:] == ([] if details is None else [details])


async def test_an_unknown_procedure_is_not_found() -> None:
    """A CALL of what is not declared is answered with NoSuchRPCEndpoint."""
    async with serve(make()) as server:
        peer = await server.peer()
        answer = await peer.call("api:nowhere")
        assert answer[0] == ERROR
        assert answer[2] == "http://api.wamp.ws/error#NoSuchRPCEndpoint"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NotFound("x"), "not_found"), (NotAllowed("x"), "not_allowed"), (InvalidArgument("x"), "invalid_argument")],
)
async def test_each_kind_has_its_uri(error: WampError, kind: str) -> None:
    """An error of a kind is sent with the URI of its kind."""
    app = make()

    @app.rpc("api:fail")
    async def fail() -> None:
        raise error

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:fail"))[2:] == [ERROR_URIS[kind], "x"]


async def test_the_app_replaces_error_uris() -> None:
    """`error_uris` replaces the URI of each kind it names, CURIEs included, and leaves the rest."""
    uris = {kind: f"api:{kind}" for kind in ("not_found", "invalid_argument", "not_allowed", "timeout", "internal")}
    app = make(error_uris=uris)

    @app.rpc("api:internal")
    async def internal() -> Any:
        return object()

    @app.rpc("api:details")
    async def details() -> Any:
        raise WampError("api:e", "", object())

    @app.rpc("api:invalid")
    async def invalid(x: int) -> None:
        pass

    @app.rpc("api:refuse")
    async def refuse() -> None:
        raise NotAllowed("no")

    @app.rpc("api:slow", timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.rpc("api:crash")
    async def crash() -> None:
        raise RuntimeError

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:nowhere"))[2] == API + "not_found"
        assert (await peer.call("api:invalid", "x"))[2] == API + "invalid_argument"
        assert (await peer.call("api:refuse"))[2] == API + "not_allowed"
        assert (await peer.call("api:slow"))[2] == API + "timeout"
        assert (await peer.call("api:internal"))[2] == API + "internal"
        assert (await peer.call("api:details"))[2] == API + "internal"
        assert (await peer.call("api:crash"))[2] == ERROR_URIS["generic"]


class Hidden(Exception):
    pass


async def test_an_unexpected_error_keeps_its_text_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception becomes the generic error without internals; the log has its traceback, once."""
    app = make()

    @app.rpc("api:crash")
    async def crash() -> None:
        raise Hidden(SECRET)

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:crash")
        assert answer[2] == ERROR_URIS["generic"]
        assert len(answer) == 4
        assert SECRET not in str(answer)
        assert "Hidden" not in str(answer)
        await peer.call("api:crash")
    records = [record for record in caplog.records if record.exc_info]
    assert len(records) == 1
    assert SECRET in caplog.text
    assert "Traceback" in caplog.text


async def test_debug_adds_the_text() -> None:
    """With debug=True the caller sees the exception's class and text."""
    app = make(debug=True)

    @app.rpc("api:crash")
    async def crash() -> None:
        raise Hidden(SECRET)

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:crash")
        assert answer[2] == ERROR_URIS["generic"]
        assert f"Hidden: {SECRET}" in answer[3]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unfinished(WampError):
    def __init__(self) -> None:  # forgets its base
        pass


class OwnKind(WampError):
    kind = "nobody knows"


@pytest.mark.parametrize("debug", [False, True])
@rows(
    "error",
    [
        Exception("x"),
        asyncio.CancelledError("x"),
        TimeoutError("x"),
        SystemExit(3),
        RecursionError("x"),
        MemoryError("x"),
        StopAsyncIteration("x"),
        BaseException("x"),
        BaseExceptionGroup("x", [SystemExit(), ValueError()]),
        Unprintable(),
        Unfinished(),
        OwnKind("api:e"),
        WampError("api:e", "\ud800", "\udfff"),
        WampError("api:e", 5, object()),  # type: ignore[arg-type]
    ],
)
@rows("threaded", [False, True])
async def test_whatever_a_handler_raises_is_answered_once(error: BaseException, debug: bool, threaded: bool) -> None:
    """Whatever a handler raises, in a thread or not, its call gets exactly one CALLERROR and the connection lives."""
    app = make(debug=debug)

    if threaded:

        @app.rpc("api:fail")
        def fail_blocking() -> None:
            raise error
    else:

        @app.rpc("api:fail")
        async def fail() -> None:
            raise error

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:fail")
        assert answer[0] == ERROR
        await peer.nothing()


async def test_endless_recursion_is_answered() -> None:
    """A handler that recurses without end is answered with the generic error."""
    app = make()

    def down(n: int) -> int:
        return down(n + 1) + 1

    @app.rpc("api:down")
    async def recurse() -> int:
        return down(0)

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:down"))[2] == ERROR_URIS["generic"]
        await peer.nothing()


async def test_cancelling_what_a_handler_awaits_is_an_ordinary_error() -> None:
    """A CancelledError out of a task that the handler awaited is answered like any other exception."""
    app = make()

    @app.rpc("api:await")
    async def handler() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:await"))[2] == ERROR_URIS["generic"]


class Base(Exception):
    pass


class Derived(Base):
    pass


async def test_the_nearest_error_handler_answers() -> None:
    """An error handler answers for its class and its subclasses; the nearest one wins."""
    app = make()

    @app.error_handler(Base)
    def base(error: Base) -> WampError:
        return WampError("api:base", str(error))

    @app.error_handler(LookupError)
    async def lookup(error: LookupError) -> WampError:
        await asyncio.sleep(0)
        return WampError("api:lookup")

    @app.error_handler(KeyError)
    def key(error: KeyError) -> WampError:
        raise WampError("api:key", "", {"key": error.args[0]})

    @app.rpc("api:fail")
    async def fail(what: str) -> None:
        raise {"derived": Derived("d"), "index": IndexError(), "key": KeyError("k"), "other": OSError()}[what]

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:fail", "derived"))[2:] == [API + "base", "d"]
        assert (await peer.call("api:fail", "index"))[2:] == [API + "lookup", ""]
        assert (await peer.call("api:fail", "key"))[2:] == [API + "key", "", {"key": "k"}]
        assert (await peer.call("api:fail", "other"))[2] == ERROR_URIS["generic"]


@rows("failure", [ValueError(SECRET), SystemExit(SECRET), asyncio.CancelledError(SECRET)])
@rows("is_async", [False, True])
async def test_an_error_handler_that_fails_leaves_the_generic_error(failure: BaseException, is_async: bool) -> None:
    """An error handler that fails itself costs its caller the answer's text and nothing else."""
    app = make()

    def plain(error: Base) -> WampError:
        raise failure

    async def coroutine(error: Base) -> WampError:
        raise failure

    app.error_handler(Base)(coroutine if is_async else plain)

    @app.rpc("api:fail")
    async def fail() -> None:
        raise Base

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:fail")
        assert answer[2] == ERROR_URIS["generic"]
        assert SECRET not in str(answer)
        await peer.nothing()


async def test_on_error_hears_of_what_nobody_expected() -> None:
    """The on_error hook gets each unexpected exception with its connection, and no WampError."""
    app = make()
    heard: list[tuple[str, str]] = []

    @app.on_error
    async def report(error: BaseException, connection: Connection) -> None:
        heard.append((str(error), connection.id))
        raise RuntimeError("the reporter is broken too")

    @app.rpc("api:fail")
    async def fail(text: str) -> None:
        raise Hidden(text) if text else WampError("api:e")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.call("api:fail", "one")
        await peer.call("api:fail", "")
        await peer.call("api:fail", "two")
        assert heard == [("one", peer.id), ("two", peer.id)]


# ---- results that JSON cannot carry


@rows(("debug", "told"), [(False, False), (True, True)])
async def test_why_a_result_cannot_be_written_is_told_in_debug_alone(debug: bool, told: bool) -> None:
    """The error's own text may name what is the app's; without debug the client learns that it failed, no more."""
    app = make(debug=debug)
    app.add_rpc("api:odd", lambda: {"inside": object()})
    async with serve(app) as server:
        answer = await (await server.peer()).call("api:odd")
        assert answer[0] == ERROR
        assert answer[2] == ERROR_URIS["internal"]
        assert answer[3].startswith("the result cannot be written as JSON")
        assert ("object" in answer[3]) is told
