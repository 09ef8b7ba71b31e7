"""The examples do what they say: each is run as its first lines tell, and used over real sockets."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright, expect

from wampkit import CallError, connect

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@asynccontextmanager
async def served(site: web.Application) -> AsyncIterator[str]:
    """An aiohttp application on a free port; its host and port."""
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    try:
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def chromium(*options: str) -> AsyncIterator[Browser]:
    """A real headless Chromium, Debian's by its path, with further options of its command."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path is not None, "Chromium is missing: run tests/install-system-packages"
    offline = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*offline, *options])
        yield browser
        await browser.close()


async def test_calculator() -> None:
    """The calculator adds, divides, sums, and says what is wrong."""
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


async def test_chat_in_two_browser_windows() -> None:
    """Two pages of the chat see each other come, talk and go."""
    from examples.chat.server import site

    async with served(site()) as address, chromium() as browser:
        anna, bert = await browser.new_page(), await browser.new_page()
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
        await bert.close()
        await expect(anna.locator("#state")).to_have_text("you are alone here")
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
