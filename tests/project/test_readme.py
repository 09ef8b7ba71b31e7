"""The README's snippets run, its commands print what it shows, and its test command is the one that CI calls."""

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from wampkit import App

from ..support.command import environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(README)
MODULES = {body.split()[1]: body for language, body in BLOCKS if language == "python"}
TRANSCRIPTS = [body for language, body in BLOCKS if language == "console"]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with every module of the README, importable."""
    for name, body in MODULES.items():
        (tmp_path / name).write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSION_KEYS", Fernet.generate_key().decode())
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(Path(name).stem, None)


@contextmanager
def running(app: str, directory: Path, *options: str, lines: int = 1) -> Iterator[tuple[int, str]]:
    """`wampkit run` in a directory: its port, and the lines that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "wampkit", "run", app, *options, "--port", str(port)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield port, "".join(process.stdout.readline() for _ in range(lines)).rstrip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def test_every_snippet_names_its_file() -> None:
    """Each Python block is a module with a name, so that it can be run."""
    assert all(re.fullmatch(r"\w+\.py", name) for name in MODULES)
    assert len(MODULES) == sum(language == "python" for language, _ in BLOCKS)


@pytest.mark.parametrize("name", [name for name, body in MODULES.items() if "App(" in body])
async def test_the_apps_start(name: str, written: Path) -> None:
    """Each app of the README starts and stops."""
    app: App = import_module(Path(name).stem).app
    await app.start()
    await app.stop()


def test_the_first_screen(written: Path) -> None:
    """The commands of the first screen print what it shows."""
    lines = TRANSCRIPTS[0].splitlines()
    assert lines[0] == "$ wampkit run --debug chat:app"
    with running("chat:app", written, "--debug", lines=2) as (port, started):
        expected = "\n".join(lines[1:3]).replace("8080", str(port))
        assert re.sub(r"pid \d+", "pid 4242", started) == expected
        for command, output in zip(lines[3::2], lines[4::2], strict=True):
            done = subprocess.run(
                [sys.executable, "-m", "wampkit", *shlex.split(command.removeprefix("$ wampkit "))],
                capture_output=True,
                text=True,
                timeout=30,
                cwd=written,
                env=environment({"WAMPKIT_PORT": str(port)}),
            )
            assert (done.stdout + done.stderr).strip() == output


def test_the_middlewares_are_listed(written: Path) -> None:
    """`wampkit routes --middlewares` prints the list of the middleware snippet in its order."""
    done = subprocess.run(
        [sys.executable, "-m", "wampkit", "routes", "guarded:app", "--middlewares"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=written,
    )
    assert done.returncode == 0, done.stderr
    positions = [done.stdout.find(name) for name in ("AllowOrigins", "Users", "timing")]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert "timing > shout" in done.stdout
    assert "call requires is_admin" in done.stdout


def test_the_door_is_checked(written: Path) -> None:
    """`wampkit check` prints what the README shows of it."""
    lines = next(body for body in TRANSCRIPTS if "wampkit check" in body).splitlines()
    words = shlex.split(lines[0].removeprefix("$ wampkit "))
    done = subprocess.run(
        [sys.executable, "-m", "wampkit", *words], capture_output=True, text=True, timeout=30, cwd=written
    )
    assert done.stdout.splitlines() == lines[1:]
    assert done.returncode == 1


def test_the_client(written: Path) -> None:
    """The client's snippet calls, fails and talks to itself as it says."""
    with running("chat:app", written) as (port, _):
        code = f"import asyncio, client; asyncio.run(client.main('ws://127.0.0.1:{port}/ws'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=written)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "0.25",
        "http://example.com/calc#division-by-zero cannot divide by zero {'x': 1.0}",
        "hello",
    ]


def test_the_tests(written: Path) -> None:
    """The snippet of a test file passes in a project of its own."""
    (written / "pyproject.toml").write_text('[tool.pytest.ini_options]\nasyncio_mode = "auto"\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_chat.py"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=written,
        env=os.environ | {"PYTHONPATH": str(written)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_ci_calls_the_test_command() -> None:
    """What CI runs is the command that the README shows, to the letter."""
    commands = [body.strip() for language, body in BLOCKS if language == "sh"]
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_options_are_those_of_the_app() -> None:
    """The table of options names each option of `App`, with its default."""
    from inspect import signature

    table = README.split("## Options of `App`")[1].split("`App(limits=")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    shown = {"none": (None, ()), "see above": (None,), "Limits()": (None,)}
    for name, parameter in list(signature(App).parameters.items()):
        text = rows[name].strip().strip("`")
        assert parameter.default in shown.get(text, ()) or str(parameter.default) == text.strip('"'), name
    assert list(rows) == list(signature(App).parameters)


async def test_the_login_snippets(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's client logs in to its app, and a wrong password does not."""
    from wampkit import AuthenticationFailed

    from ..support.wire import serve

    monkeypatch.setenv("ANNS_PASSWORD", "correct horse")
    client = import_module("log_in")
    async with serve(import_module("accounts").app) as server:
        assert await client.main(server.url) == "ann"
        monkeypatch.setenv("ANNS_PASSWORD", "incorrect horse")
        with pytest.raises(AuthenticationFailed):
            await client.main(server.url)


@pytest.mark.parametrize("name", ["library", "errors", "news", "guarded", "members", "shop"])
async def test_the_snippets_do_what_they_say(name: str, written: Path) -> None:
    """A taste of each snippet over a real socket."""
    from aiohttp import web

    from wampkit import CallError, connect

    runner = web.AppRunner(import_module(name).app.web_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "ws://{}:{}/ws?user=ann".format(*runner.addresses[0])
    try:
        async with asyncio.timeout(20), connect(url) as client:
            if name == "library":
                book = {"title": "Foundation", "published": "1951-06-01", "shelf": "fiction"}
                assert await client.call("lib:add", book) == 1
                assert await client.call("lib:book/1") == book
                assert await client.call("lib:find", "Found") == [book]
                assert await client.call("lib:admin/clear") == f"cleared by {client.session_id}"
                with pytest.raises(CallError, match="there is no book 1"):
                    await client.call("lib:book/1")
            elif name == "errors":
                with pytest.raises(CallError, match="tea is sold out"):
                    await client.call("buy", "tea")
                with pytest.raises(CallError, match="http://example.com/error#missing"):
                    await client.call("sell", "tea")
            elif name == "news":
                async with client.subscribe("news:desk/sport") as events:
                    assert await events.get(timeout=5) == {"welcome": "sport"}
                async with client.subscribe("news:desk/secret") as events:
                    assert events.accepted is False
            elif name == "shop":
                assert await client.call("whoami") == [None, [], "light"]
                ticket = import_module(name).app.tickets.issue("ann", roles=["staff"])
                async with connect(f"{url}&ticket={ticket}") as known:
                    assert await known.call("whoami") == ["ann", ["staff"], "light"]
            elif name == "members":
                assert await client.call("whoami") == "ann"
                async with client.subscribe("inbox/ann") as events, client.subscribe("inbox/bob") as other:
                    assert other.accepted is False
                    await client.call("warn", "ann", "careful")
                    assert await events.get(timeout=5) == {"text": "careful"}
                async with connect(url.replace("ann", "bob")) as bob:
                    with pytest.raises(CallError, match="role 'staff'"):
                        await bob.call("warn", "ann", "boo")
                async with connect(url.partition("?")[0]) as nobody:
                    assert await nobody.call("ping") == "pong"
                    with pytest.raises(CallError, match="needs a login"):
                        await nobody.call("whoami")
            else:
                with pytest.raises(CallError, match="not allowed here"):
                    await client.call("admin/restart")
                async with client.subscribe("loud") as events:
                    await client.publish("loud", "hello", exclude_me=False)
                    assert await events.get(timeout=5) == "HELLO"
    finally:
        await runner.cleanup()
