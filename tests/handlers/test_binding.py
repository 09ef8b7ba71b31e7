"""Arguments from the wire: bound, converted, and explained when they do not fit."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from wampkit import App, Call, Connection, DeclarationError, Depends, InvalidArgument, Publish, Topic
from wampkit.concurrency.threads import Threads
from wampkit.handlers.binding import compile_handler
from wampkit.handlers.depends import Scope
from wampkit.handlers.plan import Plan

from ..support.tables import rows
from ..support.wire import ERROR, serve


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Box:
    corner: Point
    tags: list[str] = dataclasses.field(default_factory=list)


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


class Opaque:
    """Nothing that JSON can become."""


def plan(function: Callable[..., Any], **options: Any) -> Plan:
    return compile_handler("calc:f", function, {}, **options)


def bound(function: Callable[..., Any], *args: Any) -> list[Any]:
    return list(plan(function).wire.bind(list(args)))


def refusal(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(InvalidArgument) as refused:
        bound(function, *args)
    return refused.value.description


# ---- conversion


@rows(
    ("annotation", "given", "value"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (str, "a", "a"),
        (bool, True, True),
        (bytes, "aGk=", b"hi"),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, [1], [1]),
        (None, None, None),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1, 2], {1, 2}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (int | str | None, None, None),
        (int | str, "x", "x"),
        (Literal["a", "b"], "b", "b"),
        (Color, "red", Color.RED),
        (date, "2026-11-23", date(2026, 11, 23)),
        (datetime, "2026-11-23T10:00:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678123456781234567812345678")),
        (Decimal, "1.50", Decimal("1.50")),
        (Point, {"x": 1}, Point(1.0)),
        (Box, {"corner": {"x": 1, "y": 2}}, Box(Point(1.0, 2.0))),
        (Node, {"value": 1, "children": [{"value": 2}]}, Node(1, [Node(2)])),
        (Annotated[int, Meta(ge=0)], 0, 0),
    ],
)
def test_a_value_becomes_what_the_annotation_says(annotation: Any, given: Any, value: Any) -> None:
    """Built-in types, enums, dates, UUIDs, dataclasses, structs, unions and bounds are converted."""

    def function(x): ...  # type: ignore[no-untyped-def]

    function.__annotations__["x"] = annotation
    (got,) = bound(function, given)
    assert (got, type(got)) == (value, type(value))


def test_what_is_not_annotated_arrives_as_it_came() -> None:
    """Without an annotation nothing is converted or copied away."""

    def function(x, *rest): ...  # type: ignore[no-untyped-def]

    assert bound(function, {"a": None}, 1, "b") == [{"a": None}, 1, "b"]


def test_defaults_and_star_arguments() -> None:
    """What is left out is the default as it stands in the signature; `*args` take the rest, each converted."""
    marker = object()

    def function(a: int, b: Any = marker, *rest: float) -> None: ...

    assert bound(function, 1) == [1, marker]
    assert bound(function, 1, 2) == [1, 2]
    converted = bound(function, 1, 2, 3, 4.5)
    assert converted == [1, 2, 3.0, 4.5]
    assert type(converted[2]) is float


# ---- what does not fit


def add(x: float, y: float) -> None: ...


def order(what: str, count: Annotated[int, Meta(ge=1)] = 1, *notes: str) -> None: ...


def place(box: Box) -> None: ...


def tree(node: Node) -> None: ...


@rows(
    ("function", "args", "sentence"),
    [
        (add, (1, "two"), 'calc:f: argument 2 "y": expected float, got "two"'),
        (add, (None, 2), 'calc:f: argument 1 "x": expected float, got null'),
        (add, (True, 2), 'calc:f: argument 1 "x": expected float, got true'),
        (add, (1, [1] * 100), 'calc:f: argument 2 "y": expected float, got array'),
        (add, (), 'calc:f: argument 1 "x" is missing'),
        (add, (1,), 'calc:f: argument 2 "y" is missing'),
        (add, (1, 2, 3), "calc:f: takes at most 2 arguments, 3 were given"),
        (order, (), 'calc:f: argument 1 "what" is missing'),
        (order, ("tea", 0), 'calc:f: argument 2 "count": expected int >= 1'),
        (order, ("tea", 1, "a", 5), 'calc:f: argument 4 "notes": expected str, got 5'),
        (order, (1, 1, "a"), 'calc:f: argument 1 "what": expected str, got 1'),
        (place, ({"corner": {"x": "?"}},), 'calc:f: argument 1 "box".corner.x: expected float, got "?"'),
        (place, ({},), 'calc:f: argument 1 "box": object missing required field corner'),
        (place, ({"corner": {"x": 1}, "tags": ["a", 1]},), 'calc:f: argument 1 "box".tags[1]: expected str, got 1'),
        (tree, ({"value": 1, "children": [{"value": "x"}]},),
         'calc:f: argument 1 "node".children[0].value: expected int, got "x"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(function: Callable[..., Any], args: tuple[Any, ...], sentence: str) -> None:
    """The sentence names the procedure, the argument by number and name, what was expected, and what came."""
    assert refusal(function, *args) == sentence


def test_a_wrong_enum_value_is_shown() -> None:
    """A value that is none of an enum's says so."""

    def function(color: Color) -> None: ...

    assert refusal(function, "green") == "calc:f: argument 1 \"color\": invalid enum value 'green'"


def test_a_long_value_is_not_echoed() -> None:
    """What came is shown only as far as it helps."""
    sentence = refusal(add, "x" * 10_000, 1)
    assert len(sentence) < 150


# ---- one array or object for several parameters


def move(name: str, to: Point, fast: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("function", "only", "values"),
    [
        (add, [1, 2], [1.0, 2.0]),
        (add, {"y": 2, "x": 1}, [1.0, 2.0]),
        (move, ["a", {"x": 1}], ["a", Point(1.0), False]),
        (move, {"name": "a", "to": {"x": 1}}, ["a", Point(1.0), False]),
        (move, {"name": "a", "to": {"x": 1}, "fast": True}, ["a", Point(1.0), True]),
    ],
)
def test_one_array_or_object_is_spread(function: Callable[..., Any], only: Any, values: list[Any]) -> None:
    """Ratchet-family clients send one array or object for all parameters of a procedure."""
    assert bound(function, only) == values


def test_what_fits_alone_is_not_spread() -> None:
    """An array or object that the first parameter takes is one argument, as the specification says."""

    def keep(items: list[int], more: list[int] | None = None) -> None: ...

    def one(x: Any) -> None: ...

    def many(*args: Any) -> None: ...

    def mixed(first: Any, *rest: Any) -> None: ...

    def options(values: dict[str, int], other: int = 1) -> None: ...

    assert bound(keep, [1, 2]) == [[1, 2], None]
    assert bound(one, {"x": 1}) == [{"x": 1}]
    assert bound(many, [1, 2]) == [[1, 2]]
    assert bound(mixed, [1, 2]) == [[1, 2]]
    assert bound(options, {"values": 1, "other": 2}) == [{"values": 1, "other": 2}, 1]


@rows(
    ("only", "sentence"),
    [
        ([1], 'calc:f: argument 2 "y" is missing'),
        ([1, 2, 3], "calc:f: takes at most 2 arguments, 3 were given"),
        ([1, "b"], 'calc:f: argument 2 "y": expected float, got "b"'),
        ({"x": 1}, 'calc:f: argument 2 "y" is missing'),
        ({"x": 1, "y": 2, "z\n": 3}, r"calc:f: there is no argument 'z\n'"),
        ({"x": 1, "y": "b"}, 'calc:f: argument 2 "y": expected float, got "b"'),
        ({"x": 1, "y": {"deep": 1}}, 'calc:f: argument 2 "y": expected float, got {"deep":1}'),
    ],
)
def test_what_cannot_be_spread_says_why(only: Any, sentence: str) -> None:
    """The same sentences name what is wrong inside the array or object."""
    assert refusal(add, only) == sentence


# ---- injected parameters


async def answer() -> int:
    return 42


async def test_injected_parameters_stand_anywhere() -> None:
    """Connection, Call, variables and dependencies may stand before, between and after what is sent."""
    app = App()

    @app.rpc("f/{kind}/{number}")
    async def f(
        conn: Connection,
        x: int,
        kind: str,
        call: Call,
        y: int = 7,
        *rest: int,
        number: int,
        dep: Annotated[int, Depends(answer)],
    ) -> list[Any]:
        return [conn.id == call.connection.id, x, kind, call.args, y, list(rest), number, dep]

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("f/a/5", 1) == [True, 1, "a", [1], 7, [], 5, 42]
        assert await peer.result("f/a/5", 1, 2, 3, 4) == [True, 1, "a", [1, 2, 3, 4], 2, [3, 4], 5, 42]
        answer_ = await peer.call("f/a/five", 1)
        assert answer_[0] == ERROR
        assert answer_[3] == "no such procedure: 'f/a/five'"


async def test_all_kinds_of_callables_serve() -> None:
    """Functions, methods, partials, callable objects and wrapped functions, async or not, are handlers."""
    app = App()

    def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Calculator:
        def __init__(self, by: int) -> None:
            self.by = by

        async def times(self, x: int) -> int:
            return self.by * x

        def plus(self, x: int) -> int:
            return self.by + x

        async def __call__(self, x: int) -> int:
            return -x

    async def power(base: int, x: int) -> int:
        return base**x

    @wrapping
    async def wrapped(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    calculator = Calculator(10)
    app.add_rpc("times", calculator.times)
    app.add_rpc("plus", calculator.plus)
    app.add_rpc("object", calculator)
    app.add_rpc("partial", functools.partial(power, 2))
    app.add_rpc("wrapped", wrapped)
    async with serve(app) as server:
        peer = await server.peer()
        told = [await peer.result(name, 5) for name in ("times", "plus", "object", "partial", "wrapped")]
        assert told == [50, 15, -5, 32, 6]
        assert (await peer.call("wrapped", "x"))[3] == 'wrapped: argument 1 "x": expected int, got "x"'


# ---- declarations that cannot work


def opaque(x: Opaque) -> None: ...


def nested(x: dict[str, list[Opaque | None]]) -> None: ...


def two_structs(x: Point | Node) -> None: ...


def unknown(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def keywords(x: int, **options: Any) -> None: ...


def keyword_only(x: int, *, flag: bool) -> None: ...


def bare_depends(x: Annotated[int, Depends]) -> None: ...


def needs_argument(count: int) -> int:
    return count


def wants_argument(x: Annotated[int, Depends(needs_argument)]) -> None: ...


def circle_one(x: Annotated[int, Depends(lambda: circle_two())]) -> int:
    return 1


def circle_two(x: Annotated[int, Depends(circle_one)] = 2) -> int:
    return 2


def wants_circle(x: Annotated[int, Depends(circle_two)]) -> None: ...


circle_one.__annotations__["x"] = Annotated[int, Depends(circle_two)]


def wants_topic(topic: Topic) -> None: ...


def wants_publish(publish: Publish) -> None: ...


def says_nothing(conn) -> None: ...  # type: ignore[no-untyped-def]


def takes_it_from_the_wire(conn: Any, anything) -> Any:  # type: ignore[no-untyped-def]
    return conn, anything


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


@rows(
    ("function", "parameter", "fix"),
    [
        (opaque, "'x'", "JSON cannot be converted to Opaque; use a dataclass"),
        (nested, "'x'", "JSON cannot be converted to Opaque"),
        (two_structs, "'x'", "must be tagged"),
        (unknown, "'x'", "the name 'Missing' in its annotation is not known; import it"),
        (keywords, "'options'", "take one parameter of type dict instead"),
        (keyword_only, "'flag'", "drop the \\* before it"),
        (bare_depends, "'x'", r"write Depends\(function\)"),
        (wants_argument, "'count'", "a dependency is given no arguments"),
        (wants_topic, "'topic'", "publish with app.publish"),
        (wants_publish, "'publish'", "a procedure receives a Call"),
        (says_nothing, "'conn'", "write conn: Connection, or conn: Any if they do send it"),
        (generator, "generator", "does not yield"),
        (async_generator, "async_generator", "does not yield"),
    ],
)
async def test_a_handler_that_cannot_work_stops_the_start(
    function: Callable[..., Any], parameter: str, fix: str
) -> None:
    """The start fails with the handler's name, the parameter, and what to change."""
    app = App()
    app.add_rpc("x", function)
    with pytest.raises(DeclarationError, match=fix) as refused:
        await app.start()
    assert function.__name__ in str(refused.value)
    assert parameter in str(refused.value)


async def test_an_annotation_says_that_clients_send_what_is_named_like_something_injected() -> None:
    """`conn: Any` is taken from the wire, as is any other name without an annotation."""
    app = App()
    app.add_rpc("x", takes_it_from_the_wire)
    async with serve(app) as server:
        assert await (await server.peer()).result("x", 1, 2) == [1, 2]


async def test_the_place_of_a_wrong_handler_is_told() -> None:
    """File and line of the handler stand in the message, to be found in an editor."""
    app = App()
    app.add_rpc("x", opaque)
    with pytest.raises(DeclarationError, match=rf"test_binding\.py:{opaque.__code__.co_firstlineno}"):
        await app.start()


async def test_a_variable_needs_its_parameter() -> None:
    """A handler that does not take the pattern's variable stops the start; a hook may do without it."""
    app = App()
    topic = app.topic("chat/{room}", relay=True)

    @topic.on_subscribe
    async def hook() -> None: ...

    await app.start()
    await app.stop()

    @app.rpc("call/{number}")
    async def handler(x: int) -> None: ...

    with pytest.raises(DeclarationError, match=r"handler.*\{number\} needs a parameter 'number'; add it"):
        await app.start()


async def test_a_topic_handler_takes_one_event() -> None:
    """A second parameter of a topic's handler that is neither injected nor a variable is refused by name."""
    app = App()

    @app.topic("t")
    async def handler(event: str, extra: int) -> None: ...

    with pytest.raises(DeclarationError, match="parameter 'extra' is nothing that this handler can be given"):
        await app.start()


async def test_dependencies_in_a_circle_are_refused() -> None:
    """A dependency that needs itself stops the start instead of the first call."""
    app = App()
    app.add_rpc("x", wants_circle)
    with pytest.raises(DeclarationError, match="depends on itself"):
        await app.start()


async def test_a_plan_without_injection_needs_no_scope() -> None:
    """What takes nothing injected is called with exactly the wire's values."""
    threads = Threads(1)
    compiled = plan(add)
    assert not compiled.injected
    assert await compiled.call(threads, None, [1, 2], {}) is None

    injected = compile_handler("x", lambda conn, x: (conn, x), {}, variables=("conn",))
    scope = Scope(None, None, None, {"conn": "c"}, threads)
    assert await injected.run(injected.wire.bind([5]), scope) == ("c", 5)
    threads.close()
