"""The console's procedures: who may call them, and what they say of the app and its routes."""

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from wampkit import App, Connection, Cra, Credentials, DeclarationError, Limits, Topic, anyone, connect, requires

from ..support.tables import rows
from ..support.wire import ERROR, SUBSCRIBE, Peer, serve

NOT_ALLOWED = "http://api.wamp.ws/error#not_authorized"


OWN = ("console", "routes", "connections", "connection", "topics", "failures", "failure")


class Claims:
    """Takes the user from the query, as a session or a ticket would give it."""

    async def connect(self, connection: Connection) -> None:
        connection.user = connection.request.query.get("user")
        connection.roles = frozenset(connection.request.query.getall("role", []))


# ---- who may use it


async def _all(peer: Peer) -> set[Any]:
    """What becomes of each of the console's procedures and of its topic."""
    args: dict[str, list[Any]] = {"connection": ["x"], "failure": [1]}
    answers = [await peer.call(f"wampkit:{name}", *args.get(name, [])) for name in OWN]
    await peer.send(SUBSCRIBE, "wampkit:live")
    subscribed = await peer.result("wampkit:subscription", "wampkit:live")
    return {"refused" if each[0] == ERROR and each[2] == NOT_ALLOWED else "served" for each in answers} | {
        "refused" if subscribed is None else "served"
    }


@rows(
    ("options", "query", "expected"),
    [
        ({"console": True}, "", "served"),
        ({"console": requires("admin")}, "", "refused"),
        ({"console": requires("admin")}, "?user=ann&role=staff", "refused"),
        ({"console": requires("admin")}, "?user=ann&role=admin", "served"),
        ({"console": True, "requires": requires()}, "", "refused"),
        ({"console": True, "requires": requires()}, "?user=ann", "served"),
        ({"console": anyone, "requires": requires()}, "", "served"),
    ],
)
async def test_who_may_use_it(options: dict[str, Any], query: str, expected: str) -> None:
    """Its own rule says who uses all of it; without one, what the app requires of its routes holds."""
    async with serve(App(middlewares=[Claims()], **options)) as server:
        peer = await Peer.open(server.url + query)
        assert await _all(peer) == {expected}
        await peer.close()


async def test_an_app_with_logins_shows_itself_after_one() -> None:
    """Where clients log in by WAMP-CRA, the console tells nothing to nobody, and all to whom is known."""

    async def lookup(authkey: str, extra: Any) -> Credentials | None:
        return Credentials("secret", user=authkey) if authkey == "ann" else None

    app = App(console=True, cra=Cra(lookup))
    async with serve(app) as server:
        peer = await server.peer()
        assert await _all(peer) == {"refused"}
        async with connect(server.url, authkey="ann", secret="secret") as client:
            assert (await client.call("wampkit:console"))["login"] is True


@pytest.mark.parametrize("console", ["admin", 3, requires])
def test_what_is_no_rule_is_refused(console: Any) -> None:
    """App(console=...) takes True, False or a rule."""
    with pytest.raises(DeclarationError, match=r"^App\(console=...\)"):
        App(console=console)


# ---- what it says of the app


class Address(Struct):
    street: str
    city: Annotated[str, Meta(max_length=20)]


class Message(Struct):
    """What is said."""

    text: Annotated[str, Meta(max_length=500)]


async def passes(message: Any, call_next: Any) -> Any:
    return await call_next(message)


def _described() -> App:
    app = App(prefixes={"t": "http://example.com/t#"}, console=True, middlewares=[passes])

    @app.rpc("t:create", timeout=2, requires=requires("admin"))
    async def create(
        address: Address,
        age: Annotated[int, Meta(ge=0, le=150)],
        kind: Literal["guest", "admin"] = "guest",
        at: datetime | None = None,
        *rest: float,
    ) -> str:
        """Create somebody.

        With an address.
        """
        return kind

    @app.rpc("t:{room}/clear")
    def clear(room: str, connection: Connection) -> None: ...

    @app.topic("t:talk/{room}", publish=requires("admin"))
    async def talk(event: Message, topic: Topic, room: str) -> dict[str, Any]:
        """Runs for each PUBLISH."""
        return {}

    app.topic("t:relay", relay=True)
    app.topic("t:news")
    return app


async def test_what_the_app_is() -> None:
    """The console knows the app's name, its prefixes, and whether it is in debug."""
    async with serve(_described()) as server:
        peer = await server.peer()
        about = await peer.result("wampkit:console")
    assert about["ident"] == "wampkit"
    assert about["prefixes"] == {"t": "http://example.com/t#"}
    assert (about["debug"], about["login"]) == (False, False)
    assert about["connections"] == 1


async def test_each_route_is_described() -> None:
    """A route comes with its docstring, its parameters, what its messages pass and who may send them."""
    async with serve(_described()) as server:
        peer = await server.peer()
        told = await peer.result("wampkit:routes")
        assert told["total"] == 5
        routes = {each["declared"]: each for each in told["rows"]}
    assert set(routes) == {"t:create", "t:{room}/clear", "t:talk/{room}", "t:relay", "t:news"}
    create = routes["t:create"]
    assert create["kind"] == "procedure"
    assert create["uri"] == "http://example.com/t#create"
    assert create["documentation"] == "Create somebody.\n\nWith an address."
    assert (create["doc"], create["timeout"]) == ("Create somebody.", 2)
    assert create["middlewares"] == ["passes"]
    assert create["requires"] == {"call": ["role 'admin'"]}
    address, age, kind, at, rest = create["parameters"]
    assert address["schema"] == {"$ref": "#/$defs/Address"}
    assert create["definitions"]["Address"]["properties"]["city"] == {"type": "string", "maxLength": 20}
    assert age == {
        "name": "age",
        "schema": {"type": "integer", "minimum": 0, "maximum": 150},
        "required": True,
        "variadic": False,
    }
    assert (kind["schema"], kind["required"], kind["default"]) == ({"enum": ["admin", "guest"]}, False, "guest")
    assert (at["required"], at["default"]) == (False, None)
    assert (rest["name"], rest["schema"], rest["variadic"]) == ("rest", {"type": "number"}, True)
    clear = routes["t:{room}/clear"]
    assert (clear["variables"], clear["parameters"]) == (["room"], [])
    talk = routes["t:talk/{room}"]
    assert (talk["publish"], talk["variables"]) == ("handler", ["room"])
    assert [each["name"] for each in talk["parameters"]] == ["event"]
    assert talk["definitions"]["Message"]["description"] == "What is said."
    assert talk["requires"] == {"publish": ["role 'admin'"]}
    assert (routes["t:relay"]["publish"], routes["t:news"]["publish"]) == ("relay", "server only")


async def test_many_routes_are_told_in_parts() -> None:
    """However many routes there are, each part of the list is small enough to be sent."""
    app = App(console=True, limits=Limits(queue=256 * 1024))
    for number in range(130):

        async def handler(x: Address, y: int = 0) -> int:
            return y

        handler.__doc__ = "A long text. " * 200
        app.add_rpc(f"t/{number}", handler)
    async with serve(app) as server:
        peer = await server.peer()
        names: list[str] = []
        while True:
            part = await peer.result("wampkit:routes", len(names))
            names += [each["declared"] for each in part["rows"]]
            if not part["rows"]:
                break
        assert names == [f"t/{number}" for number in range(130)]


async def test_it_does_not_list_itself() -> None:
    """Neither the listing of routes nor that of topics shows what is wampkit's own."""
    async with serve(App(console=True)) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "wampkit:live")
        assert await peer.result("wampkit:subscription", "wampkit:live")
        assert (await peer.result("wampkit:routes"))["rows"] == []
        assert (await peer.result("wampkit:topics"))["rows"] == []
        [row] = (await peer.result("wampkit:connections"))["rows"]
        assert row["subscriptions"] == 0
