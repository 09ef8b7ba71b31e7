"""The console's page: where it is served, its policy, and the gates that guard it."""

import re
import signal
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from cryptography.fernet import Fernet
from yarl import URL

from wampkit import AllowOrigins, App, BlockAddresses, Connection, Tickets

from ..support.command import command, write
from ..support.wire import SUBSCRIBE, Server, serve

NO_SUCH = "http://api.wamp.ws/error#NoSuchRPCEndpoint"


OWN = ("console", "routes", "connections", "connection", "topics", "failures", "failure")


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
