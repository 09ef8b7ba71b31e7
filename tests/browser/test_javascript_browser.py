"""The browser's client in real headless Chromium: loaded as pages load it, and with its server and its network gone."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from playwright.async_api import Browser, BrowserContext, Page

from wampkit import App, Cra, Credentials, Tickets, derive_key

from ..support.browser import window
from ..support.command import command, free_port, write
from ..support.foreign import foreign
from ..support.hostile import EXPECTED, TRY_EACH, misbehave
from ..support.javascript import Demo
from ..support.proxy import SilentProxy
from ..support.restartable import restartable
from ..support.wire import eventually, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = """
import asyncio

from wampkit import App

app = App(prefixes={"chat": "http://example.com/chat/"})
app.topic("chat:{room}", relay=True)


@app.rpc("hold")
async def hold() -> None:
    await asyncio.Event().wait()


@app.rpc("echo")
async def echo(value: object) -> object:
    return value
"""

HELPERS = """
window.until = (state) => new Promise((resolve) => {
  if (client.state === state) resolve(state);
  client.on("state", (now) => now === state && resolve(state));
});
window.failure = (promise) => promise.then(() => "it did not fail", (error) => `${error.name}: ${error.message}`);
window.states = [];
window.heard = [];
"""


class Tab:
    """A page of the server's origin that has the client loaded.

    Attributes:
        errors: Errors of the page that nobody caught.
        failed: How often the browser said that it could not connect.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.failed = 0
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._heard(message.text))

    def _heard(self, text: str) -> None:
        self.failed += "WebSocket connection to" in text

    @classmethod
    async def open(cls, context: BrowserContext, port: int, host: str = "127.0.0.1") -> "Tab":
        """Open a page, which needs nothing but an address of the server."""
        tab = cls(await context.new_page())
        await tab.page.goto(f"http://{host}:{port}/ws/wampkit.d.ts")
        await tab.page.evaluate(HELPERS)
        await tab.page.evaluate("import('/ws/wampkit.js').then((wampkit) => Object.assign(window, { wampkit }))")
        return tab

    async def run(self, script: str, *args: Any) -> Any:
        """What an expression gives, once it is settled."""
        async with asyncio.timeout(20):
            return await self.page.evaluate(script, *args)

    async def connect(self, options: str = "", url: str = '"/ws"') -> None:
        """Connect `client`, and wait until it is open."""
        await self.run(f"""(async () => {{
          window.client = wampkit.connect({url}, {{ backoff: [5, 50], {options} }});
          client.on("state", (state) => states.push(state));
          await client.opened;
        }})()""")

    async def until(self, state: str) -> None:
        """Wait for a state of `client`."""
        await self.run(f"until('{state}')")


async def test_a_page_loads_it_in_each_way(chromium: Browser) -> None:
    """As a module, which may come from another site, and as a plain script; a path is enough to find the socket."""
    demo, elsewhere = Demo(), App()
    async with serve(demo.app) as server, serve(elsewhere) as other, window(chromium) as context:
        tab = await Tab.open(context, server.port)
        page = tab.page
        await page.add_script_tag(url="/ws/wampkit.global.js")
        assert await tab.run("wampkit.connect('/ws').call('calc:add', 2, 3)") == 5
        names = "Object.keys(wampkit).sort()"
        assert await tab.run(names) == ["CallError", "ConnectionLost", "connect", "deriveKey", "sign"]
        assert await tab.run("typeof WELCOME") == "undefined"
        module = f"""
        import {{ CallError, connect }} from "http://127.0.0.1:{other.port}/ws/wampkit.js";
        const client = connect(new URL("/ws", location), {{ prefixes: {{ c: "http://example.com/calc#" }} }});
        const error = await client.call("fail", 7).catch((error) => error);
        window.seen = [error instanceof CallError, error.details, await client.call("c:add", 1, 1)];
        """
        await page.add_script_tag(type="module", content=module)
        await page.wait_for_function("window.seen")
        assert await tab.run("seen") == [True, 7, 2]
        assert tab.errors == []
        await page.close()


async def test_no_message_of_a_server_is_thrown_at_the_page(chromium: Browser) -> None:
    """Whatever a server that breaks WAMP v1 sends, the page hears of it where it can catch it."""
    async with serve(Demo().app) as server, foreign() as other, window(chromium) as context:
        other.script = misbehave
        tab = await Tab.open(context, server.port)
        await tab.run("""
          window.uncaught = [];
          addEventListener("error", ({ message }) => uncaught.push(message));
          addEventListener("unhandledrejection", ({ reason }) => uncaught.push(String(reason)));
        """)
        each = f"({TRY_EACH})(wampkit.connect, '{other.url}', {json.dumps(EXPECTED)}, uncaught)"
        assert await tab.run(each) == []
        assert tab.errors == []
        await tab.page.close()


async def test_two_tabs_talk(chromium: Browser) -> None:
    """What one publishes the other receives, by callback and by iteration; a tab that is closed has left."""
    demo = Demo()
    async with serve(demo.app) as server, window(chromium) as context:
        anna, bert = await Tab.open(context, server.port), await Tab.open(context, server.port)
        for tab in (anna, bert):
            await tab.connect()
        assert (
            await bert.run("""(async () => {
          client.subscribe("chat:lobby", (event, uri) => {
            heard.push([event, uri]);
            client.publish("chat:lobby", `${event} yourself`);
          });
          return client.subscribe("chat:lobby").ready;
        })()""")
            == "http://example.com/chat/lobby"
        )
        answer = await anna.run("""(async () => {
          const events = client.subscribe("chat:lobby");
          await events.ready;
          client.publish("chat:lobby", "hello");
          for await (const event of events) return event;
        })()""")
        assert answer == "hello yourself"
        assert await bert.run("heard") == [["hello", "http://example.com/chat/lobby"]]
        await eventually(lambda: len(demo.app.topics["http://example.com/chat/lobby"]) == 1)
        assert await anna.run("client.call('echo', client.sessionId !== '')") == [True]
        await bert.page.close()
        await eventually(lambda: len(demo.app.connections) == 1)
        assert demo.left == ["lobby", "lobby"]
        assert anna.errors == bert.errors == []
        await anna.page.close()


async def test_a_server_is_killed_and_restarted_under_the_page(chromium: Browser, tmp_path: Path) -> None:
    """The page has its call rejected, notices, comes back by itself, and hears events as before."""
    write(tmp_path, app=APP)
    port = free_port()
    run = ("run", "app:app", "--port", str(port))
    async with window(chromium) as context, command(*run, cwd=tmp_path) as first:
        await first.url()
        tab = await Tab.open(context, port)
        await tab.connect('prefixes: { room: "http://example.com/chat/" }')
        await tab.run("client.subscribe('room:a', (event) => heard.push(event)).ready")
        await tab.run("void (window.call = failure(client.call('hold')))")
        first.signal(signal.SIGKILL)
        await tab.until("reconnecting")
        assert await tab.run("call") == "ConnectionLost: the connection was lost"
        await first.exit()
        async with command(*run, cwd=tmp_path) as second:
            await tab.until("open")
            await tab.run("client.publish('room:a', 'back', { excludeMe: false })")
            assert await tab.run("client.call('echo', 1)") == 1
            assert await tab.run("heard") == ["back"]
            second.signal(signal.SIGTERM)
            await tab.until("reconnecting")
            waits = asyncio.ensure_future(tab.run("client.call('echo', 'after the restart')"))
            assert await second.exit() == 0
            async with command(*run, cwd=tmp_path):
                assert await waits == "after the restart"
                assert await tab.run("states") == ["open", "reconnecting", "open", "reconnecting", "open"]
        assert tab.errors == []


async def test_a_network_that_drops_everything_is_noticed(chromium: Browser) -> None:
    """Nobody is told when packets vanish: keepalive gives the connection up, and attempts go on until they return."""
    demo = Demo()
    async with serve(demo.app) as server, SilentProxy(server.port) as proxy, window(chromium) as context:
        tab = await Tab.open(context, proxy.port)
        await tab.connect("keepalive: 600, openTimeout: 600")
        await tab.run("client.subscribe('chat:a', (event) => heard.push(event)).ready")
        await tab.run("void (window.call = failure(client.call('hold', 1)))")
        proxy.silent = True
        await tab.until("reconnecting")
        assert await tab.run("call") == "ConnectionLost: the server does not answer"
        await tab.run("new Promise((resolve) => { setTimeout(resolve, 300) })")
        proxy.silent = False
        await tab.until("open")
        await tab.run("client.publish('chat:a', 'back', { excludeMe: false })")
        assert await tab.run("client.call('echo', 1)") == [1]
        assert await tab.run("heard") == ["back"]
        assert tab.errors == []
        await tab.page.close()


async def test_the_network_of_the_machine_is_heeded(chromium: Browser) -> None:
    """When it comes back the client does not sit out its delay, long as it is."""
    demo = Demo()
    async with restartable(demo.app) as server, window(chromium) as context:
        tab = await Tab.open(context, server.port)
        await tab.run("Math.random = () => 0.9")
        await tab.connect("backoff: [600_000, 600_000], keepalive: 1000")
        await context.set_offline(True)
        assert await tab.run("navigator.onLine") is False
        server.cut()
        await tab.until("reconnecting")
        await context.set_offline(False)
        await tab.until("open")
        assert await tab.run("states") == ["open", "reconnecting", "open"]
        asked = """(async () => {
          let asked = 0;
          const closed = wampkit.connect(() => { asked++; throw new Error("no URL") });
          await new Promise((resolve) => closed.on("state", resolve));
          closed.close();
          dispatchEvent(new Event("online"));
          return asked;
        })()"""
        assert await tab.run(asked) == 1
        assert tab.errors == []
        await tab.page.close()


async def test_other_servers_are_left_when_the_network_goes(chromium: Browser) -> None:
    """They cannot be asked whether they are there."""
    async with serve(App()) as server, foreign() as other, window(chromium) as context:
        tab = await Tab.open(context, server.port)
        await tab.connect(url=f"'{other.url}'")
        await tab.run("void (window.lost = until('reconnecting').then(() => client.error.message))")
        await context.set_offline(True)
        assert await tab.run("lost") == "the network is offline"
        await context.set_offline(False)
        await tab.until("open")
        await tab.page.close()


async def test_a_page_that_nobody_sees_tries_seldom(chromium: Browser) -> None:
    """After one quick attempt it waits as long as it may, and tries at once when it is seen again."""
    # The windows of a headless Chromium are never hidden.
    show = "((hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); \
        document.dispatchEvent(new Event('visibilitychange', { bubbles: true })); })"
    async with restartable(Demo().app) as server, window(chromium) as context:
        tab = await Tab.open(context, server.port)
        await tab.run("Math.random = () => 0.9")
        await tab.connect("backoff: [5, 600_000]")
        await tab.run(f"{show}(true)")
        await server.stop()
        await eventually(lambda: tab.failed == 1, "the quick attempt fails")
        await tab.run("new Promise((resolve) => { setTimeout(resolve, 150) })")
        await server.start()
        assert await tab.run("client.state") == "reconnecting"
        await tab.run(f"{show}(false)")
        await tab.until("open")
        assert tab.failed == 1
        assert tab.errors == []
        await tab.page.close()


async def test_a_ticket_expires_under_the_page(chromium: Browser) -> None:
    """The page fetches a ticket for each attempt; an old one costs an attempt and no more."""
    demo = Demo(middlewares=[Tickets(Fernet.generate_key(), required=True)])
    site = web.Application()
    demo.app.setup(site, "/ws")
    issued = []

    async def ticket(_: web.Request) -> web.Response:
        """Every second one has expired."""
        issued.append(demo.app.tickets.issue("ann", ttl=30.0 if len(issued) % 2 else 0.001))
        await asyncio.sleep(0.002)
        return web.Response(text=issued[-1])

    site.router.add_get("/ticket", ticket)
    async with serve(demo.app, web_app=site) as server, window(chromium) as context:
        tab = await Tab.open(context, server.port)
        fresh = "async () => '/ws?ticket=' + await (await fetch('/ticket')).text()"
        await tab.connect(url=fresh)
        assert await tab.run("client.call('whoami')") == "ann"
        assert (len(issued), tab.failed) == (2, 1)
        (connection,) = demo.app.connections
        connection.close(4401, "the session ended")
        await tab.until("reconnecting")
        assert (
            await tab.run("client.call('whoami').catch(() => until('open').then(() => client.call('whoami')))") == "ann"
        )
        assert (len(issued), tab.failed) == (4, 2)
        assert tab.errors == []
        await tab.page.close()


async def test_a_page_logs_in(chromium: Browser) -> None:
    """With WAMP-CRA by a salted password, on localhost; a page of another host without https learns what is missing."""

    async def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        return Credentials(derive_key("p4ss", "0bs4lt", 1000, 32), salt="0bs4lt", iterations=1000)

    demo = Demo(cra=Cra(lookup))
    async with serve(demo.app) as server, window(chromium) as context:
        tab = await Tab.open(context, server.port, "localhost")
        await tab.connect('authkey: "bob", secret: "p4ss"')
        assert await tab.run("[client.state, client.permissions]") == ["open", {"rpc": [], "pubsub": []}]
        wrong = "failure(wampkit.connect('/ws', { authkey: 'bob', secret: 'guess' }).opened)"
        assert "invalid-signature" in await tab.run(wrong)
        plain = await Tab.open(context, server.port, "plain.example")
        right = "failure(wampkit.connect('/ws', { authkey: 'bob', secret: 'p4ss' }).opened)"
        assert await plain.run(right) == "CallError: the login was given up: a login needs https or localhost"
