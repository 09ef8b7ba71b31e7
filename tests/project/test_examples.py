"""The examples do what they say: each is run as its first lines tell, and used over real sockets."""

import importlib
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from wampkit import CallError, HandshakeRefused, State, connect

from ..support.browser import served, window
from ..support.redis_server import redis_server
from ..support.wire import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


async def test_calculator() -> None:
    """The calculator adds, divides, sums, says what is wrong, and what time it is."""
    from examples.calculator import app

    async with served(app.web_app()) as address, connect(f"ws://{address}/ws") as client:
        assert await client.call("calc:add", 2, 3) == 5
        assert await client.call("calc:sum", 1, 2, 3, 4) == 10
        assert await client.call("calc:is_prime", 97) is True
        assert await client.call("calc:countdown", 0) == "lift-off"
        with pytest.raises(CallError, match="cannot divide by zero"):
            await client.call("calc:divide", 1, 0)
        with pytest.raises(CallError, match="expected int >= 0"):
            await client.call("calc:is_prime", -1)
        async with client.subscribe("calc:clock") as events:
            first, second = await anext(events), await anext(events)
        assert datetime.fromisoformat(first) < datetime.fromisoformat(second)


async def test_dependencies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A note that was added is listed, and a failed handler leaves the database as it was."""
    from examples import dependencies

    monkeypatch.setattr(dependencies, "FILE", tmp_path / "notes.db")
    async with served(dependencies.app.web_app()) as address, connect(f"ws://{address}/ws") as client:
        assert await client.call("notes:add", "buy milk") == 1
        assert await client.call("notes:add", "drink it") == 2
        listed = await client.call("notes:list")
    assert listed == [{"author": "anonymous", "text": "buy milk"}, {"author": "anonymous", "text": "drink it"}]
    with closing(sqlite3.connect(tmp_path / "notes.db")) as db:
        assert db.execute("SELECT count(*) FROM notes").fetchone() == (2,)


async def test_aiohttp_site() -> None:
    """An order that is posted to the site reaches the subscribers of its socket."""
    from examples.aiohttp_site import site

    async with (
        served(site()) as address,
        connect(f"ws://{address}/live") as client,
        client.subscribe("orders:new") as events,
        aiohttp.ClientSession() as http,
    ):
        assert await client.call("orders:watchers") == 1
        async with http.post(f"http://{address}/orders", data={"item": "tea"}) as answer:
            assert answer.status == 201
            placed = await answer.json()
        assert placed["item"] == "tea"
        assert await events.get(timeout=5) == placed


@pytest.mark.asyncio(loop_scope="module")
async def test_chat_in_two_browser_windows(chromium: Browser) -> None:
    """Two pages of the chat see each other come, talk and go."""
    from examples.chat.server import site

    async with served(site()) as address, window(chromium) as context:
        anna, bert = await context.new_page(), await context.new_page()
        errors: list[str] = []
        for page in (anna, bert):
            page.on("pageerror", lambda error: errors.append(str(error)))
        await anna.goto(f"http://{address}/")
        await expect(anna.locator("#state")).to_have_text("you are alone here")
        await bert.goto(f"http://{address}/")
        await expect(anna.locator("#state")).to_have_text("2 people here")
        await say(bert, "Bert", "<b>hello</b>")
        await expect(anna.locator("#log li")).to_have_text("Bert<b>hello</b>")
        await say(anna, "Anna", "hi Bert")
        await expect(bert.locator("#log li").last).to_have_text("Annahi Bert")
        await expect(anna.locator("#log li")).to_have_count(2)
        await anna.goto(f"http://{address}/#<i>games<i>")
        await expect(anna.get_by_role("heading")).to_have_text("<i>games<i>")
        await expect(anna.locator("#log li")).to_have_count(0)
        await expect(anna.locator("#state")).to_have_text("you are alone here")
        await expect(bert.locator("#state")).to_have_text("you are alone here")
    assert errors == []


@pytest.mark.asyncio(loop_scope="module")
async def test_dashboard_in_a_browser(chromium: Browser) -> None:
    """Numbers come and are drawn, from before the page was opened too, and go on after the server was restarted."""
    from examples.dashboard import server

    async with window(chromium) as context:
        page = await context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        server.history.append(server.Numbers(time.time() - 30, 1.5, 0.5, 20.0, 7))
        async with served(server.site()) as address:
            await page.goto(f"http://{address}/")
            await expect(page.get_by_role("status")).to_have_text("live")
            await expect(page.get_by_role("img", name="Connections: 1")).to_be_visible()
            await eventually(lambda: len(server.history) > 2)
        await expect(page.get_by_role("status")).to_have_text("reconnecting …")
        drawn = await _points(page)
        assert drawn > 2
        server.history.clear()
        async with served(server.site(), int(address.rpartition(":")[2])):
            await expect(page.get_by_role("status")).to_have_text("live")
            await eventually(lambda: len(server.history) > 1)
            assert await _points(page) >= drawn + 1
    assert errors == []


async def _points(page: Page) -> int:
    """How many points the line of the load has."""
    path = await page.locator("#line-load").get_attribute("d")
    return path.count(",") if path is not None else 0


@asynccontextmanager
async def login_site(where: str) -> AsyncIterator[str]:
    """The login site with its sessions in cookies or in Redis; its host and port."""
    name = "examples.login_site"
    sys.modules.pop(name, None)
    with pytest.MonkeyPatch.context() as patch:
        async with AsyncExitStack() as stack:
            patch.delenv("REDIS_URL", raising=False)
            patch.delenv("SESSION_KEYS", raising=False)
            if where == "redis":
                server = await stack.enter_async_context(redis_server())
                patch.setenv("REDIS_URL", f"unix://{server.socket}")
            module = importlib.import_module(name)
            if where == "redis":
                stack.push_async_callback(module.STORAGE._redis.aclose)
            yield await stack.enter_async_context(served(module.site()))
    sys.modules.pop(name, None)


async def _post(http: aiohttp.ClientSession, address: str, path: str, **form: str) -> int:
    """The status that a form's page answers with; the form has the token that the site gave."""
    async with http.get(f"http://{address}/") as answer:
        token = re.search(r'name="csrf" value="([^"]+)"', await answer.text())
    assert token is not None
    form = {"csrf": token[1], **form}
    async with http.post(f"http://{address}{path}", data=form, allow_redirects=False) as answer:
        return answer.status


@pytest.mark.parametrize("where", ["cookie", "redis"])
async def test_login_site(where: str) -> None:
    """Who logs in on the site is known on the socket, and the logout closes it, in cookies as in Redis."""
    jar = aiohttp.CookieJar(unsafe=True)  # cookies for an address, which 127.0.0.1 is
    async with login_site(where) as address, aiohttp.ClientSession(cookie_jar=jar) as http:
        url = f"ws://{address}/ws"
        with pytest.raises(HandshakeRefused) as refused:
            await connect(url, session=http).open()
        assert refused.value.status == 403
        assert await _post(http, address, "/login", name="ann", password="coffee") == 403
        assert await _post(http, address, "/login", name="eve", password="") == 403
        assert await _post(http, address, "/login", name="ann", password="tea", csrf="x") == 403
        assert await _post(http, address, "/login", name="ann", password="tea") == 303
        async with (
            connect(url, session=http, reconnect=False) as client,
            client.subscribe("site:chat") as events,
        ):
            assert await client.call("site:whoami") == "ann"
            await client.publish("site:chat", "hello", exclude_me=False)
            assert await events.get(timeout=5) == {"from": "ann", "text": "hello"}
            assert await _post(http, address, "/logout", csrf="x") == 403
            assert await client.call("site:whoami") == "ann"
            assert await _post(http, address, "/logout") == 303
            await eventually(lambda: client.state is State.CLOSED)
            assert client.error is not None
            assert client.error.code == 4401
        with pytest.raises(HandshakeRefused):
            await connect(url, session=http).open()


@pytest.mark.asyncio(loop_scope="module")
async def test_login_site_in_a_browser(chromium: Browser) -> None:
    """The page knows who it is, and says that it is logged out when that happens in another window."""
    async with login_site("cookie") as address, window(chromium) as context:
        page, other = await context.new_page(), await context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(f"http://{address}/")
        await page.fill("[name=name]", "ann")
        await page.fill("[name=password]", "tea")
        await page.click("button")
        await expect(page.locator("#state")).to_have_text("connected as ann")
        await page.fill("#text", "<b>hello</b>")
        await page.click("#form button")
        await expect(page.locator("#log li")).to_have_text("ann: <b>hello</b>")
        await other.goto(f"http://{address}/")
        await other.click("text=Log out")
        await expect(page.locator("#state")).to_have_text("logged out: log in again")
        await expect(other.locator("[name=password]")).to_be_visible()
    assert errors == []


async def say(page: Page, name: str, text: str) -> None:
    await page.fill("#name", name)
    await page.fill("#text", text)
    await page.click("button")


def test_the_test_file_passes() -> None:
    """The example of a test file passes when it is run as it says."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_calculator.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_every_example_is_named_here() -> None:
    """No example goes without its test."""
    here = Path(__file__).read_text()
    names = [path.stem for path in EXAMPLES.iterdir() if path.suffix == ".py" and path.stem != "__init__"]
    names += [path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [name for name in names if name not in here] == []
