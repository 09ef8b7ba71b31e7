"""The JavaScript and HTML snippets of the documentation run in Node and in Chromium, and print what the pages show."""

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from playwright.async_api import Browser, Dialog

from wampkit import App, Connection, Tickets
from wampkit.server.static import STATIC

from ..support.browser import served, window
from ..support.command import command
from ..support.javascript import DEBIAN
from ..support.pages import MODULES, Snippet, page, snippets
from ..support.wire import eventually

NAMED = [each for each in snippets("js") if each.name]

IN_NODE = {
    'docs/javascript.md: import WebSocket from "ws";': "5",
    'wampkit/javascript/README.md: import { connect } from "wampkit";': "5",
}
"""The snippets without a name that run in Node, and what calls `calc:add` or is called by them prints."""

IN_BROWSER = {
    'docs/javascript.md: <script type="module">': ("served", "5"),
    'docs/javascript.md: <script src="/ws/wampkit.global.js"></script>': ("served", "5"),
    'README.md: <script type="module">': ("chat", "0.25"),
    "docs/javascript.md: const client = connect(async () => {": ("ticketed", "ann"),
    'docs/javascript.md: const client = connect("/ws", { authkey: "ann", secret: () => prompt("Password") });': (
        "accounts",
        "ann",
    ),
}
"""The snippets that run in a page: the module of the app, and a line that the page prints."""


def of(key: str) -> Snippet:
    """The snippet of this key."""
    return next(each for each in snippets("js", "html") if each.key == key)


# ---- Node


@asynccontextmanager
async def calculator(folder: Path) -> AsyncIterator[str]:
    """The URL of the app of docs/javascript.md."""
    (folder / "served.py").write_text(MODULES["served.py"])
    async with command("run", "served:app", "--port", "0", cwd=folder) as server:
        yield await server.url()


async def node(folder: Path, name: str, script: str) -> str:
    """What a script prints."""
    (folder / name).write_text(script)
    process = await asyncio.create_subprocess_exec(
        *("node", "--no-warnings", "--experimental-websocket", name),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    printed, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return printed.decode()


@pytest.mark.parametrize("snippet", NAMED, ids=lambda each: each.name)
async def test_a_script_prints_what_is_shown(snippet: Snippet, tmp_path: Path) -> None:
    """Each snippet with a name runs in Node against the page's app, and prints the text below it."""
    async with calculator(tmp_path) as url:
        head = f'import {{ connect }} from "{STATIC / "wampkit.js"}";\nconst URL = "{url}";\n'
        assert await node(tmp_path, snippet.name, head + snippet.body) == snippet.output


@pytest.mark.parametrize("key", IN_NODE)
async def test_a_script_of_the_npm_package_runs(key: str, tmp_path: Path) -> None:
    """Snippets that import the package run with it, and with `ws`, installed."""
    packages = tmp_path / "node_modules"
    packages.mkdir()
    (packages / "wampkit").symlink_to(STATIC)
    (packages / "ws").symlink_to(await where_ws_is())
    async with calculator(tmp_path) as url:
        script = re.sub(r"wss?://[^\"]+", url, of(key).body)
        if "calc:add" not in script:
            script += 'console.log(await client.call("calc:add", 2, 3));\n'
        assert await node(tmp_path, "script.mjs", script + "client.close();\n") == f"{IN_NODE[key]}\n"


async def where_ws_is() -> Path:
    """The folder of the package `ws`."""
    path = os.pathsep.join(filter(None, [os.environ.get("NODE_PATH"), DEBIAN]))
    process = await asyncio.create_subprocess_exec(
        *("node", "-p", 'require.resolve("ws/package.json")'), env=os.environ | {"NODE_PATH": path}, stdout=-1
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)
    return Path(printed.decode().strip()).parent


# ---- Chromium


def ticketed() -> tuple[App, list[web.RouteDef]]:
    """An app that knows users by tickets, and the view that issues them."""
    app = App(middlewares=[Tickets(Fernet.generate_key())])

    @app.rpc("whoami")
    async def whoami(connection: Connection) -> str:
        return str(connection.user)

    async def issue(_: web.Request) -> web.Response:
        return web.json_response(app.tickets.issue("ann", ttl=30))

    return app, [web.post("/ticket", issue)]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.usefixtures("page_modules")
@pytest.mark.parametrize("key", IN_BROWSER)
async def test_a_page_prints_what_is_shown(key: str, chromium: Browser) -> None:
    """Each snippet for pages runs in a page beside its app."""
    name, expected = IN_BROWSER[key]
    html = of(key).body
    routes: list[web.RouteDef] = []
    if name == "ticketed":
        app, routes = ticketed()
    else:
        app = import_module(name).app
    if "<script" not in html:
        asks = 'console.log(await client.call("whoami"));'
        html = f'<script type="module">import {{ connect }} from "/ws/wampkit.js";\n{html}\n{asks}</script>'
    lines: list[str] = []

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def answer(dialog: Dialog) -> None:
        assert dialog.message == "Password"
        await dialog.accept("correct horse")

    site = web.Application()
    site.add_routes([web.get("/", show), *routes])
    app.setup(site, path="/ws")
    async with served(site) as address, window(chromium) as context:
        tab = await context.new_page()
        tab.on("console", lambda message: lines.append(message.text))
        tab.on("pageerror", lambda error: lines.append(str(error)))
        tab.on("dialog", answer)
        await tab.goto(f"http://{address}/")
        await eventually(lambda: expected in lines, f"{expected} in {lines}")
        if name == "chat":
            await eventually(lambda: "chat:lobby" in app.topics)
            await app.publish("chat:lobby", "news")
            await eventually(lambda: "news" in lines, f"news in {lines}")


# ---- the table of options


def test_the_table_of_options_is_the_clients() -> None:
    """Each option of the declarations is in the table, with the default that the client has."""
    declared = (STATIC / "wampkit.d.ts").read_text().split("export interface Options {")[1].split("\n}")[0]
    source = (STATIC / "wampkit.js").read_text()
    table = page("docs/javascript.md").text.split("## Options")[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", table, re.MULTILINE))
    assert set(rows) == set(re.findall(r"^  (\w+)\?:", declared, re.MULTILINE))
    for name, default in rows.items():
        value = default.strip("`")
        if value not in ("none", "the runtime's", "false", "0"):
            assert re.search(rf"\b{name} (=|\?\?) {re.escape(value)}", source), name
        elif value == "0":
            assert re.search(rf"\b{name}( = 0)?[,; ]", source), name


def test_every_part_of_the_client_has_a_script() -> None:
    """Connecting, calls, events and publishes are shown by scripts that run."""
    assert [each.name for each in NAMED] == ["connecting.mjs", "calls.mjs", "events.mjs", "confirming.mjs"]
