"""The one list: the order of its members, what they may do to messages and to handshakes, and wrong members."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from aiohttp import web

from wampkit import (
    ERROR_URIS,
    AllowOrigins,
    App,
    Call,
    CallNext,
    Connection,
    DeclarationError,
    Incoming,
    NotAllowed,
    Publish,
    Router,
    WampError,
)

from ..support.tables import rows
from ..support.wire import CALL, PUBLISH, RESULT, SUBSCRIBE, UNSUBSCRIBE, Peer, eventually, handshake, serve

T = "http://example.com/"


class Tracer:
    """Writes down what passes it, on the way in and out."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.routes: list[str | None] = []

    async def connect(self, connection: Connection) -> None:
        self.log.append(f"{self.name}.connect")

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        self.log.append(f"{self.name}>{type(message).__name__}")
        self.routes.append(message.route.uri if message.route else None)
        try:
            return await call_next(message)
        finally:
            self.log.append(f"{self.name}<")


# ---- messages


@pytest.mark.parametrize("code", [CALL, SUBSCRIBE, UNSUBSCRIBE, PUBLISH])
async def test_each_message_passes_the_list_in_its_order(code: int) -> None:
    """App, router and route middlewares run outermost first for each type of message, and return inside out.

    Each sees the route of the message.
    """
    log: list[str] = []
    tracers = {name: Tracer(name, log) for name in ("app1", "app2", "outer", "inner", "route1", "route2")}
    app = App(prefixes={"t": T}, middlewares=[tracers["app1"], tracers["app2"]])
    outer = Router(middlewares=[tracers["outer"].message])
    inner = Router(prefix="t:", middlewares=[tracers["inner"].message])
    route = [tracers["route1"].message, tracers["route2"].message]

    @inner.rpc("x", middlewares=route)
    async def procedure() -> None:
        log.append("handler")

    @inner.topic("x", middlewares=route)
    async def topic(event: Any) -> Any:
        log.append("handler")
        return event

    topic.on_subscribe(lambda: log.append("handler"))
    topic.on_unsubscribe(lambda: log.append("handler"))
    outer.include(inner)
    app.include(outer)
    async with serve(app) as server:
        peer = await server.peer()
        assert log == ["app1.connect", "app2.connect"]
        if code == UNSUBSCRIBE:
            await peer.subscribe("t:x")
        log.clear()
        match code:
            case 2:
                await peer.call("t:x")
            case 7:
                await peer.send(PUBLISH, "t:x", 1)
            case _:
                await peer.send(code, "t:x")
        await eventually(lambda: log.count("app1<") >= 1)
        name = {CALL: "Call", SUBSCRIBE: "Subscribe", UNSUBSCRIBE: "Unsubscribe", PUBLISH: "Publish"}[code]
        order = ["app1", "app2", "outer", "inner", "route1", "route2"]
        assert log == [
            *[f"{each}>{name}" for each in order],
            "handler",
            *[f"{each}<" for each in reversed(order)],
        ]
        assert {tuple(set(each.routes)) for each in tracers.values()} == {(f"{T}x",)}


async def test_a_middleware_may_change_arguments_result_and_event() -> None:
    """`message.replace` passes on other arguments or another event; what a middleware returns is the result."""

    async def double(message: Incoming, call_next: CallNext) -> Any:
        if isinstance(message, Call) and message.name == "t:add":
            return await call_next(message.replace(args=[arg * 2 for arg in message.args])) + 1
        if isinstance(message, Publish):
            return await call_next(message.replace(event=["changed", message.event], exclude=[], eligible=None))
        return await call_next(message)

    app = App(prefixes={"t": T}, middlewares=[double])
    app.topic("t:relay", relay=True)

    @app.rpc("t:add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("t:add", 1, 2) == 7
        await peer.subscribe("t:relay")
        await peer.send(PUBLISH, "t:relay", 1)
        assert await peer.events(1) == [["changed", 1]]


@pytest.mark.parametrize("field", ["uri", "route", "connection", "variables"])
async def test_a_middleware_may_not_move_a_message_to_another_route(field: str) -> None:
    """The route is chosen when middlewares run: replacing what chose it is refused."""
    caught: list[TypeError] = []

    async def move(message: Incoming, call_next: CallNext) -> Any:
        try:
            message.replace(**{field: None})
        except TypeError as error:
            caught.append(error)
        return await call_next(message)

    app = App(middlewares=[move])
    async with serve(app) as server:
        await (await server.peer()).call("x")
    assert field in str(caught[0])


async def test_a_middleware_may_answer_itself() -> None:
    """A middleware that does not go on answers a call with what it returns, and swallows a topic message."""

    async def cache(message: Incoming, call_next: CallNext) -> Any:
        return "cached"

    app = App(prefixes={"t": T})
    ran: list[str] = []

    @app.rpc("t:x", middlewares=[cache])
    async def handler() -> None:
        ran.append("x")

    topic = app.topic("t:y", relay=True, middlewares=[cache])
    topic.on_subscribe(lambda: ran.append("y"))
    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("t:x") == "cached"
        await peer.subscribe("t:y")
        assert app.topics == {}
    assert ran == []


async def test_a_middleware_may_refuse() -> None:
    """What a middleware raises answers the call as if the handler had raised it, and refuses a topic message."""

    async def require(message: Incoming, call_next: CallNext) -> Any:
        if message.name == "t:crash":
            raise RuntimeError("hunter2")
        raise NotAllowed(f"not {message.name}", {"variables": dict(message.variables)})

    app = App(prefixes={"t": T}, middlewares=[require])

    @app.rpc("t:x/{id}")
    async def handler(id: str) -> None:
        raise AssertionError("never runs")

    @app.rpc("t:crash")
    async def crash() -> None:
        raise AssertionError("never runs")

    app.topic("t:relay", relay=True)
    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call("t:x/5")
        assert answer[2:] == [ERROR_URIS["not_allowed"], "not t:x/{id}", {"variables": {"id": "5"}}]
        answer = await peer.call("t:crash")
        assert answer[2] == ERROR_URIS["generic"]
        assert "hunter2" not in str(answer)
        await peer.send(SUBSCRIBE, "t:relay")
        # wampkit's own procedures pass no middleware.
        assert await peer.result("wampkit:subscription", "t:relay") is None
        assert app.topics == {}


async def test_the_apps_middlewares_see_unknown_uris() -> None:
    """Messages to URIs that nobody declared pass the app's middlewares with no route, and may be answered there."""
    seen: list[tuple[str, str]] = []

    async def look(message: Incoming, call_next: CallNext) -> Any:
        assert message.route is None
        seen.append((type(message).__name__, message.uri))
        return "answered" if message.uri == "mine" else await call_next(message)

    app = App(middlewares=[look])
    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("nowhere"))[2] == ERROR_URIS["not_found"]
        assert await peer.result("mine") == "answered"
        await peer.send(SUBSCRIBE, "a")
        await peer.send(UNSUBSCRIBE, "b")
        await peer.send(PUBLISH, "c", 1)
        await peer.settle()
    assert seen == [("Call", "nowhere"), ("Call", "mine"), ("Subscribe", "a"), ("Unsubscribe", "b"), ("Publish", "c")]


async def test_middlewares_may_use_context_managers_around_the_rest() -> None:
    """A middleware sees the handler's own exception, may turn it into an answer, and is cleaned up when cancelled."""
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def guard() -> Any:
        try:
            yield
        except LookupError as error:
            log.append("lookup")
            raise WampError("t:lookup", str(error.args[0])) from error
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async def middleware(message: Incoming, call_next: CallNext) -> Any:
        async with guard():
            return await call_next(message)

    app = App(prefixes={"t": T}, middlewares=[middleware])

    @app.rpc("t:fail")
    async def fail() -> None:
        raise KeyError("what")

    @app.rpc("t:wait")
    async def wait() -> None:
        log.append("waiting")
        await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("t:fail"))[2:] == [T + "lookup", "what"]
        await peer.send(CALL, "1", "t:wait")
        await eventually(lambda: "waiting" in log)
    assert log == ["lookup", "waiting", "cancelled"]


async def test_middlewares_are_timed_with_their_call() -> None:
    """A procedure's timeout covers the middlewares around it."""

    async def slow(message: Incoming, call_next: CallNext) -> Any:
        await asyncio.Event().wait()

    app = App()

    @app.rpc("x", timeout=0.02, middlewares=[slow])
    async def handler() -> None: ...

    async with serve(app) as server:
        assert (await (await server.peer()).call("x"))[2] == ERROR_URIS["timeout"]


async def test_connection_attributes_are_shared_by_gates_and_handlers() -> None:
    """What a gate puts on the connection is there for hooks, middlewares and handlers, and for nobody else's."""

    class Login:
        async def connect(self, connection: Connection) -> None:
            connection.attributes["user"] = connection.request.query["user"]

        async def message(self, message: Incoming, call_next: CallNext) -> Any:
            message.connection.attributes.setdefault("count", 0)
            message.connection.attributes["count"] += 1
            return await call_next(message)

    app = App(middlewares=[Login()])
    users: list[str] = []
    app.on_connect(lambda connection: users.append(connection.attributes["user"]))

    @app.rpc("who")
    async def who(connection: Connection) -> list[Any]:
        return [connection.attributes["user"], connection.attributes["count"]]

    async with serve(app) as server:
        alice, bob = await Peer.open(server.url + "?user=alice"), await Peer.open(server.url + "?user=bob")
        assert await alice.result("who") == ["alice", 1]
        assert await alice.result("who") == ["alice", 2]
        assert await bob.result("who") == ["bob", 1]
        assert sorted(users) == ["alice", "bob"]
        await alice.close()
        await bob.close()


# ---- handshakes


class Refuse:
    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.asked = 0

    async def connect(self, connection: Connection) -> None:
        self.asked += 1
        raise self.error


async def test_a_gate_refuses_with_its_status_and_closes() -> None:
    """A gate's HTTP error is the answer, with its text and headers; later gates are not asked, the wire is closed."""
    later = Refuse(web.HTTPForbidden())
    gate = Refuse(web.HTTPUnauthorized(text="who are you?", headers={"WWW-Authenticate": "Basic"}))
    app = App(middlewares=[gate, later])
    connected: list[str] = []
    app.on_connect(lambda connection: connected.append(connection.id))
    async with serve(app) as server:
        answer = await server.ask(handshake())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: basic" in head.lower()
        assert b"connection: close" in head.lower()
        assert b"who are you?" in body
    assert (gate.asked, later.asked, connected) == (1, 0, [])


async def test_a_request_behind_a_refused_handshake_is_not_run() -> None:
    """What is pipelined behind a refused handshake is never read as a request."""
    hits: list[str] = []

    async def admin(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(text="admin")

    web_app = web.Application()
    web_app.router.add_get("/admin", admin)
    app = App(middlewares=[Refuse(web.HTTPForbidden())])
    app.setup(web_app)
    async with serve(app, web_app=web_app) as server:
        answer = await server.ask(handshake() + b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"403" in answer
        assert b"admin" not in answer
        direct = await server.ask(b"GET /admin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert direct.endswith(b"admin")
    assert hits == ["/admin"]


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), KeyError("hunter2")], ids=repr)
async def test_a_gate_that_fails_tells_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception in a gate is HTTP 500 without internals, with one traceback in the log for many."""
    app = App(middlewares=[Refuse(error)])
    async with serve(app) as server:
        for _ in range(5):
            answer = await server.ask(handshake())
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"hunter2" not in answer
            assert b"connection: close" in answer.lower()
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_gate_that_fails_is_reported() -> None:
    """`on_error` hears of an unexpected exception in a gate, with the connection that it kept out."""
    error = RuntimeError("boom")
    app = App(middlewares=[Refuse(error)])
    reported: list[tuple[BaseException, Connection]] = []

    @app.on_error
    def report(error: BaseException, connection: Connection) -> None:
        reported.append((error, connection))

    async with serve(app) as server:
        await server.ask(handshake("/ws?user=ann"))
    assert [(each, connection.request.query["user"]) for each, connection in reported] == [(error, "ann")]


async def test_a_gate_refuses_with_a_wamp_error() -> None:
    """A `WampError` in a gate is HTTP 403 with its description."""
    app = App(middlewares=[Refuse(NotAllowed("members only"))])
    async with serve(app) as server:
        answer = await server.ask(handshake())
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"members only" in answer


async def test_many_refusals_are_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred refused handshakes are a few lines with a count."""
    caplog.set_level(logging.DEBUG, "wampkit")
    async with serve(App(middlewares=[AllowOrigins("https://example.com")])) as server:
        for number in range(100):
            answer = await server.ask(handshake("/ws", f"Origin: https://evil{number}.example"))
            assert b" 403 " in answer.splitlines()[0]
    assert 1 <= len([record for record in caplog.records if "403" in record.getMessage()]) <= 3


# ---- wrong declarations


class NotAsync:
    def message(self, message: Any, call_next: Any) -> Any: ...


class Nothing:
    pass


class GateOnly:
    async def connect(self, connection: Connection) -> None: ...


class ConnectTakesTwo:
    async def connect(self, connection: Connection, other: Any) -> None: ...


async def _one(message: Any) -> Any: ...


def _plain(message: Any, call_next: Any) -> Any: ...


@rows(
    ("wrong", "words"),
    [
        (_plain, "async def"),
        (_one, "call_next"),
        (NotAsync(), "async def"),
        (Nothing(), "connect or message"),
        (5, "connect or message"),
        ("text", "connect or message"),
        (AllowOrigins, "instance"),
        (ConnectTakesTwo(), "(connection)"),
    ],
)
async def test_a_wrong_middleware_is_refused(wrong: Any, words: str) -> None:
    """What cannot be a middleware is refused, at the app at once and at a route when it starts, with the fix."""
    with pytest.raises(DeclarationError) as caught:
        App(middlewares=[wrong])
    assert words in str(caught.value)
    for where in "router", "route":
        app = App()
        router = Router(middlewares=[wrong] if where == "router" else [])

        async def handler() -> None: ...

        router.add_rpc("some/procedure", handler, middlewares=[wrong] if where == "route" else [])
        app.include(router)
        with pytest.raises(DeclarationError) as caught:
            await app.start()
        if not isinstance(wrong, ConnectTakesTwo):
            assert words in str(caught.value)
        assert "some/procedure" in str(caught.value)
        assert not app.running


async def test_a_gate_at_a_route_is_refused() -> None:
    """A middleware that only acts on handshakes belongs to the app, and says so elsewhere."""
    app = App()

    @app.rpc("some/procedure", middlewares=[GateOnly()])
    async def handler() -> None: ...

    with pytest.raises(DeclarationError, match=r"App\(middlewares=\[\.\.\.\]\)"):
        await app.start()


async def test_messages_show_no_payload() -> None:
    """Printing a message names route and client, and nothing that the client sent."""
    shown: list[str] = []

    async def look(message: Incoming, call_next: CallNext) -> Any:
        shown.append(repr(message))
        return await call_next(message)

    app = App(middlewares=[look])

    @app.rpc("echo/{name}")
    async def echo(x: str, name: str) -> str:
        return x

    @app.topic("t/{name}")
    async def topic(event: str, name: str) -> None: ...

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.call("echo/hunter2", "hunter2") == [RESULT, "call-1", "hunter2"]
        await peer.send(PUBLISH, "t/hunter2", "hunter2")
        await eventually(lambda: len(shown) == 2)
        assert all("hunter2" not in text and peer.id in text for text in shown)
