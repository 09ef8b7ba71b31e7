"""What `wampkit run` does: it listens, serves, drains, stops, reloads, and keeps workers alive."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from wampkit.runner.errors import CommandError
from wampkit.runner.serve import bind

from ..support.command import PATIENCE, Command, command, free_port, write
from ..support.wire import CALL, RESULT, Peer, RawPeer, eventually, has_ipv6

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app that has a topic, and one that has procedures alone."""
    write(tmp_path, served=APP, procedures=PROCEDURES)
    return tmp_path


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


# ---- starting


async def test_the_start_is_told_in_one_line(project: Path) -> None:
    """On start it prints the URL with the path, the numbers of procedures and topics, and the pid that is signalled."""
    async with running(project, "--path", "/live") as (server, url):
        port = url.rpartition(":")[2].partition("/")[0]
        assert server.out == [f"wampkit: ws://127.0.0.1:{port}/live serves 4 procedures and 1 topic (pid {server.pid})"]
        peer = await Peer.open(url)
        assert await peer.result("pid") == server.pid
        await peer.close()


async def test_the_start_is_told_in_json(project: Path) -> None:
    """With --json a script reads where the server is."""
    async with command("run", "served:app", "--port", "0", "--json", cwd=project) as server:
        await server.printed("^{")
        told = json.loads(server.out[0])
        assert told.pop("url").startswith("ws://127.0.0.1:")
        assert told == {"path": "/ws", "procedures": 4, "topics": 1, "console": None, "pid": server.pid}


OPEN = """
from wampkit import AllowOrigins, App

default = App()
listed = App(middlewares=[AllowOrigins("https://example.com")])
anybody = App(middlewares=[AllowOrigins("*")])
narrowed = App(middlewares=[AllowOrigins("*"), AllowOrigins("https://example.com")])
"""


@pytest.mark.parametrize(
    ("name", "warned"), [("default", False), ("listed", False), ("anybody", True), ("narrowed", False)]
)
async def test_only_a_star_is_warned_of(name: str, warned: bool, tmp_path: Path) -> None:
    """`run` warns of an app that lets in the pages of any site, and of no other."""
    write(tmp_path, opened=OPEN)
    async with command("run", f"opened:{name}", "--port", "0", cwd=tmp_path) as running:
        await running.url()
        running.signal(signal.SIGTERM)
        await running.said("stopping")
        await running.exit()
    assert (
        any(re.search(r"WARNING wampkit\.cli: .*any site may connect.*AllowOrigins\(", line) for line in running.err)
        is warned
    )


async def test_the_level_holds_for_an_app_that_has_set_up_its_own_log(tmp_path: Path) -> None:
    """`--log-level` is that of all that wampkit logs, whatever the app's own handlers would show."""
    write(tmp_path, chatty=f'import logging\n\nlogging.basicConfig(level="DEBUG")\n{OPEN}')
    for level, warned in (("warning", True), ("error", False)):
        async with command(
            "run", "chatty:anybody", "--port", "0", "--debug", "--log-level", level, cwd=tmp_path
        ) as server:
            await server.url()
            server.signal(signal.SIGTERM)
            assert await server.exit() == 0
            assert any("pages of any site" in line for line in server.err) is warned
            assert not any("stopping" in line for line in server.err)


async def test_what_is_no_http_is_a_line(project: Path) -> None:
    """Requests that are no HTTP are one line with a count, escaped, and no traceback."""
    async with running(project) as (server, url):
        port = int(url.split(":")[2].split("/")[0])
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nBad\x1b[31m Header\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
            writer.close()
            await writer.wait_closed()
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0
        said = "\n".join(server.err)
    assert 1 <= said.count("no HTTP") <= 2
    assert "Traceback" not in said
    assert "\x1b" not in said


async def test_a_port_in_use(project: Path) -> None:
    """A port that somebody listens on is a line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with command("run", "served:app", "--port", port, cwd=project) as server:
            assert await server.exit() == 1
    assert server.err == [
        f"wampkit: port {port} of 127.0.0.1 is in use; stop what listens there, or choose another with --port"
    ]
    assert server.out == []


def test_a_privileged_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that the user may not open is refused with a hint at those that are free for all."""

    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(CommandError, match="port 80 is not for this user; choose one from 1024 up"):
        bind("127.0.0.1", 80)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
async def test_ipv6(project: Path) -> None:
    """An IPv6 address is served and shown in brackets."""
    async with running(project, "--host", "::1") as (_, url):
        assert url.startswith("ws://[::1]:")
        peer = await Peer.open(url)
        await peer.close()


# ---- stopping


@pytest.mark.parametrize(
    ("number", "loop"),
    [(signal.SIGTERM, "asyncio"), (signal.SIGTERM, "uvloop"), (signal.SIGINT, "asyncio"), (signal.SIGINT, "uvloop")],
)
async def test_an_idle_server_stops_at_once(project: Path, number: signal.Signals, loop: str) -> None:
    """SIGTERM and Ctrl-C stop an idle server, with clients connected, long before --drain: 1012 for them, 0 for us."""
    async with running(project, "--loop", loop, "--drain", "60") as (server, url):
        polite, silent = await Peer.open(url), await RawPeer.open(int(url.split(":")[2].partition("/")[0]))
        server.signal(number)
        assert await server.exit() == 0
        assert (await polite.closed())[0] == 1012
        assert (await silent.read_close())[0] == 1012
        assert server.out[1:] == ["bye"]
        assert "Traceback" not in "".join(server.err)
        await polite.close()
        silent.sock.close()


async def test_a_call_that_began_is_answered(project: Path) -> None:
    """On SIGTERM a call under way is answered, then its socket is closed with 1012; nobody new is let in."""
    async with running(project) as (server, url), busy(url, "nap", 0.5) as peer:
        server.signal(signal.SIGTERM)
        await server.said("SIGTERM: stopping")
        with pytest.raises(OSError, match="Cannot connect"):
            await Peer.open(url)
        assert await peer.next() == [RESULT, "7", "rested"]
        assert (await peer.closed())[0] == 1012
        assert await server.exit() == 0


@pytest.mark.parametrize("call", ["nap", "block a thread"])
async def test_the_drain_has_a_deadline(project: Path, call: str) -> None:
    """A call that takes longer than --drain is given up, even one that blocks a thread for good; the exit is clean."""
    args = [60] if call == "nap" else []
    async with running(project, "--drain", "0.2") as (server, url), busy(url, call, *args) as peer:
        server.signal(signal.SIGTERM)
        assert (await peer.closed())[0] == 1012
        assert await server.exit() == 0
        assert server.out[1:] == ["bye"]


@pytest.mark.parametrize("call", ["nap", "block the loop"])
async def test_a_second_signal_stops_at_once(project: Path, call: str) -> None:
    """A second signal ends the process at once, even one whose loop is blocked, without a traceback."""
    args = [60] if call == "nap" else []
    async with running(project, "--drain", "60") as (server, url), busy(url, call, *args):
        server.signal(signal.SIGTERM)
        if call == "nap":
            await server.said("a second signal stops at once")
        else:
            await eventually(lambda: not pending(server.pid, signal.SIGTERM))
        server.signal(signal.SIGINT)
        assert await server.exit() == 1
        assert "Traceback" not in "".join(server.err)


def pending(pid: int, number: int) -> bool:
    """Whether a signal has been sent to a process and not been taken yet."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["ShdPnd"], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("stage", ["import", "start"])
async def test_a_signal_while_it_starts(project: Path, stage: str) -> None:
    """A signal ends a server that is still importing the app, or still running its start-up hooks."""
    write(
        project,
        tardy=f"""
import asyncio, time
from wampkit import App
app = App()
if {stage == "import"}:
    print("waiting", flush=True)
    time.sleep(60)

@app.on_startup
async def wait() -> None:
    print("waiting", flush=True)
    await asyncio.sleep(60)
""",
    )
    async with command("run", "tardy:app", "--port", "0", cwd=project) as server:
        await server.printed("waiting")
        server.signal(signal.SIGINT)
        assert await server.exit() == 0
        assert "Traceback" not in "".join(server.err)


async def test_a_failure_to_stop(project: Path) -> None:
    """A life span that fails at the end is a line that names the user's code, and exit code 1."""
    write(
        project,
        sore="""
from contextlib import asynccontextmanager
from wampkit import App

@asynccontextmanager
async def lifespan(app):
    yield
    raise RuntimeError("the till is open")

app = App(lifespan=lifespan)
""",
    )
    async with running(project, app="sore:app") as (server, _):
        server.signal(signal.SIGTERM)
        assert await server.exit() == 1
    assert server.err[-1] == "wampkit: the app failed to stop: sore.py:8: RuntimeError: the till is open"
    assert "Traceback" not in "".join(server.err)


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
