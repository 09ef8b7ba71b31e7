"""Pages in a real Chromium: those of foreign origins do not get in, whatever cookies the browser sends for them."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet
from playwright.async_api import Browser

from wampkit import AllowHosts, AllowOrigins, App, Connection, Sessions

from ..support.browser import served, window

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRY = """
url => new Promise(done => {
    const socket = new WebSocket(url, "wamp");
    socket.onmessage = event => done(JSON.parse(event.data)[0] === 0 ? "welcome" : event.data);
    socket.onclose = event => done(`closed ${event.code}`);
})
"""

FRAMED = """
url => new Promise(done => {
    onmessage = event => done(`${event.origin}: ${event.data}`);
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = `<script>(${TRY})("${url}").then(text => parent.postMessage(text, "*"))</script>`;
    document.body.append(frame);
})
""".replace("${TRY}", TRY.replace("`", "\\`").replace("${event.code}", "\\${event.code}"))


class Seen:
    """Notes the cookies of the handshakes that come so far."""

    def __init__(self) -> None:
        self.cookies: list[dict[str, str]] = []

    async def connect(self, connection: Connection) -> None:
        self.cookies.append(dict(connection.request.cookies))


async def page(request: web.Request) -> web.Response:
    """An empty page that leaves a cookie."""
    answer = web.Response(text="<!doctype html><title>a page</title><body>", content_type="text/html")
    answer.set_cookie("session", "ann")
    return answer


@asynccontextmanager
async def serving(app: App | None = None) -> AsyncIterator[str]:
    """A site with a page, and the app's socket if there is one; its port."""
    site = web.Application()
    site.router.add_get("/", page)
    if app is not None:
        app.setup(site)
    async with served(site) as address:
        yield address.rpartition(":")[2]


async def tried(browser: Browser, origin: str, url: str, script: str = TRY) -> str:
    """What a page of an origin reports of its attempt to connect."""
    opened = await browser.new_page()
    try:
        await opened.goto(f"{origin}/")
        told: str = await opened.evaluate(script, url)
        return told
    finally:
        await opened.close()


async def test_the_default_keeps_foreign_pages_out(chromium: Browser) -> None:
    """Without any configuration a page connects to the host and port that it came from, and no other page does."""
    seen = Seen()
    async with serving(App(middlewares=[seen])) as port, serving() as other:
        url = f"ws://localhost:{port}/ws"
        assert await tried(chromium, f"http://localhost:{port}", url) == "welcome"
        assert seen.cookies == [{"session": "ann"}]
        # For the first of these pages the browser would send the cookie, since cookies know no ports.
        assert await tried(chromium, f"http://localhost:{other}", url) == "closed 1006"
        assert await tried(chromium, f"http://127.0.0.1:{port}", url) == "closed 1006"
        assert await tried(chromium, f"http://localhost:{port}", url, FRAMED) == "null: closed 1006"
        assert len(seen.cookies) == 1


async def test_a_list_lets_its_own_pages_in(chromium: Browser) -> None:
    """AllowOrigins lets in the pages that it names, and not even the server's own without a word."""
    async with serving() as friend, serving() as evil:
        seen = Seen()
        app = App(middlewares=[AllowOrigins(f"http://localhost:{friend}"), seen])
        async with serving(app) as port:
            url = f"ws://localhost:{port}/ws"
            assert await tried(chromium, f"http://localhost:{friend}", url) == "welcome"
            assert await tried(chromium, f"http://localhost:{evil}", url) == "closed 1006"
            assert await tried(chromium, f"http://127.0.0.1:{friend}", url) == "closed 1006"
            assert await tried(chromium, f"http://localhost:{port}", url) == "closed 1006"
            assert len(seen.cookies) == 1


async def test_a_star_lets_every_page_in(chromium: Browser) -> None:
    """AllowOrigins("*") is open even to sandboxed frames, which send the origin "null"."""
    async with serving() as other, serving(App(middlewares=[AllowOrigins("*")])) as port:
        url = f"ws://localhost:{port}/ws"
        assert await tried(chromium, f"http://localhost:{other}", url) == "welcome"
        assert await tried(chromium, f"http://localhost:{other}", url, FRAMED) == "null: welcome"


@pytest.mark.parametrize("hosts", [[], ["localhost"]])
async def test_a_page_that_points_its_name_here(chromium: Browser, hosts: list[str]) -> None:
    """A name of a stranger that leads here is of the same origin; AllowHosts is what keeps it out."""
    app = App(middlewares=[AllowHosts(*hosts)] if hosts else [])
    async with serving(app) as port:
        told = await tried(chromium, f"http://evil.example:{port}", f"ws://evil.example:{port}/ws")
        assert told == ("closed 1006" if hosts else "welcome")
        assert await tried(chromium, f"http://localhost:{port}", f"ws://localhost:{port}/ws") == "welcome"


WHO = """
url => new Promise(done => {
    const socket = new WebSocket(url, "wamp");
    socket.onmessage = event => {
        const message = JSON.parse(event.data);
        if (message[0] === 0) socket.send(JSON.stringify([2, "1", "who"]));
        else done(message[2]);
    };
    socket.onclose = event => done(`closed ${event.code}`);
})
"""


async def test_a_neighbouring_hosts_cookie_is_not_the_session(chromium: Browser) -> None:
    """A page of a neighbouring host can hide a session's cookie in one of another name; the visitor is not that one."""
    key = Fernet.generate_key()
    cookies = {
        user: Fernet(key).encrypt(json.dumps({"created": time.time(), "session": {"user": user}}).encode()).decode()
        for user in ("ann", "eve")
    }
    seen = Seen()
    app = App(middlewares=[seen, Sessions(EncryptedCookieStorage(Fernet(key), max_age=60))])

    @app.rpc("who")
    async def who(connection: Connection) -> str | None:
        return connection.user  # type: ignore[no-any-return]  # it is a text here

    told = {}
    async with serving(app) as port:
        for name, neighbour in {
            "none": "other=1",
            "space": f"x=y AIOHTTP_SESSION={cookies['eve']}",
            "bare word": f"x AIOHTTP_SESSION={cookies['eve']}",
            "quoted": f'x="y" AIOHTTP_SESSION={cookies["eve"]}',
            "same name": f"AIOHTTP_SESSION={cookies['eve']}",
        }.items():
            async with window(chromium) as visitor:
                opened = await visitor.new_page()
                await opened.goto(f"http://shop.site.example:{port}/")
                await opened.evaluate("text => document.cookie = text", f"AIOHTTP_SESSION={cookies['ann']}; Path=/ws")
                await opened.goto(f"http://evil.site.example:{port}/")
                await opened.evaluate("text => document.cookie = text", f"{neighbour}; Domain=site.example; Path=/ws")
                await opened.goto(f"http://shop.site.example:{port}/")
                told[name] = await opened.evaluate(WHO, f"ws://shop.site.example:{port}/ws")
    assert told == {"none": "ann", **dict.fromkeys(("space", "bare word", "quoted", "same name"), None)}
    assert [each["AIOHTTP_SESSION"] for each in seen.cookies].count(cookies["eve"]) >= 3, "aiohttp falls for it"


async def test_a_wildcard_lets_names_below_a_host_in(chromium: Browser) -> None:
    """The pages of all names below a host are meant by a wildcard, and those of names that only end alike are not."""
    async with serving() as other:
        app = App(middlewares=[AllowOrigins(f"http://*.site.example:{other}")])
        async with serving(app) as port:
            url = f"ws://socket.example:{port}/ws"
            for host, expected in (
                ("www.site.example", "welcome"),
                ("a.b.site.example", "welcome"),
                ("site.example", "closed 1006"),
                ("evilsite.example", "closed 1006"),
                ("www.site.example.test", "closed 1006"),
            ):
                assert await tried(chromium, f"http://{host}:{other}", url) == expected, host
