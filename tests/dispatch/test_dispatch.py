"""One message to its handler and back: what callers get, and what happens to what they leave behind."""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import msgspec
import pytest

from wampkit import ERROR_URIS, App, Call, Connection, Depends, InvalidArgument, NotAllowed, NotFound, WampError

from ..support.tables import rows
from ..support.wire import (
    CALL,
    ERROR,
    EVENT,
    PATIENCE,
    PREFIX,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Peer,
    RawPeer,
    eventually,
    serve,
)

API = "http://example.com/api#"
SECRET = "hunter2"


def make(**options: Any) -> App:
    return App(prefixes={"api": API, "t": "http://example.com/topic/"}, **options)


# ---- results


@rows(
    "value",
    [None, 0, -1.5, "", "Grüße \U0001f600", [], {}, [[1, 2]], {"a": [{"b": None}]}, 2**53 + 1, True, "\u2028"],
)
async def test_what_a_handler_returns_is_the_result_as_it_is(value: Any) -> None:
    """What a handler returns arrives in a CALLRESULT of three elements, unchanged."""
    app = make()

    @app.rpc("api:give")
    async def give() -> Any:
        return value

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "7", "api:give")
        assert await peer.next() == [RESULT, "7", value]


async def test_a_handler_without_a_return_answers_null() -> None:
    """A handler that returns nothing answers with null, which is never left out."""
    app = make()

    @app.rpc("api:nothing")
    async def nothing() -> None:
        pass

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "7", "api:nothing")
        assert await peer.next() == [RESULT, "7", None]


@rows("call_id", ["", "0.wjxk3l9", "x" * 5000, "__proto__", '"\\\n\u0000', "é\U0001f600"])
async def test_any_text_is_a_call_id(call_id: str) -> None:
    """A call id is any text, of any length, and comes back as it was sent."""
    app = make()

    @app.rpc("api:one")
    async def one() -> int:
        return 1

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, call_id, "api:one")
        assert await peer.next() == [RESULT, call_id, 1]


async def test_two_calls_with_one_id_get_two_answers() -> None:
    """An id that is still in use does not confuse anybody: two calls, two answers."""
    app = make()

    @app.rpc("api:echo")
    async def echo(x: int) -> int:
        return x

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "same", "api:echo", 1)
        await peer.send(CALL, "same", "api:echo", 2)
        answers = [await peer.next(), await peer.next()]
        assert sorted(answers) == [[RESULT, "same", 1], [RESULT, "same", 2]]


def _itself() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@rows(
    "value",
    [object(), {1, object()}, "\ud800", _itself(), lambda: 1, {("a", "b"): 1}, ["\udfff"], 1j],
)
async def test_a_result_that_is_no_json_is_an_internal_error(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A result that JSON cannot carry is answered with the internal kind, and the connection lives on."""
    app = make()

    @app.rpc("api:give")
    async def give() -> Any:
        return value

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:give")
        assert answer[0] == ERROR
        assert answer[2] == ERROR_URIS["internal"]
        assert len(answer) == 4
        assert (await peer.call("api:give"))[0] == ERROR
    assert "give" in caplog.text or "api#give" in caplog.text


async def test_a_coroutine_or_generator_as_result_is_an_internal_error() -> None:
    """A handler that forgets to await or yields from a helper answers with the internal kind."""
    app = make()

    @app.rpc("api:generator")
    async def generator() -> Any:
        return (x for x in [1])

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:generator"))[2] == ERROR_URIS["internal"]


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


# ---- arguments


async def test_arguments_that_do_not_fit_never_reach_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    """Too few, too many or wrong arguments are answered by name, and the handler does not run."""
    app = make()
    ran: list[Any] = []

    @app.rpc("api:add")
    async def add(x: float, y: float = 0) -> float:
        ran.append((x, y))
        return x + y

    async with serve(app) as server:
        peer = await server.peer()
        for args, word in ([], '"x"'), ([1, 2, 3], "at most 2"), ([1, "two"], '"y"'), ([None], '"x"'):
            answer = await peer.call("api:add", *args)
            assert answer[2] == ERROR_URIS["invalid_argument"], answer
            assert word in answer[3]
            assert "api:add" in answer[3]
        assert ran == []
        assert await peer.result("api:add", 1, 2) == 3
    assert [record for record in caplog.records if record.exc_info] == []


async def test_ratchet_clients_send_one_object_for_all_parameters() -> None:
    """One object or array as the only argument fills a procedure with several named parameters."""
    app = make()

    @app.rpc("sample/sum")
    async def total(first: int, second: int = 10) -> int:
        return first + second

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("sample/sum", {"first": 1, "second": 2}) == 3
        assert await peer.result("sample/sum", {"first": 1}) == 11
        assert await peer.result("sample/sum", [1, 2]) == 3
        assert await peer.result("sample/sum", 1, 2) == 3
        answer = await peer.call("sample/sum", {"first": 1, "third": 2})
        assert answer[2] == ERROR_URIS["invalid_argument"]
        assert "third" in answer[3]


async def test_one_list_for_one_parameter_stays_a_list() -> None:
    """A handler of one parameter gets an array or object as it is, as the specification says."""
    app = make()

    @app.rpc("api:echo")
    async def echo(x: Any) -> Any:
        return x

    @app.rpc("api:all")
    async def all_of(*args: Any) -> list[Any]:
        return list(args)

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("api:echo", [1, 2]) == [1, 2]
        assert await peer.result("api:echo", {"x": 1}) == {"x": 1}
        assert await peer.result("api:all", [1, 2]) == [[1, 2]]


async def test_converted_types_arrive_and_leave() -> None:
    """Structs and dataclasses come out of the arguments and go into the result."""

    class Point(msgspec.Struct):
        x: int
        y: Annotated[int, msgspec.Meta(ge=0)] = 0

    @dataclasses.dataclass
    class Box:
        corner: Point
        label: str

    app = make()

    @app.rpc("api:move")
    async def move(point: Point) -> Box:
        return Box(point, "moved")

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("api:move", {"x": 1}) == {"corner": {"x": 1, "y": 0}, "label": "moved"}
        answer = await peer.call("api:move", {"x": 1, "y": -1})
        assert answer[2] == ERROR_URIS["invalid_argument"]
        assert "point" in answer[3]


# ---- prefixes


async def test_shrunk_procedure_names_resolve() -> None:
    """What AutobahnJS makes of a full URI, down to a bare `prefix:`, means the same procedure."""
    app = make()

    @app.rpc(API)
    async def whole() -> str:
        return "whole"

    @app.rpc("api:x:y#z")
    async def colons() -> str:
        return "colons"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(PREFIX, "p", API)
        assert await peer.result("p:") == "whole"
        assert await peer.result("p:x:y#z") == "colons"
        assert await peer.result(API + "x:y#z") == "colons"
        assert (await peer.call(":x"))[0] == ERROR


async def test_a_prefix_named_http_captures_no_url() -> None:
    """A client may define `http`, but a URL stays a URL."""
    app = make()

    @app.rpc("api:one")
    async def one() -> int:
        return 1

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(PREFIX, "http", "http://evil.example/")
        assert await peer.result(API + "one") == 1


async def test_prefixes_are_a_connections_own() -> None:
    """What one client defines means nothing to another, and redefining replaces."""
    app = make()

    @app.rpc("api:one")
    async def one() -> int:
        return 1

    async with serve(app) as server:
        one_peer, other = await server.peer(), await server.peer()
        await one_peer.send(PREFIX, "api", "http://elsewhere.example/")
        assert (await one_peer.call("api:one"))[0] == ERROR
        assert await other.result("api:one") == 1
        await one_peer.send(PREFIX, "api", API)
        assert await one_peer.result("api:one") == 1


async def test_names_of_javascripts_objects_are_ordinary() -> None:
    """`__proto__`, `constructor` and the like are procedures or unknown, like any other name."""
    app = make()

    @app.rpc("constructor")
    async def constructor() -> str:
        return "ok"

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("constructor") == "ok"
        await peer.send(PREFIX, "__proto__", "http://x/")
        for name in "__proto__", "toString", "__init__", "_subscription":
            assert (await peer.call(name))[2] == ERROR_URIS["not_found"]


# ---- side by side


async def test_a_slow_call_never_holds_up_a_later_one() -> None:
    """Calls of one connection run side by side and are answered in the order in which they end."""
    app = make()
    gate = asyncio.Event()

    @app.rpc("api:wait")
    async def wait() -> str:
        await gate.wait()
        return "slow"

    @app.rpc("api:open")
    async def open_gate() -> str:
        gate.set()
        return "fast"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "api:wait")
        await peer.send(CALL, "2", "api:open")
        assert await peer.next() == [RESULT, "2", "fast"]
        assert await peer.next() == [RESULT, "1", "slow"]


async def test_a_slow_publish_handler_never_holds_up_a_call() -> None:
    """While a PUBLISH handler waits, calls of the same connection are answered."""
    app = make()
    gate = asyncio.Event()

    @app.topic("t:slow")
    async def slow(event: Any) -> Any:
        await gate.wait()
        return event

    @app.rpc("api:open")
    async def open_gate() -> str:
        gate.set()
        return "fast"

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:slow")
        await peer.send(PUBLISH, "t:slow", 1)
        assert await peer.result("api:open") == "fast"
        assert await other.events(1) == [1]


async def test_publishes_of_one_connection_stay_in_order() -> None:
    """Events of one client reach a subscriber in order, even where handlers wait, one behind the other too."""
    app = make()
    app.add_rpc("api:ping", lambda: "pong")
    gates = {number: asyncio.Event() for number in (0, 1, 2, 7)}
    entered: asyncio.Queue[int] = asyncio.Queue()

    @app.topic("t:ordered")
    async def ordered(event: int) -> int:
        if event in gates:
            entered.put_nowait(event)
            await gates[event].wait()
        return event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:ordered")
        for number in range(20):
            await peer.send(PUBLISH, "t:ordered", number)
        assert await peer.result("api:ping") == "pong"
        for number, gate in gates.items():
            assert await asyncio.wait_for(entered.get(), PATIENCE) == number
            gate.set()
        assert await other.events(20) == list(range(20))


async def test_handlers_see_the_context_of_their_connection() -> None:
    """Context variables that a gate or `on_connect` has set are seen by calls and topic handlers, each connection's."""
    gate: ContextVar[str] = ContextVar("gate", default="none")
    hook: ContextVar[str] = ContextVar("hook", default="none")

    class Gate:
        async def connect(self, connection: Connection) -> None:
            gate.set(connection.request.query["user"])

    app = make(middlewares=[Gate()])

    @app.on_connect
    async def connected(connection: Connection) -> None:
        hook.set(connection.request.query["user"])

    @app.rpc("api:context")
    async def context() -> list[str]:
        return [gate.get(), hook.get()]

    @app.topic("t:context")
    async def told(event: int) -> list[str]:
        return [gate.get(), hook.get()]

    async with serve(app) as server:
        ann, bob = [await server.peer(params={"user": user}) for user in ("ann", "bob")]
        assert await ann.result("api:context") == ["ann", "ann"]
        assert await bob.result("api:context") == ["bob", "bob"]
        await bob.subscribe("t:context")
        await ann.send(PUBLISH, "t:context", 1)
        assert await bob.events(1) == [["ann", "ann"]]


async def test_blocking_handlers_run_in_threads_and_stall_nobody() -> None:
    """A `def` handler that blocks holds up neither its own connection's calls nor others'."""
    app = make()
    gate = threading.Event()
    names: list[str] = []

    @app.rpc("api:block")
    def block() -> str:
        names.append(threading.current_thread().name)
        assert gate.wait(10)
        return "unblocked"

    @app.rpc("api:open")
    async def open_gate() -> None:
        gate.set()

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await peer.send(CALL, "1", "api:block")
        await eventually(lambda: names)
        await other.result("api:open")
        assert await peer.answer("1") == [RESULT, "1", "unblocked"]
    assert names[0] != threading.main_thread().name


async def test_threads_see_the_connections_context() -> None:
    """Context variables that an outer middleware sets reach a `def` handler."""
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def setter(message: Any, call_next: Any) -> Any:
        variable.set(message.connection.id)
        return await call_next(message)

    app = make(middlewares=[setter])

    @app.rpc("api:read")
    def read() -> str:
        return variable.get()

    async with serve(app) as server:
        peers = [await server.peer() for _ in range(3)]
        results = await asyncio.gather(*[peer.result("api:read") for peer in peers])
        assert results == [peer.id for peer in peers]


async def test_a_plain_function_that_wraps_an_async_one_is_awaited() -> None:
    """A `def` that returns a coroutine, as decorators make them, is awaited on the loop."""
    app = make()

    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    @app.rpc("api:wrapped")
    def wrapped() -> Any:
        return inner()

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("api:wrapped") == "inner"


# ---- timeouts


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    """`timeout=` ends a call with the timeout kind, and its cleanup has run."""
    app = make()
    cleaned: list[str] = []

    async def resource() -> AsyncIterator[str]:
        try:
            yield "r"
        finally:
            await asyncio.sleep(0)
            cleaned.append("dependency")

    @app.rpc("api:slow", timeout=0.05)
    async def slow(r: Annotated[str, Depends(resource)]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("handler")

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("api:slow")
        assert answer[2] == ERROR_URIS["timeout"]
        assert "0.05" in answer[3]
        assert cleaned == ["handler", "dependency"]
        await peer.nothing()


@pytest.mark.parametrize("timeout", [None, 5.0])
async def test_a_handlers_own_timeout_is_no_timeout_of_the_call(timeout: float | None) -> None:
    """A TimeoutError that the handler raises itself is an unexpected error like any other."""
    app = make()

    @app.rpc("api:fail", timeout=timeout)
    async def fail() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("api:fail"))[2] == ERROR_URIS["generic"]


async def test_a_blocking_handler_times_out_too() -> None:
    """The caller of a `def` handler that takes too long is answered in time."""
    app = make()
    gate = threading.Event()

    @app.rpc("api:block", timeout=0.05)
    def block() -> None:
        gate.wait(10)

    async with serve(app) as server:
        peer = await server.peer()
        try:
            assert (await peer.call("api:block"))[2] == ERROR_URIS["timeout"]
        finally:
            gate.set()


async def test_a_handler_that_ignores_its_timeout_still_answers_once() -> None:
    """A handler that swallows the cancellation of its timeout gets one answer, not two."""
    app = make()

    @app.rpc("api:stubborn", timeout=0.02)
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done anyway"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.call("api:stubborn")
        await peer.nothing()


# ---- the connection goes


async def _leave(peer: Peer | RawPeer, how: str) -> None:
    if isinstance(peer, RawPeer):
        peer.reset() if how == "reset" else peer.close()
    else:
        await peer.close()


@pytest.mark.parametrize("how", ["close", "reset", "vanish"])
async def test_a_call_whose_connection_goes_is_cancelled_and_cleaned_up(how: str) -> None:
    """However a connection ends, its calls are cancelled and their cleanup runs, dependencies included: no failure."""
    app = make()
    log: list[str] = []

    @app.on_error
    async def heard(error: BaseException, connection: Connection | None) -> None:
        log.append(repr(error))

    async def outer() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0.01)
            log.append("outer")

    def inner(value: Annotated[int, Depends(outer)]) -> Iterator[int]:
        try:
            yield value
        finally:
            log.append("inner")

    @app.rpc("api:wait")
    async def wait(value: Annotated[int, Depends(inner)]) -> None:
        log.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("handler")

    @app.on_disconnect
    async def gone(connection: Connection) -> None:
        log.append("disconnected")

    async with serve(app) as server:
        peer: Peer | RawPeer
        if how == "close":
            peer = await server.peer()
            await peer.send(CALL, "1", "api:wait")
        else:
            peer = await server.raw()
            await peer.send_message(CALL, "1", "api:wait")
        await eventually(lambda: log == ["started"])
        await _leave(peer, how)
        await eventually(lambda: "disconnected" in log)
        assert log == ["started", "handler", "inner", "outer", "disconnected"]


async def test_many_calls_of_a_vanished_peer_leave_no_task() -> None:
    """A thousand calls under way leave no task when their peer vanishes."""
    app = make()
    running = 0

    @app.rpc("api:wait")
    async def wait() -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    async with serve(app) as server:
        before = len(asyncio.all_tasks())
        peer = await server.raw()
        for number in range(1000):
            await peer.send_message(CALL, str(number), "api:wait")
        await eventually(lambda: running == 1000)
        peer.reset()
        await eventually(lambda: running == 0)
        await eventually(lambda: len(app.connections) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_call_may_close_its_own_connection() -> None:
    """A handler that closes its caller's connection ends it with that code, and nothing hangs."""
    app = make()

    @app.rpc("api:kick")
    async def kick(connection: Connection) -> None:
        connection.close(4001, "go away")

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "1", "api:kick")
        assert await peer.closed() == (4001, "go away")


async def test_a_handler_is_given_its_call() -> None:
    """A parameter annotated `Call` is the message itself: id, URI, arguments, connection."""
    app = make()

    @app.rpc("api:who/{name}")
    async def who(call: Call, name: str) -> list[Any]:
        return [call.id, call.uri, call.args, call.name, dict(call.variables), call.connection.id]

    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "x1", "api:who/me")
        assert await peer.next() == [
            RESULT,
            "x1",
            ["x1", API + "who/me", [], "api:who/{name}", {"name": "me"}, peer.id],
        ]


# ---- topic messages that fail


async def test_a_publish_handler_that_fails_is_heard_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A PUBLISH whose handler fails reaches no subscriber; the next one does, and the log says so once."""
    app = make()

    @app.topic("t:picky")
    async def picky(event: Any) -> Any:
        if event == "bad":
            raise Hidden(SECRET)
        if event == "no":
            raise NotAllowed("not that")
        if event == "exit":
            raise SystemExit
        if event == "cancel":
            raise asyncio.CancelledError
        return event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:picky")
        for event in "bad", "no", "exit", "cancel", "good":
            await peer.send(PUBLISH, "t:picky", event)
        assert await other.events(1) == ["good"]
        await other.nothing()
        await peer.nothing()
    assert len([record for record in caplog.records if record.exc_info and SECRET in str(record.exc_info[1])]) == 1


async def test_a_publish_handler_that_returns_none_sends_nothing() -> None:
    """A handler that returns None swallows the event; false values are events."""
    app = make()

    @app.topic("t:filter")
    async def only(event: Any) -> Any:
        return None if event == "drop" else event

    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:filter")
        for event in "drop", 0, "", False, [], {}:
            await peer.send(PUBLISH, "t:filter", event)
        assert await other.events(5) == [0, "", False, [], {}]
        await other.nothing()


async def test_an_event_that_does_not_fit_never_reaches_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    """An event of the wrong form is refused without a traceback, and with one line for many of them."""
    app = make()
    ran: list[int] = []

    @app.topic("t:int")
    async def numbers(event: int) -> int:
        ran.append(event)
        return event

    async with serve(app) as server:
        peer = await server.peer()
        for _ in range(50):
            await peer.send(PUBLISH, "t:int", "text\n\x1b[31m" + "x" * 5000)
        await peer.settle()
        assert ran == []
        assert app.topics == {}
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(lines) <= 4
    assert all(line.isprintable() and len(line) < 600 for line in lines), lines
    assert "Traceback" not in caplog.text


async def test_a_server_only_topic_takes_no_publish() -> None:
    """A topic without handler and relay is published to by the server alone."""
    app = make()
    app.topic("t:news")
    async with serve(app) as server:
        peer, other = await server.peer(), await server.peer()
        await other.subscribe("t:news")
        await peer.send(PUBLISH, "t:news", "fake")
        await peer.settle()
        await app.publish("t:news", "real")
        assert await other.events(1) == ["real"]


@pytest.mark.parametrize("code", [SUBSCRIBE, UNSUBSCRIBE, PUBLISH])
async def test_unknown_topics_are_silent(code: int) -> None:
    """SUBSCRIBE, UNSUBSCRIBE and PUBLISH of what is not declared are answered with nothing at all."""
    async with serve(make()) as server:
        peer = await server.peer()
        await peer.send(code, "t:unknown", *([1] if code == PUBLISH else []))
        await peer.nothing()


async def test_an_event_published_before_a_call_returned_arrives_before_its_result() -> None:
    """What a procedure publishes reaches its own caller before the result."""
    app = make()
    app.topic("t:progress")

    @app.rpc("api:work")
    async def work() -> str:
        for step in range(3):
            await app.publish("t:progress", step)
        return "done"

    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:progress")
        await peer.send(CALL, "1", "api:work")
        received = [await peer.next() for _ in range(4)]
        topic = "http://example.com/topic/progress"
        assert received == [[EVENT, topic, 0], [EVENT, topic, 1], [EVENT, topic, 2], [RESULT, "1", "done"]]


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
