"""The console's own procedures and topic, and who gets to see it: over real sockets, as its page asks."""

import asyncio
import logging
import re
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import aiohttp
import pytest
from cryptography.fernet import Fernet
from msgspec import Meta, Struct
from yarl import URL

from wampkit import (
    AllowOrigins,
    App,
    BlockAddresses,
    Connection,
    Cra,
    Credentials,
    DeclarationError,
    Limits,
    Tickets,
    Topic,
    WampError,
    anyone,
    connect,
    requires,
)

from ..support.command import command, write
from ..support.tables import rows
from ..support.wire import ERROR, EVENT, PUBLISH, RESULT, SUBSCRIBE, Peer, Server, eventually, serve

NOT_ALLOWED = "http://api.wamp.ws/error#not_authorized"
NO_SUCH = "http://api.wamp.ws/error#NoSuchRPCEndpoint"
OWN = ("console", "routes", "connections", "connection", "topics", "failures", "failure")


class Claims:
    """Takes the user from the query, as a session or a ticket would give it."""

    async def connect(self, connection: Connection) -> None:
        connection.user = connection.request.query.get("user")
        connection.roles = frozenset(connection.request.query.getall("role", []))


async def fetch(server: Server, path: str = "/ws", **headers: str) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and text of a plain GET."""
    url = URL(f"http://127.0.0.1:{server.port}{path}", encoded=True)
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers, await answer.text()


def files_of(page: str) -> list[str]:
    """The files that the page loads, relative to where it is."""
    return re.findall(r'(?:src|href)="([^":]+)"', page)


# ---- where it is, and where not


async def test_production_has_no_console() -> None:
    """Without being asked for there is no page, no file and no procedure of it."""
    async with serve(App()) as server:
        status, _, text = await fetch(server)
        assert (status, text) == (
            426,
            "this is a WAMP v1 WebSocket: connect with a WebSocket client that offers the subprotocol 'wamp'\n",
        )
        assert (await fetch(server, "/ws/console/main.js"))[0] == 404
        peer = await server.peer()
        for name in OWN:
            assert (await peer.call(f"wampkit:{name}"))[2] == NO_SUCH
        await peer.send(SUBSCRIBE, "wampkit:live")
        assert await peer.result("wampkit:subscription", "wampkit:live") is None


@pytest.mark.parametrize("path", ["/ws", "/", "/deep/down", "/ws/"])
async def test_the_page_and_all_that_it_loads(path: str) -> None:
    """A browser gets the page at the socket's path, whatever that is, and each file that it names."""
    async with serve(App(console=True), path) as server:
        status, headers, page = await fetch(server, path)
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        files = files_of(page)
        assert len(files) == 4
        folder = path.rpartition("/")[0] + "/"
        for file in files:
            status, headers, text = await fetch(server, folder + file)
            assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
            kind = "text/css" if file.endswith(".css") else "text/javascript"
            assert headers["Content-Type"] == f"{kind}; charset=utf-8"
            assert len(text) > 500


async def test_whatever_asks_for_no_socket_gets_the_page() -> None:
    """A GET that offers another protocol, as some clients do, is no handshake; one for a WebSocket is, and no page."""
    async with serve(App(console=True)) as server:
        assert (await fetch(server, Upgrade="h2c", Connection="Upgrade"))[0] == 200
        status, _, text = await fetch(server, Upgrade="WebSocket", Connection="Upgrade")
        assert (status, text) == (400, "offer the WebSocket subprotocol 'wamp'\n")


async def test_the_files_import_only_each_other() -> None:
    """Every import of the page's modules is one of its files, and nothing anywhere names another host to load from."""
    async with serve(App(console=True, javascript=False)) as server:
        seen, pending = set(), ["main.js"]
        while pending:
            name = pending.pop()
            seen.add(name)
            status, _, text = await fetch(server, f"/ws/console/{name}")
            assert status == 200, name
            found = re.findall(r'^import .*?from "\./(.+?)";', text, re.MULTILINE)
            pending += {each for each in found if each not in seen}
        assert {"wampkit.js", "vendor/preact.js", "schema.js"} <= seen
        assert (await fetch(server, "/ws/wampkit.js"))[0] == 404


async def test_the_policy() -> None:
    """The page may load nothing but its own files, run nothing that stands in it, and be shown in no frame."""
    async with serve(App(console=True)) as server:
        _, headers, page = await fetch(server)
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("img-src") == "data:"
    assert policy == {
        **dict.fromkeys(["script-src", "style-src", "connect-src"], "'self'"),
        **dict.fromkeys(["base-uri", "form-action", "frame-ancestors"], "'none'"),
    }
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "<script>" not in page
    assert "style=" not in page


async def test_a_path_cannot_write_into_the_page() -> None:
    """Whatever stands in the address, the page names its files by text that stays text."""
    async with serve(App(console=True), "/{tenant}") as server:
        status, _, page = await fetch(server, "/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E")
        assert status == 200
        assert "<script>alert" not in page
        assert "alert(1)" not in page.replace("%3Cscript%3Ealert%281%29", "")


@pytest.mark.parametrize(
    ("options", "shown"), [(["--debug"], True), (["--reload"], True), ([], False)], ids=["debug", "reload", "neither"]
)
async def test_the_command_shows_it_in_development(options: list[str], shown: bool, tmp_path: Path) -> None:
    """`wampkit run` with --debug or --reload has the console and prints its address; else there is none."""
    write(tmp_path, served="from wampkit import App\n\napp = App()\noff = App(console=False)\n")
    async with command("run", "served:app", "--port", "0", *options, cwd=tmp_path) as server:
        address = (await server.url()).replace("ws://", "http://")
        if shown:
            await server.printed(f"^wampkit: open {address} in a browser to see and try all of it$")
        async with aiohttp.ClientSession() as session, session.get(address) as answer:
            assert answer.status == (200 if shown else 426)
    async with command("run", "served:off", "--port", "0", *options, cwd=tmp_path) as server:
        address = (await server.url()).replace("ws://", "http://")
        async with aiohttp.ClientSession() as session, session.get(address) as answer:
            assert answer.status == 426


EXPOSED = """
from wampkit import App, requires

open = App(console=True)
ruled = App(console=requires("admin"))
users = App(console=True, requires=requires())
none = App()
"""


@pytest.mark.parametrize(
    ("app", "options", "warned"),
    [("open", [], True), ("ruled", [], False), ("users", [], False), ("none", [], False), ("open", ["--debug"], False)],
)
async def test_a_console_for_everybody_is_warned_of(app: str, options: list[str], warned: bool, tmp_path: Path) -> None:
    """A server that is not for development, whose console obeys no rule, says so when it starts."""
    write(tmp_path, served=EXPOSED)
    async with command("run", f"served:{app}", "--port", "0", *options, cwd=tmp_path) as server:
        await server.url()
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0
    said = [line for line in server.err if "WARNING" in line]
    assert len(said) == int(warned), said
    assert all("every client that can connect sees the console" in line for line in said)


# ---- the gates


async def test_whom_the_gates_refuse_sees_no_page() -> None:
    """The page passes the app's gates as its socket would."""
    async with serve(App(console=True, middlewares=[BlockAddresses("127.0.0.1")])) as server:
        status, headers, page = await fetch(server)
        assert (status, headers["Server"]) == (403, "wampkit")
        assert "<" not in page
        assert server.app.counters.refused == 1


@pytest.mark.parametrize(
    ("origins", "status"), [(["https://elsewhere.example"], 403), (["same-origin"], 200), (["*"], 200)]
)
async def test_the_page_is_refused_where_its_socket_would_be(origins: list[str], status: int) -> None:
    """A browser sends no Origin for a page, but the page's socket will: that one is judged."""
    async with serve(App(console=True, middlewares=[AllowOrigins(*origins, allow_missing=False)])) as server:
        assert (await fetch(server))[0] == status


async def test_a_gate_that_fails_shows_nothing() -> None:
    """A gate that raises is answered with 500 and no word of it."""

    class Broken:
        async def connect(self, connection: Connection) -> None:
            raise RuntimeError("secret")

    async with serve(App(console=True, middlewares=[Broken()])) as server:
        status, _, text = await fetch(server)
        assert status == 500
        assert "secret" not in text


async def test_a_ticket_shows_the_page_and_is_good_for_its_socket() -> None:
    """Looking at the page does not spend the ticket; its handshake does."""
    app = App(console=True, middlewares=[Tickets(Fernet.generate_key(), required=True)])
    async with serve(app) as server:
        assert (await fetch(server))[0] == 403
        ticket = app.tickets.issue("ann")
        assert (await fetch(server, f"/ws?ticket={ticket}"))[0] == 200
        peer = await server.peer(params={"ticket": ticket})
        assert (await peer.result("wampkit:connections"))["rows"][0]["user"] == "ann"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await server.peer(params={"ticket": ticket})


async def test_a_server_that_drains_shows_no_page() -> None:
    """While the server stops, a browser is told to come again."""
    async with serve(App(console=True)) as server:
        await server.app.drain(1)
        status, headers, _ = await fetch(server)
        assert (status, headers["Retry-After"]) == (503, "1")


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


# ---- the live picture


async def _figures(peer: Peer) -> dict[str, Any]:
    """The next figures."""
    event = await peer.next()
    assert event[:2] == [EVENT, "wampkit:live"]
    figures: dict[str, Any] = event[2]
    return figures


async def test_figures_come_each_second() -> None:
    """Whoever is subscribed is told what happened: calls, errors, events, connections, and how long calls took."""
    app = App(console=True)

    @app.rpc("t/echo")
    async def echo(value: Any) -> Any:
        return value

    @app.rpc("t/no")
    async def no() -> None:
        raise WampError("t/no", "no")

    app.topic("t/relay", relay=True)
    async with serve(app) as server:
        watcher, peer = await server.peer(), await server.peer()
        await peer.send(SUBSCRIBE, "t/relay")
        assert await peer.result("wampkit:subscription", "t/relay")
        await watcher.send(SUBSCRIBE, "wampkit:live")
        await _figures(watcher)
        for number in range(20):
            assert await peer.result("t/echo", number) == number
        for _ in range(5):
            await peer.call("t/no")
        for number in range(3):
            await peer.send(PUBLISH, "t/relay", number, False)
        for number in range(3):
            assert (await peer.next())[2] == number
        await server.app.publish("t/relay", "news")
        total: dict[str, float] = dict.fromkeys(["calls", "failures", "publishes", "events", "sent"], 0)
        while total["events"] < 4:
            figures = await _figures(watcher)
            for name in total:
                total[name] += figures[name]
            if figures["calls"]:
                assert 0 < figures["p50"] <= figures["p99"] < 10_000
            else:
                assert figures["p50"] is figures["p99"] is None
        assert total == {"calls": 25, "failures": 5, "publishes": 3, "events": 4, "sent": 4}
        quiet = await _figures(watcher)
        assert {name: quiet[name] for name in total} == dict.fromkeys(total, 0)
        assert (figures["connections"], figures["topics"], figures["failed"]) == (2, 1, 5)
        assert figures["counters"]["connections"] == 2
        history = (await watcher.result("wampkit:console"))["figures"]
        assert sum(each["calls"] for each in history) == 25


async def test_nobody_publishes_figures() -> None:
    """A client cannot publish to the console's topic."""
    async with serve(App(console=True)) as server:
        watcher, peer = await server.peer(), await server.peer()
        await watcher.send(SUBSCRIBE, "wampkit:live")
        assert await watcher.result("wampkit:subscription", "wampkit:live")
        await peer.send(PUBLISH, "wampkit:live", {"calls": "<b>many</b>"})
        await peer.nothing()
        assert (await _figures(watcher))["calls"] == 0


@pytest.mark.parametrize("debug", [False, True])
async def test_failures(debug: bool) -> None:
    """The last failures are told with who met them; texts and tracebacks of unexpected ones in debug alone."""
    app = App(console=True, debug=debug, middlewares=[Claims()])

    @app.rpc("t/crash")
    async def crash() -> None:
        raise RuntimeError("secret")

    @app.rpc("t/slow", timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        await peer.call("t/crash")
        await peer.call("t/slow")
        await peer.call("t:" + "x" * 900)
        await peer.send(PUBLISH, "t/nowhere", 1)
        await peer.nothing()
        publish, unknown, timeout, crashed = await peer.result("wampkit:failures")
        assert (publish["message"], publish["error"]) == ("publish", NO_SUCH)
        assert (unknown["message"], unknown["error"], len(unknown["uri"])) == ("call", NO_SUCH, 500)
        assert (timeout["route"], timeout["error"]) == ("t/slow", "cancelled")
        assert (crashed["route"], crashed["error"], crashed["user"]) == ("t/crash", "RuntimeError", "ann")
        assert crashed["description"] == ("secret" if debug else "")
        assert crashed["traceback"] is debug
        assert len(await peer.result("wampkit:failures", crashed["number"])) == 3
        whole = await peer.result("wampkit:failure", crashed["number"])
        if debug:
            assert whole["traceback"].endswith("RuntimeError: secret\n")
            assert "in crash" in whole["traceback"]
        else:
            assert whole["traceback"] is None
        assert (await peer.call("wampkit:failure", 99))[0] == ERROR
        await peer.close()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("debug", [False, True])
@rows(
    "error",
    [
        Unprintable(),
        WampError("t/odd", 5, object()),  # type: ignore[arg-type]
        WampError("t/e", "\ud800"),
        BaseExceptionGroup("x", [SystemExit(), ValueError()]),
        SystemExit(3),
        asyncio.CancelledError("x"),
    ],
)
async def test_whatever_a_handler_raises(error: BaseException, debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Errors that hardly can be told are answered and logged as without the console, and are in its list."""
    answers, logs = [], []
    for console in (False, True):
        app = App(console=console, debug=debug)

        @app.rpc("t/fail")
        async def fail() -> None:
            raise error

        caplog.clear()
        async with serve(app) as server:
            peer = await server.peer()
            answers.append((await peer.call("t/fail"))[2:])
            logs.append([record.exc_info and record.exc_info[0] for record in caplog.records])
            if console:
                [failure] = await peer.result("wampkit:failures")
                assert failure["route"] == "t/fail"
                assert (await peer.result("wampkit:failure", 1))["number"] == 1
    assert answers[0] == answers[1]
    assert logs[0] == logs[1]


async def test_a_user_that_cannot_be_told() -> None:
    """A user that has no text does not keep the others from being listed."""

    class User:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Everybody:
        async def connect(self, connection: Connection) -> None:
            connection.user = User()

    async with serve(App(console=True, middlewares=[Everybody()])) as server:
        peer = await server.peer()
        [row] = (await peer.result("wampkit:connections"))["rows"]
        assert row["user"].endswith("User)")


async def test_only_the_last_failures_are_remembered() -> None:
    """However many fail, the list stays short."""
    async with serve(App(console=True)) as server:
        peer = await server.peer()
        for _ in range(150):
            await peer.call("t:none")
        failures = await peer.result("wampkit:failures")
        assert [each["number"] for each in failures] == list(range(150, 50, -1))


async def test_connections_are_searched_ordered_and_turned_over() -> None:
    """A long list of connections is told by windows: searched, ordered, with who they are and what waits for them."""
    app = App(console=True, middlewares=[Claims()])
    app.topic("t/{name}", relay=True)
    async with serve(app) as server, AsyncExitStack() as stack:
        # A blank is in no session id, so that the search below finds users alone.
        peers = [await Peer.open(f"{server.url}?user=U+{number}&role=r") for number in range(7)]
        for peer in peers:
            stack.push_async_callback(peer.close)
        for number, peer in enumerate(peers):
            for topic in range(number):
                await peer.send(SUBSCRIBE, f"t/{topic}")
            await peer.nothing()
        ask = peers[0].result
        found = await ask("wampkit:connections", "", "subscriptions", 0, 3)
        assert (found["total"], found["found"]) == (7, 7)
        assert [row["subscriptions"] for row in found["rows"]] == [6, 5, 4]
        rest = await ask("wampkit:connections", "", "subscriptions", 6, 3)
        assert [row["subscriptions"] for row in rest["rows"]] == [0]
        found = await ask("wampkit:connections", "u 4")
        assert (found["total"], found["found"]) == (7, 1)
        [row] = found["rows"]
        assert (row["user"], row["roles"], row["address"], row["queued"]) == ("U 4", ["r"], "127.0.0.1", 0)
        one = await ask("wampkit:connection", row["id"])
        assert one["topics"] == ["t/0", "t/1", "t/2", "t/3"]
        assert (await peers[0].call("wampkit:connection", "nobody"))[0] == ERROR
        topics = await ask("wampkit:topics", "", 0, 2)
        assert topics == {
            "total": 6,
            "found": 6,
            "rows": [{"uri": "t/0", "subscribers": 6}, {"uri": "t/1", "subscribers": 5}],
        }
        assert (await ask("wampkit:topics", "t/5"))["rows"] == [{"uri": "t/5", "subscribers": 1}]
        assert (await ask("wampkit:connections", "", "", -5, -1))["rows"] == []
        assert (await peers[0].call("wampkit:connections", "", "", "x"))[0] == ERROR


async def test_what_waits_for_a_client_is_told() -> None:
    """The bytes that a client does not read are in the list."""
    app = App(console=True)
    app.topic("t/relay", relay=True)
    async with serve(app) as server:
        sleeper, peer = await server.raw(), await server.peer()
        await sleeper.send_message(SUBSCRIBE, "t/relay")

        async def queued() -> int:
            rows = (await peer.result("wampkit:connections", "", "queued"))["rows"]
            most: int = rows[0]["queued"]
            return most

        await eventually(lambda: "t/relay" in server.app.topics)
        while await queued() < 100_000:
            await server.app.publish("t/relay", "x" * 50_000)
        assert 100_000 <= await queued() <= 1 << 20


async def test_its_calls_are_not_counted_and_pass_no_middleware() -> None:
    """What the console asks is neither in its figures nor seen by the app's middlewares."""
    seen: list[str] = []

    async def watch(message: Any, call_next: Any) -> Any:
        seen.append(message.uri)
        return await call_next(message)

    async with serve(App(console=True, middlewares=[watch])) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "wampkit:live")
        assert (await _figures(peer))["calls"] == 0
        await peer.result("wampkit:topics")
        assert (await _figures(peer))["calls"] == 0
        assert seen == []


async def test_an_app_that_starts_again_counts_anew() -> None:
    """Figures and failures are those of one run."""
    app = App(console=True)
    for _ in range(2):
        async with serve(app) as server:
            peer = await server.peer()
            assert await peer.result("wampkit:failures") == []
            await peer.send(SUBSCRIBE, "wampkit:live")
            first = await _figures(peer)
            assert (first["calls"], first["failures"], first["failed"]) == (0, 0, 0)
            assert (await peer.call("t:none"))[0] == ERROR
            assert len(await peer.result("wampkit:failures")) == 1


async def test_results_are_the_same_with_the_console(caplog: pytest.LogCaptureFixture) -> None:
    """An app answers, and logs, with its console as it does without."""
    told = []
    for console in (False, True):
        app = App(console=console)

        @app.rpc("t/add")
        async def add(x: float, y: float = 1) -> float:
            return x + y

        @app.rpc("t/crash")
        def crash() -> None:
            raise RuntimeError("x")

        caplog.clear()
        with caplog.at_level(logging.INFO, "wampkit"):
            async with serve(app) as server:
                peer = await server.peer()
                answers = [await peer.call("t/add", 1, 2), await peer.call("t/add"), await peer.call("t/crash")]
        told.append(([each[2:] for each in answers], [record.levelname for record in caplog.records]))
        assert answers[0][0] == RESULT
    assert told[0] == told[1]
