"""Declaring procedures and topics: what is refused, what wins, and how routers compose."""

import pytest

from wampkit import App, DeclarationError, Router, Topic
from wampkit.app import lifecycle_of

from .support.wire import ERROR, serve


async def started(app: App) -> None:
    await app.start()
    await app.stop()


async def test_a_handler_stays_the_function_it_was() -> None:
    """What a decorator returns can be called by a unit test as if there were no app."""
    app = App()

    @app.rpc("add")
    def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    @app.topic("t")
    async def handler(event: str) -> str:
        """Shout."""
        return event.upper()

    assert add(1, 2) == 3
    assert await handler("a") == "A"
    assert (handler.__name__, handler.__doc__) == ("handler", "Shout.")


def duplicates() -> list[App]:
    apps = []
    for first, second in (("a", "a"), ("p:a", "http://x/a"), ("t/{x}", "t/{y}")):
        app = App(prefixes={"p": "http://x/"})
        app.topic(first, relay=True)
        app.topic(second, relay=True)
        apps.append(app)
    return apps


@pytest.mark.parametrize("app", duplicates(), ids=["same", "curie", "pattern"])
async def test_the_same_uri_twice_stops_the_start(app: App) -> None:
    """Two declarations of one URI, however they are spelt, are refused and both are named."""
    with pytest.raises(DeclarationError, match="declared twice, first as topic"):
        await app.start()


async def test_a_duplicate_names_both_handlers() -> None:
    """The message names the handlers, so that they can be found."""
    app = App()

    @app.rpc("same")
    async def first() -> None: ...

    @app.rpc("same")
    async def second() -> None: ...

    with pytest.raises(
        DeclarationError,
        match=r"'same' \(.*second, .*:\d+\) is declared twice, first as .*first, .*:\d+\)",
    ):
        await app.start()


async def test_a_procedure_and_a_topic_may_share_a_uri() -> None:
    """They are of different kinds and never meet."""
    app = App()
    app.topic("x", relay=True)

    @app.rpc("x")
    async def x() -> None: ...

    await started(app)


async def test_the_more_literal_route_wins() -> None:
    """An exact URI beats a pattern, and the pattern with more literal text the one with less, whatever the order."""
    app = App()

    @app.rpc("user/{name}")
    async def anyone(name: str) -> str:
        return "anyone"

    @app.rpc("user/{path:path}")
    async def deep(path: str) -> str:
        return "deep"

    @app.rpc("user/admin-{name}")
    async def admin(name: str) -> str:
        return "admin"

    @app.rpc("user/root")
    async def root() -> str:
        return "root"

    async with serve(app) as server:
        peer = await server.peer()
        told = [await peer.result(f"user/{name}") for name in ("ann", "admin-ann", "root", "ann/files")]
    assert told == ["anyone", "admin", "root", "deep"]


async def test_each_segment_of_a_route_counts() -> None:
    """The more literal of routes that match is taken wherever the text stands; an empty or another segment is none."""
    app = App()
    app.add_rpc("a/{x}/c", lambda x: f"variable {x}")
    app.add_rpc("a/b/{y}", lambda y: f"literal {y}")
    app.add_rpc("a/b/c", lambda: "exact")
    async with serve(app) as server:
        peer = await server.peer()
        told = [await peer.result(uri) for uri in ("a/b/c", "a/b/d", "a/x/c")]
        assert told == ["exact", "literal d", "variable x"]
        for uri in "a/x/d", "a//c", "a/b/", "a/b/c/d", "A/b/c":
            assert (await peer.call(uri))[0] == ERROR


async def test_routers_put_prefixes_together() -> None:
    """A router's prefix stands before its URIs, that of the router around it before both; CURIEs expand at the end."""
    app = App(prefixes={"site": "http://example.com/"})
    inner, outer = Router(prefix="users#"), Router(prefix="site:")

    @inner.rpc("list")
    async def users() -> str:
        return "users"

    outer.include(inner, prefix="admin/")
    outer.topic("news", relay=True)
    app.include(outer)
    assert sorted(each.uri for each in lifecycle_of(app).routes()) == [
        "http://example.com/admin/users#list",
        "http://example.com/news",
    ]
    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("http://example.com/admin/users#list") == "users"
        assert await peer.result("site:admin/users#list") == "users"


async def test_what_is_declared_after_including_counts() -> None:
    """A router may be filled after it was included, until the start."""
    app, router = App(), Router()
    app.include(router)
    router.topic("late", relay=True)
    assert [each.uri for each in lifecycle_of(app).routes()] == ["late"]


def test_a_router_cannot_include_itself() -> None:
    """A circle of routers is refused at once."""
    one, two = Router(prefix="one:"), Router(prefix="two:")
    one.include(two)
    with pytest.raises(DeclarationError, match="cannot include itself"):
        two.include(one)
    with pytest.raises(DeclarationError, match="cannot include itself"):
        one.include(one)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [("", "empty"), ("wampkit:mine", "wampkit's own"), ("a/{b", "do not pair"), ("a/{b}{c}", "two variables touch")],
)
async def test_a_uri_that_cannot_be_is_refused_with_its_handler(uri: str, problem: str) -> None:
    """An empty URI, a reserved one and a bad pattern stop the start and name the handler."""
    app = App()

    @app.rpc(uri)
    async def handler(b: str = "", c: str = "") -> None: ...

    with pytest.raises(DeclarationError, match=problem) as refused:
        await app.start()
    assert "handler" in str(refused.value)


def test_wrong_declarations_are_refused_at_once() -> None:
    """What is no function, a time limit that is none, and a relay with a handler are refused where they stand."""
    app = App()
    with pytest.raises(DeclarationError, match="is no function"):
        app.add_rpc("x", "not callable")  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="exception class"):
        app.error_handler(5)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="seconds above 0"):
        app.rpc("x", timeout=0)(lambda: None)
    with pytest.raises(DeclarationError, match="relay has no handler"):
        app.topic("x", relay=True)(lambda event: event)
    topic = app.topic("y")
    topic(lambda event: event)
    with pytest.raises(DeclarationError, match="has its handler already"):
        topic(lambda event: event)


async def test_nothing_is_declared_while_the_app_runs() -> None:
    """A declaration that comes after the start says that it is too late, also through an included router."""
    app, router = App(), Router()
    app.include(router)
    await app.start()
    try:
        for late in (app, router):
            for declare in (
                lambda late=late: late.topic("x"),
                lambda late=late: late.add_rpc("x", lambda: 1),
                lambda late=late: late.include(Router()),
            ):
                with pytest.raises(DeclarationError, match="too late"):
                    declare()
    finally:
        await app.stop()


async def test_hooks_of_a_server_only_topic() -> None:
    """A topic declared as a statement takes hooks all the same."""
    app = App()
    news = app.topic("news")
    seen: list[str] = []

    @news.on_subscribe
    async def joined(topic: Topic) -> None:
        seen.append(topic.uri)

    assert "news" in repr(news)
    async with serve(app) as server:
        await (await server.peer()).subscribe("news")
    assert seen == ["news"]
