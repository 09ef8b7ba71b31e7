"""Several processes that serve one app: what goes wrong between them is said, or kept from happening."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..support.command import Command, command, environment, free_port, write
from ..support.wire import Peer, eventually

APP = """
import os
import pathlib

from cryptography.fernet import Fernet

from wampkit import App, Cra, Tickets

async def lookup(authkey):
    return None

KEY = os.environ.get("KEY") or Fernet.generate_key()
OPTIONS = {
    "all": {"cra": Cra(lookup), "middlewares": [Tickets(KEY)]},
    "keys": {"middlewares": [Tickets(KEY, spent=lookup)]},
}
app = App(**OPTIONS.get(os.environ.get("APP", ""), {}))
if os.environ.get("APP") == "all":
    app.topic("news", relay=True)


def tick(name, **options):
    @app.every(seconds=0.05, **options)
    async def function():
        pathlib.Path(f"{name}-{os.getpid()}").touch()

    function.__qualname__ = name


for setting in os.environ.get("EVERY", "").split():
    tick(setting, **{"each": {}, "one": {"one_worker": True}, "right": {"one_worker": False}}[setting])


@app.rpc("pid")
async def pid() -> int:
    return os.getpid()


def site():
    return app.web_app()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app that is told by variables what it is."""
    write(tmp_path, served=APP)
    return tmp_path


@contextlib.asynccontextmanager
async def gunicorn(project: Path, workers: int, **env: str) -> AsyncIterator[tuple[Command, str]]:
    """gunicorn as the README starts it, and where it serves."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", "-w", str(workers), "--worker-class", "aiohttp.GunicornWebWorker"),
        *("--bind", f"127.0.0.1:{port}", "served:site()"),
        cwd=project,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running = Command(process)
    try:
        yield running, f"ws://127.0.0.1:{port}/ws"
    finally:
        if process.returncode is None:
            process.terminate()
        await running.exit()


async def test_gunicorns_workers_are_warned_of(project: Path) -> None:
    """Under gunicorn with two workers each thing that they do not share is one line, once; with one there is none."""
    async with gunicorn(project, 2, APP="all", EVERY="each right") as (server, _):
        for pattern in (
            r"gunicorn -w 2: this app has topics, and with the broker memory:// an event never leaves its process",
            r"gunicorn -w 2: each worker remembers spent tickets by itself",
            r"gunicorn -w 2: each worker draws a key for the salts of unknown users",
            r"gunicorn -w 2: every worker runs what @app.every declares \(each\)",
        ):
            await server.said(pattern)
        await eventually(lambda: len(list(project.glob("each-*"))) == 2, "both workers run it", timeout=20)
        assert len([line for line in server.err if "gunicorn -w 2" in line]) == 4
    async with gunicorn(project, 1, APP="all", EVERY="each one") as (server, url):
        peer = await _open(url)
        await peer.close()
        assert not [line for line in server.err if "gunicorn -w" in line]
        await eventually(lambda: len(list(project.glob("one-*"))) == 1)


async def test_gunicorn_is_refused_what_only_one_worker_shall_run(project: Path) -> None:
    """`one_worker=True` under gunicorn with several workers stops the start and says what to do."""
    async with gunicorn(project, 2, EVERY="one") as (server, _):
        await server.said(
            "every: one shall run in one worker, and gunicorn -w 2 does not tell which: start it with -w 1"
        )
        assert await server.exit() != 0
    assert list(project.glob("one-*")) == []


async def test_what_one_worker_shall_run_runs_in_one(project: Path) -> None:
    """With --workers, `one_worker=True` runs in one, and in the one that takes its place."""
    args = ("run", "served:app", "--port", "0", "--workers", "2")
    async with command(*args, cwd=project, env={"EVERY": "each right one"}) as server:
        await server.url()
        await server.said(r"--workers 2: every worker runs what @app.every declares \(each\)")
        await eventually(lambda: len(list(project.glob("each-*"))) == 2, timeout=20)
        (first,) = project.glob("one-*")
        os.kill(int(first.name.removeprefix("one-")), signal.SIGKILL)
        await eventually(lambda: len(list(project.glob("one-*"))) == 2, "its replacement runs it", timeout=20)
        await eventually(lambda: len(list(project.glob("each-*"))) == 3, timeout=20)
        assert len(list(project.glob("one-*"))) == 2
        assert len(list(project.glob("right-*"))) == 3


async def test_workers_with_different_keys_are_told_of(project: Path) -> None:
    """A key that each worker draws for itself is told of in one line; one from the environment is not."""
    args = ("run", "served:app", "--port", "0", "--workers", "3")
    async with command(*args, cwd=project, env={"APP": "keys"}) as server:
        await server.said("--workers 3: the workers have different keys for sessions or tickets")
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with command(*args, cwd=project, env={"APP": "keys", "KEY": key}) as server:
        await server.url()
        assert server.err == []


async def _open(url: str) -> Peer:
    """Connect once the server listens."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await Peer.open(url)
            except OSError:
                await asyncio.sleep(0.05)
