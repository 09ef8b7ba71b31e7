"""A page of the console in Chromium, and the app that it shows."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from playwright.async_api import Browser, Page, expect

from wampkit import App, Topic, WampError

from .browser import window

SIZE = {"width": 1280, "height": 800}


EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"{{x}}'


class Visit:
    """A page that is looked at, with what it complained of and whom it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url))


@asynccontextmanager
async def looking(
    chromium: Browser, address: str, place: str = "", *, lost: bool = False, **options: Any
) -> AsyncIterator[Page]:
    """The console of a server in a browser, which must not complain, nor load anything from elsewhere.

    Args:
        chromium: The browser.
        address: The server's host and port.
        place: What follows the page's address.
        lost: Whether the server is lost meanwhile: the browser itself writes of each attempt that failed.
        options: The browser context's.
    """
    async with window(chromium, **{"viewport": SIZE, **options}) as context:
        page = await context.new_page()
        page.set_default_timeout(8000)
        visit = Visit(page)
        await page.goto(f"http://{address}/ws{place}")
        await expect(page.get_by_role("status").first).to_have_text(re.compile("connected"))
        yield page
        assert [each for each in visit.complaints if not (lost and "net::ERR_CONNECTION_REFUSED" in each)] == []
        assert {url.split("/")[2] for url in visit.asked if not url.startswith("data:")} == {address}
        assert await page.evaluate("window.hacked") is None


class Address(Struct):
    street: str
    city: Annotated[str, Meta(min_length=1, max_length=20)]


class User(Struct):
    """Somebody."""

    name: str
    age: Annotated[int, Meta(ge=0, le=150)]
    address: Address | None = None
    tags: list[str] = []


class Message(Struct):
    text: Annotated[str, Meta(max_length=500)]


def make(**options: Any) -> App:
    """An app with something of each kind."""
    literal = {name: f"{name}:" for name in ("chat", "closed", "evil", "many", "open", "t", "user")}
    app = App(prefixes={"calc": "http://example.com/calc#", **literal}, console=True, **options)

    @app.rpc("calc:add")
    async def add(x: float, y: float = 1.5) -> float:
        """Add two numbers."""
        return x + y

    @app.rpc("calc:divide")
    async def divide(x: float, y: float) -> float:
        """Divide x by y."""
        if y == 0:
            raise WampError("calc:division-by-zero", "cannot divide by zero", {"x": x})
        return x / y

    @app.rpc("calc:crash")
    async def crash() -> None:
        raise RuntimeError(EVIL)

    @app.rpc("user:create")
    async def create(user: User, kind: Literal["guest", "admin"] = "guest", notify: bool = True) -> dict[str, Any]:
        return {"user": user, "kind": kind, "notify": notify}

    @app.topic("chat:{room}")
    async def room(event: Message, topic: Topic, room: str) -> dict[str, Any]:
        """Runs for each PUBLISH."""
        return {"room": room, "text": event.text}

    app.topic("open:all", relay=True)
    return app
