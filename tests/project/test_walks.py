"""The ways of messages as docs/architecture.md tells them: the modules that they cross, in this order."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

import wampkit
from wampkit import AllowOrigins, App, BlockAddresses, Cra, Credentials, KeyRing, Sessions

from ..support.pages import page
from ..support.wire import CALL, PUBLISH, serve

PACKAGE = f"{Path(wampkit.__file__).parent}/"


def modules_of(section: str) -> list[str]:
    """The first column of the table below a heading of docs/architecture.md."""
    text = page("docs/architecture.md").text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)


@contextmanager
def walked() -> Iterator[list[str]]:
    """Notes the modules of wampkit that are crossed, each when it is first."""
    crossed: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            module = file.removeprefix(PACKAGE).removesuffix(".py")
            if module not in crossed:
                crossed.append(module)

    sys.setprofile(note)
    try:
        yield crossed
    finally:
        sys.setprofile(None)


def make() -> App:
    def lookup(authkey: str, extra: dict[str, Any]) -> Credentials:
        return Credentials("secret")

    storage = EncryptedCookieStorage(KeyRing(Fernet.generate_key()), max_age=3600)
    gates = [BlockAddresses("203.0.113.0/24"), AllowOrigins("same-origin", allow_missing=True), Sessions(storage)]
    app = App(middlewares=gates, cra=Cra(lookup))

    @app.on_connect
    async def welcome(connection: wampkit.Connection) -> None:
        connection.attributes["welcomed"] = True

    return app


async def test_a_call_crosses_these_modules() -> None:
    """From aiohttp's parser to the handler and back to the socket."""
    app = App()

    @app.rpc("add")
    async def add(x: float, y: float) -> float:
        return x + y

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("add", 1, 2) == 3
        with walked() as crossed:
            await peer.send(CALL, "1", "add", 1, 2)
            await peer.next()
    assert crossed == modules_of("The way of a CALL")


async def test_a_publish_crosses_these_modules() -> None:
    """From aiohttp's parser to the broker, and to a subscriber's socket."""
    app = App()
    app.topic("lobby", relay=True)
    async with serve(app) as server:
        publisher, subscriber = await server.peer(), await server.peer()
        await subscriber.subscribe("lobby")
        await subscriber.settle()
        await publisher.send(PUBLISH, "lobby", "first")
        await subscriber.next()
        with walked() as crossed:
            await publisher.send(PUBLISH, "lobby", "hello")
            await subscriber.next()
    assert crossed == modules_of("The way of a PUBLISH")


async def test_a_handshake_crosses_these_modules() -> None:
    """From the request to the first read after WELCOME."""
    app = make()
    async with serve(app) as server:
        await server.peer()
        with walked() as crossed:
            await server.peer()
    assert crossed == modules_of("The way of a handshake")
