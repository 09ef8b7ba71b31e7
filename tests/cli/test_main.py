"""The command `wampkit`: where its options come from, and its help."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path

from yarl import URL

from ..support.cli_project import APP, serving
from ..support.command import command, free_port, wampkit, write
from ..support.wire import CALL, ERROR, Peer

Outcome = subprocess.CompletedProcess[str]


async def test_answers_that_are_aiohttps_own_tell_no_versions(project: Path) -> None:
    """What is no HTTP, another path and another method are refused as the socket's path refuses, and closed."""
    told = []
    async with serving(project) as (server, url):
        port = URL(url).port
        for line, status in (("GET /nowhere HTTP/1.1", 404), ("PUT /ws HTTP/1.1", 405), ("no HTTP at all", 400)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{line}\r\nHost: x\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            if int(answer.split()[1]) != status or b"aiohttp" in answer or b"\r\nServer: " not in answer:
                told.append(answer)
        assert [line for line in server.err if "Traceback" in line] == []
    assert told == []


# ---- where options come from


async def test_flags_beat_variables_and_variables_beat_the_file(tmp_path: Path) -> None:
    """Flags beat WAMPKIT_* variables, which beat [tool.wampkit] in pyproject.toml; each of them may name the app."""
    write(tmp_path, shop=APP.replace('print("chatter of the module")', ""))
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.wampkit]\napp = "shop:app"\nhost = "127.0.0.2"\nport = {free_port()}\npath = "/file"\n'
        'log-level = "error"\nbroker = "memory://"\njson = true\ndrain = 1\n'
    )
    variables = {"WAMPKIT_PORT": "0", "WAMPKIT_PATH": "/variable", "WAMPKIT_LOOP": "asyncio", "WAMPKIT_APP": ""}
    async with command("run", "--path", "/flag", cwd=tmp_path, env=variables) as server:
        await server.printed("^{")
        told = json.loads(server.out[0])
        assert told["path"] == "/flag"
        assert told["url"].startswith("ws://127.0.0.2:")
        peer = await Peer.open(told["url"])
        await peer.close()
        server.signal(signal.SIGTERM)
        assert await server.exit() == 0
    assert server.err == [], "log-level is that of the file"


async def test_debug(project: Path) -> None:
    """Callers see the text of unexpected errors with --debug alone."""
    texts = []
    for args in ([], ["--debug"]):
        async with serving(project, *args) as (_, url):
            peer = await Peer.open(url)
            await peer.send(CALL, "7", "crash")
            answer = await peer.next()
            assert answer[0] == ERROR
            texts.append(answer[3])
            await peer.close()
    assert ["private matters" in text for text in texts] == [False, True]


def test_variables_that_are_no_options(project: Path) -> None:
    """A misspelt variable is told of, because it would silently do nothing."""
    done = wampkit("run", "nowhere:app", cwd=project, env={"WAMPKIT_PROT": "9000"})
    assert done.stderr.splitlines()[0] == (
        "wampkit: WAMPKIT_PROT in the environment is no option; did you mean 'WAMPKIT_PORT'?"
    )


def test_variables_that_are_no_options_but_mean_something(project: Path) -> None:
    """What wampkit itself reads from the environment is not complained of."""
    done = wampkit("routes", "shop:app", cwd=project, env={"WAMPKIT_READER": "queued", "WAMPKIT_SECRET": "x"})
    assert done.returncode == 0
    assert "is no option" not in done.stderr


# ---- help


def test_the_command_alone(tmp_path: Path) -> None:
    """Without a command the help is shown, and every command is in it."""
    done = wampkit(cwd=tmp_path)
    assert done.returncode == 2
    assert all(f"  {name} " in done.stderr for name in ("run", "routes", "call", "publish", "subscribe"))
