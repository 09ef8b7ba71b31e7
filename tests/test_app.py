"""`App`: its options, its places in an aiohttp site, and the declarations that cannot work."""

import asyncio
import enum
from datetime import datetime
from typing import Annotated, Any

import aiohttp
import pytest
from aiohttp import web

from wampkit import App, Call, Connection, DeclarationError, Depends, Publish, Subscribe, Topic
from wampkit.app import lifecycle_of

from .support.tables import rows
from .support.wire import CALL, RESULT, Peer, eventually, serve

T = "http://example.com/"


def make(name: str) -> App:
    app = App(prefixes={"t": T})
    app.topic("t:relay", relay=True)

    @app.rpc("name")
    async def tell() -> str:
        return name

    return app


# ---- in an aiohttp site


async def test_an_app_lives_beside_other_routes() -> None:
    """`setup` serves the app on its path; the site's own pages, sockets and state stay as they are."""
    web_app = web.Application()

    async def page(request: web.Request) -> web.Response:
        await app.publish("t:relay", "from the page")
        return web.Response(text="page")

    web_app.router.add_get("/", page)
    app = make("one")
    app.setup(web_app, "/deep/socket")
    async with serve(app, "/deep/socket", web_app=web_app) as server, aiohttp.ClientSession() as session:
        peer = await server.peer()
        await peer.subscribe("t:relay")
        base = f"http://127.0.0.1:{server.port}"
        async with session.get(base + "/") as answer:
            assert (answer.status, await answer.text()) == (200, "page")
        assert await peer.events(1) == ["from the page"]
        async with session.get(base + "/ws") as answer:
            assert answer.status == 404
        assert await peer.result("name") == "one"


async def test_two_apps_on_two_paths_share_nothing() -> None:
    """Two apps of one aiohttp application serve their own procedures, topics and connections."""
    web_app = web.Application()
    one, two = make("one"), make("two")
    one.setup(web_app, "/one")
    two.setup(web_app, "/two")
    async with serve(one, "/one", web_app=web_app) as server:
        base = f"ws://127.0.0.1:{server.port}"
        first, second = await Peer.open(base + "/one"), await Peer.open(base + "/two")
        assert await first.result("name") == "one"
        assert await second.result("name") == "two"
        for peer in (first, second):
            await peer.subscribe("t:relay")
        await one.publish("t:relay", "event of one")
        assert await first.events(1) == ["event of one"]
        await second.nothing()
        assert len(one.connections) == len(two.connections) == 1
        await first.close()
        await second.close()
        await eventually(lambda: len(two.connections) == 0)
    assert not two.running


async def test_web_app_is_a_whole_application() -> None:
    """`web_app()` is what aiohttp's runner, run_app and gunicorn take, on the path of one's choice."""
    app = make("one")
    async with serve(app, "/other", web_app=app.web_app("/other")) as server:
        assert await (await server.peer()).result("name") == "one"


async def test_the_default_path_is_ws() -> None:
    """Without a path the socket is at /ws."""
    app = make("one")
    async with serve(app, web_app=app.web_app()) as server:
        assert server.url.endswith("/ws")
        assert await (await server.peer()).result("name") == "one"


async def test_an_app_works_in_a_subapplication() -> None:
    """An app set up in a nested aiohttp application is served below that one's prefix."""
    app = make("one")
    inner, outer = web.Application(), web.Application()
    app.setup(inner, "/ws")
    outer.add_subapp("/inner", inner)
    async with serve(app, "/inner/ws", web_app=outer) as server:
        assert await (await server.peer()).result("name") == "one"


# ---- options


@rows(
    ("options", "word"),
    [
        ({"malformed": "explode"}, "malformed"),
        ({"keepalive": 0}, "keepalive"),
        ({"keepalive": -1.0}, "keepalive"),
        ({"keepalive": float("nan")}, "keepalive"),
        ({"limits": {"calls": 3}}, "limits"),
        ({"goodbye": "ciao"}, "goodbye"),
        ({"threads": 0}, "threads"),
        ({"close_timeout": 0}, "close_timeout"),
        ({"error_uris": {"nonsense": "x"}}, "nonsense"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], word: str) -> None:
    """A wrong option is an error at once that names it."""
    with pytest.raises(DeclarationError, match=word):
        App(**options)


async def test_app_publish_takes_curies_of_the_app() -> None:
    """`app.publish` expands the app's prefixes; a topic that is not declared is an error."""
    app = make("one")
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe("t:relay")
        await app.publish("t:relay", 1)
        await app.publish(T + "relay", 2)
        assert await peer.events(2) == [1, 2]
        with pytest.raises(ValueError, match="declare"):
            await app.publish("t:other", 3)
        with pytest.raises(ValueError, match="declare"):
            await app.publish("name", 3)


# ---- routing


async def test_variables_are_converted() -> None:
    """A URI's variables arrive by name, converted to their annotations; a URI whose variables do not fit is none."""

    class Color(enum.Enum):
        RED = "red"

    app = App()

    @app.rpc("item/{number}/{color}/{when}")
    async def item(extra: int, number: int, when: datetime, color: Color) -> list[Any]:
        return [extra, number, color, when.year]

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("item/5/red/2026-01-01T00:00:00", 1) == [1, 5, "red", 2026]
        for uri in "item/x/red/2026-01-01T00:00:00", "item/5/blue/2026-01-01T00:00:00", "item/5/red/now":
            assert (await peer.call(uri, 1))[2].endswith("NoSuchRPCEndpoint")


# ---- declarations that cannot work


async def _handler() -> None: ...


def _twice(app: App) -> None:
    app.add_rpc("t:x", _handler)
    app.add_rpc(T + "x", _handler)


def _twice_pattern(app: App) -> None:
    app.topic("t:{a}/x")
    app.topic("t:{b}/x")


def _no_parameter(app: App) -> None:
    app.add_rpc("t:{room}", _handler)


def _bad_pattern(app: App) -> None:
    app.add_rpc("t:{room", _handler)


def _touching(app: App) -> None:
    async def two(a: str, b: str) -> None: ...

    app.add_rpc("t:{a}{b}", two)


def _bad_annotation(app: App) -> None:
    async def takes_socket(loop: asyncio.AbstractEventLoop) -> None: ...

    app.add_rpc("t:x", takes_socket)


def _topic_in_rpc(app: App) -> None:
    async def wants_topic(topic: Topic) -> None: ...

    app.add_rpc("t:x", wants_topic)


def _publish_in_rpc(app: App) -> None:
    async def wants_publish(message: Publish) -> None: ...

    app.add_rpc("t:x", wants_publish)


def _two_events(app: App) -> None:
    @app.topic("t:x")
    async def two(event: int, other: int) -> None: ...


def _event_in_hook(app: App) -> None:
    topic = app.topic("t:x")

    @topic.on_subscribe
    async def hook(event: Any) -> None: ...


def _call_in_hook(app: App) -> None:
    topic = app.topic("t:x")

    @topic.on_subscribe
    async def hook(call: Call) -> None: ...


def _subscribe_in_unsubscribe(app: App) -> None:
    topic = app.topic("t:x")

    @topic.on_unsubscribe
    async def hook(message: Subscribe) -> None: ...


def _generator(app: App) -> None:
    @app.rpc("t:x")
    async def stream() -> Any:
        yield 1


def _keywords(app: App) -> None:
    @app.rpc("t:x")
    async def kwargs(**options: Any) -> None: ...


def _keyword_only(app: App) -> None:
    @app.rpc("t:x")
    async def kwargs(*, name: str) -> None: ...


def _self_dependency(app: App) -> None:
    async def get(value: Any = None) -> None: ...

    get.__annotations__["value"] = Annotated[int, Depends(get)]

    @app.rpc("t:x")
    async def handler(value: Annotated[int, Depends(get)]) -> None: ...


def _greedy_dependency(app: App) -> None:
    async def get(what: str) -> str:
        return what

    @app.rpc("t:x")
    async def handler(value: Annotated[str, Depends(get)]) -> None: ...


def _reserved(app: App) -> None:
    app.add_rpc("wampkit:mine", _handler)


def _empty(app: App) -> None:
    app.add_rpc("", _handler)


@rows(
    ("declare", "words"),
    [
        (_twice, ["declared twice", "t:x", T + "x"]),
        (_twice_pattern, ["declared twice", "t:{a}/x"]),
        (_no_parameter, ["_handler", "room", "parameter"]),
        (_bad_pattern, ["{room", "brace"]),
        (_touching, ["touch"]),
        (_bad_annotation, ["takes_socket", "loop", "AbstractEventLoop", "Depends"]),
        (_topic_in_rpc, ["wants_topic", "topic", "app.publish"]),
        (_publish_in_rpc, ["wants_publish", "Call"]),
        (_two_events, ["two", "other"]),
        (_event_in_hook, ["hook", "event", "on_subscribe"]),
        (_call_in_hook, ["hook", "call"]),
        (_subscribe_in_unsubscribe, ["hook", "Unsubscribe"]),
        (_generator, ["stream", "yield"]),
        (_keywords, ["kwargs", "options"]),
        (_keyword_only, ["kwargs", "name"]),
        (_self_dependency, ["get", "itself"]),
        (_greedy_dependency, ["get", "what"]),
        (_reserved, ["wampkit:"]),
        (_empty, ["empty"]),
    ],
)
async def test_a_declaration_that_cannot_work_stops_the_start(declare: Any, words: list[str]) -> None:
    """A wrong declaration fails the start with a message that names the handler, the parameter and the fix."""
    app = App(prefixes={"t": T})
    declare(app)
    with pytest.raises(DeclarationError) as caught:
        await app.start()
    assert not app.running
    for word in words:
        assert word in str(caught.value), str(caught.value)
    with pytest.raises(DeclarationError):
        lifecycle_of(app).routes()


async def test_declarations_list_what_is_served() -> None:
    """`declarations` tells each procedure and topic with its full URI, without starting anything."""
    app = make("one")
    listed = {(each.kind, each.declared, each.uri) for each in lifecycle_of(app).routes()}
    assert listed == {("topic", "t:relay", T + "relay"), ("procedure", "name", "name")}
    assert not app.running


# ---- all of it at once


async def test_clients_are_never_mixed() -> None:
    """With many clients calling at once each handler sees its own connection and nobody else's."""
    app = App()

    @app.on_connect
    async def login(connection: Connection) -> None:
        await asyncio.sleep(0)
        connection.attributes["id"] = connection.id

    @app.rpc("who")
    async def who(connection: Connection) -> str:
        await asyncio.sleep(0)
        return str(connection.attributes["id"])

    async with serve(app) as server:
        peers = [await server.raw() for _ in range(100)]
        for number in range(10):
            for peer in peers:
                await peer.send_message(CALL, str(number), "who")
        for peer in peers:
            answers = [await peer.read_message() for _ in range(10)]
            assert sorted(answers) == [[RESULT, str(number), peer.id] for number in range(10)]
