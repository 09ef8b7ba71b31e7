"""A real headless Chromium, one for all tests of a module, and windows of it that share nothing."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, BrowserContext, async_playwright

__all__ = ["launched", "served", "window"]

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.test 127.0.0.1",
]
"""Nothing is asked of the network; the hosts of which pages seem to come are this machine."""


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Chromium, Debian's by its path. Tests take it from the fixture `chromium`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path is not None, "Chromium is missing: run tests/install-system-packages"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        await browser.close()


@asynccontextmanager
async def window(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """A window with cookies and a storage of its own, closed with all its pages at the end."""
    context = await browser.new_context(**options)
    try:
        yield context
    finally:
        await context.close()


@asynccontextmanager
async def served(site: web.Application, port: int = 0) -> AsyncIterator[str]:
    """An aiohttp application on a free port, or on this one; its host and port."""
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", port)
    await listener.start()
    try:
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()
