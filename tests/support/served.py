"""An app that `wampkit run` serves, and clients that keep it busy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .command import Command, command
from .wire import CALL, Peer

APP = """
import asyncio
import os
import time

from wampkit import AllowOrigins, App, run_on_loop

app = App(middlewares=[AllowOrigins("http://example.com", allow_missing=True)])
app.topic("began")


@app.rpc("pid")
async def pid() -> int:
    return os.getpid()


@app.rpc("nap")
async def nap(seconds: float) -> str:
    await app.publish("began", None)
    await asyncio.sleep(seconds)
    return "rested"


@app.rpc("block the loop")
async def block_the_loop() -> None:
    await app.publish("began", None)
    await asyncio.sleep(0)
    time.sleep(60)


@app.rpc("block a thread")
def block_a_thread() -> None:
    run_on_loop(app.publish("began", None))
    time.sleep(60)


@app.on_shutdown
async def bye() -> None:
    print("bye", flush=True)
"""


PROCEDURES = """
import os

from wampkit import App

app = App()


@app.rpc("pid")
async def pid() -> int:
    return os.getpid()
"""


@asynccontextmanager
async def running(project: Path, *args: str, app: str = "served:app") -> AsyncIterator[tuple[Command, str]]:
    """`wampkit run` on a free port, once it serves."""
    async with command("run", app, "--port", "0", *args, cwd=project) as server:
        yield server, await server.url()


@asynccontextmanager
async def busy(url: str, procedure: str, *args: object) -> AsyncIterator[Peer]:
    """A client whose call, with the id "7", is under way."""
    peer = await Peer.open(url)
    try:
        await peer.subscribe("began")
        await peer.send(CALL, "7", procedure, *args)
        await peer.events(1)
        yield peer
    finally:
        await peer.close()
