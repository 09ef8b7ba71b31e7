"""Rules for who may call, subscribe and publish, on routes, routers and the app."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wampkit import App, DeclarationError, Incoming, Requirement, Router, anyone, requires

from ..support.requirements import T, allowed, as_user, do, make, receives
from ..support.tables import rows
from ..support.wire import CALL, serve

# ---- the matrix: who x what x where


PEOPLE = {
    "nobody": "",
    "ann": "user=ann",
    "bob": "user=bob",
    "ann the admin": "user=ann&role=admin",
    "bob the editor": "user=bob&role=editor",
    "an admin without a name": "role=admin",
}


def is_ann(message: Incoming) -> bool:
    return message.connection.user == "ann"


async def is_bob(message: Incoming) -> bool:
    await asyncio.sleep(0)
    return message.connection.user == "bob"


RULES: dict[str, tuple[Any, set[str]]] = {
    "login": (requires(), {"ann", "bob", "ann the admin", "bob the editor"}),
    "one role": (requires("admin"), {"ann the admin", "an admin without a name"}),
    "one of two roles": (
        requires("admin", "editor"),
        {"ann the admin", "bob the editor", "an admin without a name"},
    ),
    "one user": (requires(user="ann"), {"ann", "ann the admin"}),
    "some users": (requires(user=["ann", "bob"]), {"ann", "bob", "ann the admin", "bob the editor"}),
    "a function": (requires(is_ann), {"ann", "ann the admin"}),
    "an async function": (requires(is_bob), {"bob", "bob the editor"}),
    "a function and a role": (requires("admin", is_ann), {"ann the admin"}),
    "two rules": ([requires("admin"), requires(user="ann")], {"ann the admin"}),
    "anyone": (anyone, set(PEOPLE)),
}


def by_option(app: App, rule: Any) -> None:
    app.add_rpc("t:do", do, requires=rule)
    app.topic("t:talk", relay=True, requires=rule)


def by_router(app: App, rule: Any) -> None:
    router = Router("t:", requires=rule)
    router.add_rpc("do", do)
    router.topic("talk", relay=True)
    app.include(router)


def by_decorator(app: App, rule: Any) -> None:
    async def handler() -> str:
        return "done"

    async def talk(event: str) -> str:
        return event

    for each in rule if isinstance(rule, list) else [rule]:
        each(handler)
        each(talk)
    app.add_rpc("t:do", handler)
    app.topic("t:talk")(talk)


def by_decorator_above(app: App, rule: Any) -> None:
    @app.rpc("t:do")
    async def handler() -> str:
        return "done"

    @app.topic("t:talk")
    async def talk(event: str) -> str:
        return event

    for each in rule if isinstance(rule, list) else [rule]:
        each(handler)
        each(talk)


@rows("place", [by_option, by_router, by_decorator, by_decorator_above])
@rows("name", RULES)
async def test_who_may_use_what(name: str, place: Callable[[App, Any], None]) -> None:
    """Each rule lets in exactly whom it names, wherever it is written, for calls, subscribing and publishing."""
    rule, welcome = RULES[name]
    app = make()
    place(app, rule)
    app.topic("t:out", relay=True, publish=rule)
    app.topic("t:in", relay=True, subscribe=rule)
    got: dict[str, set[str]] = {"call": set(), "talk": set(), "publish": set(), "subscribe": set()}
    async with serve(app) as server:
        for who, query in PEOPLE.items():
            peer = await as_user(server, query)
            reader = await as_user(server, "user=ann&role=admin")
            if await allowed(peer, T + "do"):
                got["call"].add(who)
            if await receives(peer, peer, T + "talk"):
                got["talk"].add(who)
            if await receives(reader, peer, T + "out"):
                got["publish"].add(who)
            if await receives(peer, reader, T + "in"):
                got["subscribe"].add(who)
            await peer.close()
            await reader.close()
    assert got == dict.fromkeys(got, welcome)


async def test_rules_add_up() -> None:
    """Those of the routers around a route, of the route and of its handler must all hold, however deep."""
    inner = Router("inner#", requires=requires("editor"))

    @inner.rpc("act", requires=requires(user="ann"))
    @requires(lambda message: message.args == [1])
    async def act(number: int) -> int:
        return number

    outer = Router(requires=requires("admin"))
    outer.include(inner)
    app = make()
    app.include(outer, prefix="t:")
    async with serve(app) as server:
        for query, args, welcome in (
            ("user=ann&role=admin&role=editor", [1], True),
            ("user=ann&role=admin&role=editor", [2], False),
            ("user=bob&role=admin&role=editor", [1], False),
            ("user=ann&role=admin", [1], False),
            ("user=ann&role=editor", [1], False),
        ):
            peer = await as_user(server, query)
            assert await allowed(peer, T + "inner#act", *args) is welcome, query
            await peer.close()


async def test_the_apps_rule_is_for_routes_without_one() -> None:
    """`App(requires=...)` guards what has no rule; a rule of the route takes its place, and `anyone` opens it."""
    app = make(requires=requires("admin"))
    app.add_rpc("t:plain", do)
    app.add_rpc("t:login", do, requires=requires())
    app.add_rpc("t:open", do, requires=anyone)
    app.topic("t:plain", relay=True)
    app.topic("t:mixed", relay=True, subscribe=anyone)
    async with serve(app) as server:
        nobody, ann, admin = [await as_user(server, each) for each in ("", "user=ann", "role=admin")]
        who = {"nobody": nobody, "ann": ann, "admin": admin}
        may = {
            uri: {name for name, peer in who.items() if await allowed(peer, T + uri)}
            for uri in ("plain", "login", "open")
        }
        assert may == {"plain": {"admin"}, "login": {"ann"}, "open": {"nobody", "ann", "admin"}}
        assert not await receives(ann, admin, T + "plain")
        assert await receives(admin, admin, T + "plain")
        assert await receives(nobody, admin, T + "mixed")
        assert not await receives(admin, nobody, T + "mixed")
        for peer in who.values():
            await peer.close()


async def test_anyone_does_not_open_a_router() -> None:
    """A route that is open to anyone stays behind the rules of the router around it."""
    router = Router("t:", requires=requires("admin"))
    router.add_rpc("do", do, requires=anyone)
    app = make()
    app.include(router)
    async with serve(app) as server:
        peer = await as_user(server, "user=ann")
        assert not await allowed(peer, T + "do")
        await peer.close()


# ---- declarations that cannot work


@rows(
    ("declare", "message"),
    [
        (lambda: requires(7), "requires takes names of roles and functions of the message, not 7"),
        (lambda: requires(dict), "not <class 'dict'>"),
        (lambda: App().add_rpc("x", do, requires="admin"), "'admin' is no rule; write requires('admin')"),
        (lambda: App().topic("x", subscribe=is_ann), "is no rule"),
        (lambda: App().topic("x", publish=[requires(), 3]), "3 is no rule"),
        (lambda: App(requires="admin"), "App: 'admin' is no rule"),
        (lambda: Router("x", requires="admin"), "the router with prefix 'x': 'admin' is no rule"),
        (lambda: requires()(Holder().method), "give the route requires=requires"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(declare: Callable[[], Any], message: str) -> None:
    """A mistake in a rule is an error where it is written, with what to write instead."""
    with pytest.raises(DeclarationError) as caught:
        declare()
    assert message in str(caught.value)


class Holder:
    async def method(self) -> None: ...


def test_a_rule_tells_itself() -> None:
    """Rules read well in listings."""
    rules: list[Requirement] = [
        requires(),
        requires("b", "a"),
        requires(user="ann"),
        requires(is_ann, "a", user=["ann", "bob"]),
    ]
    assert [str(rule) for rule in rules] == [
        "a login",
        "role 'a' or 'b'",
        "user 'ann'",
        "user 'ann' or 'bob' and role 'a' and is_ann",
    ]
    assert repr(requires()) == "<requires a login>"


async def test_calls_are_what_they_were() -> None:
    """A route without a rule answers as ever beside one that has some."""
    app = make()
    app.add_rpc("t:free", do)
    app.add_rpc("t:do", do, requires=requires())
    async with serve(app) as server:
        peer = await server.peer()
        await peer.send(CALL, "a", T + "free")
        assert (await peer.answer("a"))[2] == "done"
