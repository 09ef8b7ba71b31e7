"""The Python snippets of the documentation run, and do what the pages say."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

import wampkit
from wampkit import App, AuthenticationFailed, CallError, Client, HandshakeRefused, connect

from ..support.browser import served
from ..support.command import command, environment
from ..support.pages import Snippet, snippets
from ..support.wire import eventually

SECONDS = 60


class Served:
    """The app of a snippet, on a port of its own.

    Attributes:
        app: The app.
        url: Where it is served.
    """

    def __init__(self, app: App, address: str) -> None:
        self.app = app
        self.url = f"ws://{address}/ws"

    @asynccontextmanager
    async def client(self, query: str = "", **options: Any) -> AsyncIterator[Client]:
        """A client, whose URL may have a query."""
        async with connect(f"{self.url}?{query}", **options) as client:
            yield client


Taste = Callable[[Served], Awaitable[None]]


@pytest.fixture
def written(page_modules: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the pages' modules as the working directory, with the keys that they read."""
    monkeypatch.chdir(page_modules)
    for name in ("SESSION_KEYS", "TICKET_KEY"):
        monkeypatch.setenv(name, Fernet.generate_key().decode())
    return page_modules


# ---- apps


async def books(server: Served) -> None:
    """The README's procedure has a typed variable and an error."""
    async with server.client() as client:
        assert await client.call("book/1") == "Foundation"
        for name, error in (("book/2", "there is no book 2"), ("book/one", "NoSuchRPCEndpoint")):
            with pytest.raises(CallError, match=error):
                await client.call(name)


async def board(server: Served) -> None:
    """The README's topics: one for clients, one for the server."""
    async with server.client() as client, client.subscribe("lobby") as lobby, client.subscribe("time") as time:
        await client.publish("lobby", "hello", exclude_me=False)
        assert await lobby.get(timeout=5) == "hello"
        assert re.match(r"\d{4}-\d\d-\d\dT", await time.get(timeout=5))


async def members_only(server: Served) -> None:
    """The README's access: an origin, a ticket, and a rule for all routes."""
    ticket = server.app.tickets.issue("ann", ttl=30)
    async with server.client(f"ticket={ticket}", origin="https://example.com") as client:
        assert await client.call("whoami") == "ann"
    async with server.client(origin="https://example.com") as client:
        with pytest.raises(CallError, match="needs a login"):
            await client.call("whoami")
    with pytest.raises(HandshakeRefused, match="403"):
        async with server.client(origin="https://elsewhere.example"):
            pass


async def chat(server: Served) -> None:
    """The handler's event names the room and its sender."""
    async with server.client() as client, client.subscribe("chat:lobby") as events:
        await client.publish("chat:lobby", {"text": "hi"}, exclude_me=False)
        assert await events.get(timeout=5) == {"from": client.session_id, "room": "lobby", "text": "hi"}


async def library(server: Served) -> None:
    """Structs, enums and bounds as arguments, a typed variable, and a router."""
    async with server.client() as client:
        book = {"title": "Foundation", "published": "1951-06-01", "shelf": "fiction"}
        assert await client.call("lib:add", book) == 1
        assert await client.call("lib:book/1") == book
        assert await client.call("lib:find", "Found") == [book]
        assert await client.call("lib:admin/clear") == f"cleared by {client.session_id}"
        for call, error in ((("lib:book/1",), "there is no book 1"), (("lib:find", "x", None, 101), "<= 100")):
            with pytest.raises(CallError, match=error):
                await client.call(*call)
        with pytest.raises(CallError, match="NoSuchRPCEndpoint"):
            await client.call("lib:book/one")


async def errors(server: Served) -> None:
    """An exception of the app's own is an answer, and an error URI is replaced."""
    async with server.client() as client:
        with pytest.raises(CallError, match="tea is sold out"):
            await client.call("buy", "tea")
        with pytest.raises(CallError, match="http://example.com/error#missing"):
            await client.call("sell", "tea")


async def news(server: Served) -> None:
    """A newcomer is welcomed, a subscription refused, and those who stay hear who left."""
    async with server.client() as client, server.client() as other:
        async with client.subscribe("news:desk/sport") as events:
            assert await events.get(timeout=5) == {"welcome": "sport"}
            async with other.subscribe("news:desk/sport"):
                pass
            assert await events.get(timeout=5) == {"left": other.session_id, "remaining": 1}
        async with client.subscribe("news:desk/secret") as events:
            assert events.accepted is False
    assert server.app.expand("news:all") == "http://example.com/news/all"


async def guarded(server: Served) -> None:
    """A middleware refuses handshakes, another changes events, and a rule refuses calls."""
    async with server.client("user=ann") as client:
        with pytest.raises(CallError, match="not allowed here"):
            await client.call("admin/restart")
        async with client.subscribe("loud") as events:
            await client.publish("loud", "hello", exclude_me=False)
            assert await events.get(timeout=5) == "HELLO"
    async with server.client("user=admin") as client:
        assert await client.call("admin/restart") == "as you wish"
    with pytest.raises(HandshakeRefused, match="401"):
        async with server.client():
            pass


async def who(server: Served) -> None:
    """Hosts and origins are let in as listed; the client's address is the one that a trusted proxy names."""
    listed = {"headers": {"Host": "example.com"}, "origin": "https://www.example.com"}
    async with server.client(**listed):
        pass
    for wrong in ({"headers": {"Host": "elsewhere.example"}}, {"origin": "https://elsewhere.example"}):
        with pytest.raises(HandshakeRefused, match="403"):
            async with server.client(**{**listed, **wrong}):
                pass


async def shop(server: Served) -> None:
    """A client is nobody without a cookie, and known by a ticket."""
    async with server.client() as client:
        assert await client.call("whoami") == [None, [], "light"]
    ticket = server.app.tickets.issue("ann", roles=["staff"])
    async with server.client(f"ticket={ticket}") as client:
        assert await client.call("whoami") == ["ann", ["staff"], "light"]


async def members(server: Served) -> None:
    """Rules ask for a login, a role, and the own inbox; events reach a user."""
    async with server.client("user=ann") as client, server.client("user=bob") as bob:
        assert await client.call("whoami") == "ann"
        async with client.subscribe("inbox/ann") as events, client.subscribe("inbox/bob") as other:
            assert other.accepted is False
            await client.call("warn", "ann", "careful")
            assert await events.get(timeout=5) == {"text": "careful"}
        with pytest.raises(CallError, match="role 'staff'"):
            await bob.call("warn", "ann", "boo")
    async with server.client() as anonymous:
        assert await anonymous.call("ping") == "pong"
        with pytest.raises(CallError, match="needs a login"):
            await anonymous.call("whoami")


async def accounts(server: Served) -> None:
    """The client of the page logs in to its app, and not with a wrong password."""
    client = import_module("log_in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANNS_PASSWORD", "correct horse")
        assert await client.main(server.url) == "ann"
        patch.setenv("ANNS_PASSWORD", "incorrect horse")
        with pytest.raises(AuthenticationFailed):
            await client.main(server.url)
    async with connect(server.url) as stranger:
        assert await stranger.call("ping") == "pong"


async def hooks(server: Served) -> None:
    """A client is counted while it is connected."""
    async with server.client():
        assert len(server.app.connections) == 1
    await eventually(lambda: len(server.app.connections) == 0)


async def calculator(server: Served) -> None:
    """The app to which the JavaScript snippets talk."""
    async with server.client() as client:
        assert await client.call("calc:add", 2, 3) == 5


APPS: dict[str, Taste] = {
    "accounts.py": accounts,
    "board.py": board,
    "books.py": books,
    "chat.py": chat,
    "errors.py": errors,
    "guarded.py": guarded,
    "hooks.py": hooks,
    "library.py": library,
    "members.py": members,
    "members_only.py": members_only,
    "news.py": news,
    "served.py": calculator,
    "shop.py": shop,
    "who.py": who,
}


@pytest.mark.parametrize("name", APPS)
async def test_an_app_does_what_its_page_says(name: str, written: Path) -> None:
    """A taste of each app over a real socket."""
    app: App = import_module(Path(name).stem).app
    async with served(app.web_app()) as address:
        await APPS[name](Served(app, address))


async def test_a_lifespan_runs_around_the_clients(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hooks print in the order in which the page names them."""
    async with served(import_module("hooks").app.web_app()) as address, connect(f"ws://{address}/ws") as client:
        session = client.session_id
    printed = capsys.readouterr().out.splitlines()
    assert (printed[0], printed[-1]) == ("before the first client", "after the last one")
    assert re.fullmatch(rf"{re.escape(session)} left: 1000 ?.*", printed[1])


# ---- programs, tests, sites


async def test_the_clients(written: Path) -> None:
    """The programs that talk to the chat print what they say."""
    async with command("run", "chat:app", "--port", "0", cwd=written) as server:
        url = await server.url()
        printed = {}
        for name in ("client", "hello"):
            code = f"import asyncio, {name}; asyncio.run({name}.main({url!r}))"
            done = run_python("-c", code, cwd=written)
            assert done.stderr == ""
            printed[name] = done.stdout.splitlines()
    assert printed["client"] == [
        "0.25",
        "http://example.com/calc#division-by-zero cannot divide by zero {'x': 1.0}",
        "hello",
    ]
    assert re.fullmatch(r"\{'from': '\S+', 'room': 'lobby', 'text': 'hello'\}", "".join(printed["hello"]))


def test_the_tests(written: Path) -> None:
    """The test files pass in a project of its own, with the option that the README names."""
    options = '[tool.pytest.ini_options]\nasyncio_mode = "auto"\nwampkit_app = "chat:app"\n'
    (written / "pyproject.toml").write_text(options)
    done = run_python("-m", "pytest", "-q", "test_chat.py", "test_divide.py", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


async def test_a_site(written: Path) -> None:
    """The aiohttp application for gunicorn serves the chat."""
    async with served(import_module("chat_site").site) as address, connect(f"ws://{address}/ws") as client:
        assert await client.call("calc:divide", 1, 4) == 0.25


USES: dict[str, object] = {
    **APPS,
    "client.py": test_the_clients,
    "hello.py": test_the_clients,
    "log_in.py": accounts,
    "test_chat.py": test_the_tests,
    "test_divide.py": test_the_tests,
    "chat_site.py": test_a_site,
}
"""Where each snippet that is a file is run."""


# ---- lines


@pytest.mark.parametrize("snippet", [each for each in snippets("python") if not each.name], ids=lambda each: each.key)
async def test_a_line_makes_an_app(snippet: Snippet) -> None:
    """A snippet without a file's name makes an app with an option, which starts and stops."""
    names: dict[str, Any] = dict(vars(wampkit))
    exec(snippet.body, names)
    app: App = names["app"]
    await app.start()
    await app.stop()


def run_python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the modules of a directory."""
    path = os.pathsep.join([str(cwd), environment()["PYTHONPATH"]])
    env = environment({"PYTHONPATH": path})
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=SECONDS, cwd=cwd, env=env, check=False
    )
