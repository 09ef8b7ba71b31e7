"""Servers that go on: when the loop stands still, when stderr is not read, when no descriptor is left."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..support.command import PATIENCE, Command, command, environment, free_port, write
from ..support.wire import Peer, RawPeer, eventually

APP = """
import logging
import os
import time

from wampkit import App

app = App()


@app.rpc("pid")
async def pid() -> int:
    return os.getpid()


@app.rpc("block")
async def block(seconds: float) -> None:
    time.sleep(seconds)


@app.rpc("shout")
async def shout(lines: int) -> None:
    for number in range(lines):
        logging.getLogger("app").error("%d %s", number, "x" * 200)
"""

LOOPS = ("asyncio", "uvloop")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app."""
    write(tmp_path, served=APP)
    return tmp_path


@contextlib.asynccontextmanager
async def running(project: Path, *args: str) -> AsyncIterator[tuple[Command, str]]:
    """`wampkit run` on a free port, once it serves."""
    async with command("run", "served:app", "--port", "0", *args, cwd=project) as server:
        yield server, await server.url()


async def ask(url: str, procedure: str, *args: object) -> object:
    """Connect, call, and leave."""
    peer = await Peer.open(url)
    try:
        return await peer.result(procedure, *args)
    finally:
        await peer.close()


def state(pid: int) -> str:
    """The state of a process as the kernel has it: "Z" has ended; empty where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


# ---- the loop


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_handler_that_blocks_the_loop_is_named(project: Path, loop: str) -> None:
    """A handler that holds up the loop is told of with its name and line: early with --debug, and late without."""
    for flags, seconds in ((("--debug",), 0.4), ((), 2.5)):
        async with running(project, "--loop", loop, *flags) as (server, url):
            await ask(url, "pid")
            assert not [line for line in server.err if "held up" in line]
            await ask(url, "block", seconds)
            line = (await server.said("held up the event loop")).string
            assert re.search(
                r"WARNING wampkit\.runner: block \(served\.py:18\) has held up the event loop for over", line
            )
            await ask(url, "block", seconds)
            assert await ask(url, "pid") == server.pid
            assert len([line for line in server.err if "held up" in line]) == 1, "not each time"


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_worker_that_stands_still_is_replaced(project: Path, loop: str) -> None:
    """A worker that is stopped, or whose loop is blocked, is killed and replaced after --worker-timeout."""
    args = ("--workers", "2", "--worker-timeout", "2", "--loop", loop)
    async with running(project, *args) as (server, url):
        for how in ("stopped", "blocked"):
            peer = await Peer.open(url)
            victim = await peer.result("pid")
            assert isinstance(victim, int)
            if how == "stopped":
                os.kill(victim, signal.SIGSTOP)
            else:
                await peer.send(2, "7", "block", 60)
            await server.said(rf"worker {victim}: its event loop has stood still for 2 s; killing it")
            await server.said(rf"worker {victim} ended \(signal SIGKILL\); starting another")
            await eventually(lambda: not state(victim), how)  # noqa: B023
            await peer.close()
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0


async def test_a_worker_that_is_well_stays(project: Path) -> None:
    """Workers that serve, or are given --worker-timeout 0, are not replaced, nor are they when all were stopped."""
    async with running(project, "--workers", "2", "--worker-timeout", "1") as (server, url):
        children = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        assert len(children) == 2
        server.signal(signal.SIGSTOP)  # the supervisor alone: it hears of its workers late
        await asyncio.sleep(2.5)  # more than twice the time after which a silent worker is replaced
        server.signal(signal.SIGCONT)
        await asyncio.sleep(1.5)  # longer than that time again: a replacement would have begun
        assert await ask(url, "pid") in children
        assert [state(child) in "RS" for child in children] == [True, True]
        assert server.err == []


# ---- workers


async def test_a_stop_of_all_processes_starts_no_worker_again(project: Path) -> None:
    """Where SIGTERM ends workers a moment before it reaches their supervisor, none is said to be started again."""

    async def clean() -> bool:
        async with running(project, "--workers", "2") as (server, _):
            children = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
            for child in children:
                os.kill(child, signal.SIGTERM)
            await eventually(lambda: not all(map(state, children)), timeout=PATIENCE)
            server.signal(signal.SIGTERM)
            assert await server.exit() == 0
            return not [line for line in server.err if "starting another" in line]

    # This process may itself be held up between the two, so it has several tries.
    assert await clean() or await clean() or await clean()


async def test_it_is_announced_when_all_workers_serve(project: Path) -> None:
    """A worker that is started twice does not pass for two: the start is told once each of them serves."""
    late = (
        "import pathlib, time\n"
        "number = len(list(pathlib.Path().glob('start-*')))\n"
        "pathlib.Path(f'start-{number}').touch()\n"
        "while number == 1 and not pathlib.Path('go').exists():\n"
        "    time.sleep(0.02)\n"
    )
    write(project, served=late + APP)
    port = free_port()
    args = ("run", "served:app", "--port", str(port), "--workers", "2")
    async with command(*args, cwd=project) as server:
        await eventually(lambda: (project / "start-1").exists(), timeout=PATIENCE)
        url = f"ws://127.0.0.1:{port}/ws"
        first = await ask(url, "pid")
        assert isinstance(first, int)
        os.kill(first, signal.SIGKILL)
        await server.said("starting another")

        async def again() -> bool:
            with contextlib.suppress(OSError):
                return await ask(url, "pid") != first
            return False

        async with asyncio.timeout(PATIENCE):
            while not await again():  # noqa: ASYNC110  # another process is asked
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
        assert server.out == []
        (project / "go").touch()
        assert await server.url() == url


# ---- stderr


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_stderr_that_is_not_read_stops_nothing(project: Path, loop: str) -> None:
    """With a full pipe for stderr the server serves and stops; what is dropped is counted when it is read again."""
    for reads in (False, True):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wampkit", "run", "served:app", "--port", "0", "--loop", loop),
            cwd=project,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=(pipe := os.pipe())[1],
        )
        os.close(pipe[1])
        try:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[1]
            async with asyncio.timeout(PATIENCE):
                await ask(url, "shout", 7000)
                assert await ask(url, "pid") == process.pid
            if reads:
                told = await asyncio.to_thread(_read_until, pipe[0], b"log lines were dropped")
                lines = told.decode().splitlines()
                dropped = int(lines[-1].split()[0])
                assert len(lines) - 1 + dropped == 7000
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(pipe[0])


def _read_until(descriptor: int, end: bytes) -> bytes:
    told = b""
    while end not in told:
        more = os.read(descriptor, 65536)
        assert more, "it ended"
        told += more
    return told[: told.index(b"\n", told.index(end))]


# ---- descriptors

EMBEDDED = """
import asyncio
import os

import uvloop
from aiohttp import web

from served import app

site = web.Application()
app.setup(site)


async def main():
    runner = web.AppRunner(site)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"wampkit: ws://127.0.0.1:{runner.addresses[0][1]}/ws serves", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
"""


@pytest.mark.parametrize("how", [*LOOPS, "embedded"])
async def test_clients_beyond_the_descriptors_cost_a_line_a_second(project: Path, how: str) -> None:
    """Where no descriptor is left, the log has one line a second, old clients are served, and new ones later."""
    write(project, embedded=EMBEDDED)
    arguments = "embedded.py" if how == "embedded" else f"-m wampkit run served:app --port 0 --loop {how}"
    process = await asyncio.create_subprocess_shell(
        f'ulimit -n 48; exec "{sys.executable}" {arguments}',
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    server = Command(process)
    try:
        url = await server.url()
        port = int(url.split(":")[2].split("/")[0])
        old = await Peer.open(url)
        crowd = [await RawPeer.connect(port) for _ in range(70)]
        await server.said("no further client can be taken in", count=3)
        assert await old.result("pid") == server.pid
        assert len(server.err) <= 5, server.err
        assert "Too many open files (this process may have 48 files and sockets open)" in server.err[0]
        for each in crowd:
            each.close()
        async with asyncio.timeout(PATIENCE):
            assert await ask(url, "pid") == server.pid
        await old.close()
        if how != "embedded":
            server.signal(signal.SIGTERM)
            assert await server.exit() == 0
        assert "Traceback" not in "".join(server.err)
    finally:
        if process.returncode is None:
            process.kill()
        await server.exit()
