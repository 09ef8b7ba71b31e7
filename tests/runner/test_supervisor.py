"""`wampkit run --reload` and `--workers`: restarts, crashes, and processes that end together."""

import asyncio
import os
import signal
from pathlib import Path

from ..support.command import PATIENCE, command, free_port, write
from ..support.served import APP, PROCEDURES, busy, running
from ..support.wire import CALL, Peer, eventually


def alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def pids(url: str, wanted: int, known: frozenset[int] = frozenset()) -> set[int]:
    """The processes behind a port: connects until that many other than the known ones have answered."""
    found: set[int] = set()

    async def more() -> bool:
        peer = await Peer.open(url)
        found.add(await peer.result("pid"))
        await peer.close()
        return len(found - known) >= wanted

    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await more():
                    return found - known
            except (ConnectionError, OSError):
                await asyncio.sleep(0.01)


# ---- --reload


async def test_a_save_restarts_with_sockets_open(project: Path) -> None:
    """With --reload a saved file is served by a fresh process on the same port, though a client was connected."""
    async with command("run", "served:app", "--port", "0", "--reload", cwd=project) as server:
        url = await server.url()
        async with busy(url, "nap", 60) as peer:
            write(project, served=APP + "\n\n@app.rpc('news')\nasync def news() -> str:\n    return 'fresh'\n")
            assert (await peer.closed())[0] == 1012
        assert await server.url(count=2) == url
        assert "serves 5 procedures" in [line for line in server.out if "serves" in line][-1]
        assert [line for line in server.err if "change" in line] == [line for line in server.err if "served.py" in line]
        peer = await Peer.open(url)
        assert await peer.result("news") == "fresh"
        await peer.close()
        server.signal(signal.SIGINT)
        assert await server.exit() == 0


async def test_a_syntax_error_waits_for_the_next_save(project: Path) -> None:
    """With --reload a file that cannot be imported is one line, and the next save goes on."""
    async with command("run", "served:app", "--port", "0", "--reload", cwd=project) as server:
        url = await server.url()
        write(project, served="def broken(:\n")
        await server.said(r"^wampkit: served.py:1: SyntaxError: ")
        await server.said(r"the app ended \(exit code 1\); waiting for a change")
        write(project, served=APP)
        assert await server.url(count=2) == url
        assert "Traceback" not in "".join(server.err)
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0


# ---- --workers


async def test_workers_are_replaced_and_end_together(project: Path) -> None:
    """Several processes answer on one port; one that is killed is replaced; SIGTERM ends them all with 0."""
    async with running(project, "--workers", "2", app="procedures:app") as (server, url):
        assert server.out[0].endswith(f"(pid {server.pid}, 2 workers)")
        first = await pids(url, 2)
        assert server.pid not in first
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        (new,) = await pids(url, 1, frozenset(first))
        await server.said(rf"worker {victim} ended \(signal SIGKILL\)")
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0
        assert not any(map(alive, [*first, new]))


async def test_workers_do_not_outlive_their_supervisor(project: Path) -> None:
    """When the supervisor is killed its workers end by themselves and the port is free."""
    async with running(project, "--workers", "2", app="procedures:app") as (server, url):
        children = await pids(url, 2)
        server.signal(signal.SIGKILL)
        await eventually(lambda: not any(map(alive, children)), "the workers end")


async def test_workers_that_never_start(project: Path) -> None:
    """What is wrong with the app is said once, whatever the number of workers."""
    write(project, broken="import nothing_of_that_name\n")
    async with command("run", "broken:app", "--port", "0", "--workers", "3", cwd=project) as server:
        assert await server.exit() == 1
    assert server.err == ["wampkit: broken.py:1: ModuleNotFoundError: No module named 'nothing_of_that_name'"]


async def test_workers_that_keep_crashing(project: Path) -> None:
    """When workers end again and again before they serve, the supervisor gives up with exit code 1."""
    once = "import pathlib\npathlib.Path('started').mkdir()\n"
    write(project, once=once + PROCEDURES)
    async with command("run", "once:app", "--port", "0", "--workers", "2", cwd=project) as server:
        await server.said("giving up")
        assert await server.exit() == 1
    assert "Traceback" not in "".join(server.err)


async def test_a_second_server_with_workers_is_refused(project: Path) -> None:
    """The port of a server with workers is taken for another one too, though both could share it."""
    args = ("run", "procedures:app", "--port", str(free_port()), "--workers", "2")
    async with command(*args, cwd=project) as first:
        await first.url()
        async with command(*args, cwd=project) as second:
            assert await second.exit() == 1
        assert "is in use" in second.err[0]


async def test_a_second_signal_ends_the_workers_at_once(project: Path) -> None:
    """A second signal to the supervisor kills its workers and itself."""
    write(project, lazy=PROCEDURES + NAP)
    async with running(project, "--workers", "2", "--drain", "60", app="lazy:app") as (server, url):
        children = await pids(url, 2)
        peer = await Peer.open(url)
        await peer.send(CALL, "7", "nap")
        await peer.result("pid")
        server.signal(signal.SIGTERM)
        await server.said("a second signal stops at once")
        server.signal(signal.SIGTERM)
        assert await server.exit() == 1
        await eventually(lambda: not any(map(alive, children)), "the workers end")
        await peer.close()


NAP = """

@app.rpc("nap")
async def nap() -> None:
    import asyncio

    await asyncio.sleep(60)
"""


async def test_events_would_be_lost_between_workers(project: Path) -> None:
    """An app with topics and the memory broker is refused several workers: their clients would not hear each other."""
    async with command("run", "served:app", "--port", "0", "--workers", "2", cwd=project) as server:
        assert await server.exit() == 1
    (line,) = server.err
    assert line.startswith("wampkit: --workers 2: this app has topics")
    assert "leave out --workers" in line
