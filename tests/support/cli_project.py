"""A project with an app, and commands that are run in its folder."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .command import Command, command, wampkit

APP = """
from enum import Enum
from typing import Annotated, Any

from msgspec import Meta, Struct

from wampkit import AllowOrigins, App, Call, Connection, Depends, NotAllowed, Router, Topic, WampError


class Colour(Enum):
    RED = "red"


class Message(Struct):
    text: str


class Users:
    async def connect(self, connection): ...

    async def message(self, message, call_next):
        return await call_next(message)


async def timing(message, call_next):
    return await call_next(message)


async def admins(message, call_next):
    return await call_next(message)


def database():
    return None


app = App(
    prefixes={"calc": "http://example.com/calc#"},
    middlewares=[AllowOrigins("https://example.com", allow_missing=True), Users(), timing],
)


@app.rpc("calc:add", timeout=5)
async def add(x: float, y: float = 1) -> float:
    \"\"\"Add two numbers.

    Not more.
    \"\"\"
    return x + y


@app.rpc("paint/{name}")
def paint(name: str, conn: Connection, call: Call, colour: Annotated[Colour, Meta(title="c")] = Colour.RED,
          *more: int, db: Annotated[Any, Depends(database)]) -> None: ...


@app.rpc("fail")
async def fail():
    raise WampError("http://example.com/error#no", "no \\x1b[31mway\\nout", {"why": "\\x1b[2J"})


@app.rpc("crash")
async def crash():
    raise RuntimeError("private matters")


@app.rpc("echo")
async def echo(value: Any, conn: Connection) -> Any:
    return [value, conn.request.headers.get("X-Test"), conn.request.headers.get("Origin")]


router = Router("admin/", middlewares=[admins])


@router.rpc("stop")
async def stop(*reasons): ...


app.include(router)


@app.topic("room/{name}")
async def room(event: Message, topic: Topic, name: str) -> dict:
    return {"room": name, "text": event.text}


@app.topic("secret").on_subscribe
async def refuse():
    raise NotAllowed("members only")


app.topic("lobby", relay=True)
app.topic("news")


@app.rpc("say")
async def say(topic: str, *events: Any) -> None:
    for event in events:
        await app.publish(topic, event)


print("chatter of the module")
"""


@asynccontextmanager
async def serving(project: Path, *args: str) -> AsyncIterator[tuple[Command, str]]:
    """The app under `wampkit run`, and its URL."""
    async with command("run", "shop:app", "--port", "0", *args, cwd=project) as server:
        yield server, await server.url()


async def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, run while this test's loop goes on."""
    return await asyncio.to_thread(wampkit, *args, cwd=cwd)
