"""A CALL and its CALLRESULT: results, arguments, prefixes, and the `Call` that a handler is given."""

import dataclasses
from typing import Annotated, Any

import msgspec
import pytest

from wampkit import ERROR_URIS, App, Call

from ..support.tables import rows
from ..support.wire import CALL, ERROR, PREFIX, RESULT, serve

API = "http://example.com/api#"


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


# ---- the call itself


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
