"""`wampkit run`: how it starts, what it logs, and how signals stop it."""

import asyncio
import errno
import json
import re
import signal
import socket
from pathlib import Path

import pytest

from wampkit.runner.errors import CommandError
from wampkit.runner.serve import bind

from ..support.command import command, write
from ..support.served import busy, running
from ..support.wire import RESULT, Peer, RawPeer, eventually, has_ipv6

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
