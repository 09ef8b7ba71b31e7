"""The commands of the documentation run, and print what the pages show."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from wampkit import connect

from ..support.command import Command, command, environment, free_port
from ..support.pages import MODULES, ROOT, Snippet, page, snippets
from ..support.wire import eventually

SECONDS = 60.0

FAILING = ("wampkit check chat:app --origin https://example.com", "wampkit call calc:divide 1 '\"four\"'")
"""How the commands begin that exit with code 1, as the pages say; all others exit with 0."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with every module of the pages."""
    for name, body in MODULES.items():
        (tmp_path / name).write_text(body)
    return tmp_path


def session_of(snippet: Snippet) -> list[tuple[str, list[str]]]:
    """The commands of a transcript, each with the lines that it prints."""
    parts = re.split(r"^\$ ", snippet.body, flags=re.MULTILINE)[1:]
    return [(lines[0], lines[1:]) for lines in (part.splitlines() for part in parts)]


@pytest.mark.parametrize("snippet", snippets("console"), ids=lambda each: each.key)
async def test_a_transcript_is_what_the_commands_print(snippet: Snippet, project: Path) -> None:
    """Commands print what is shown; those after `wampkit run` talk to its server."""
    env = {"WAMPKIT_PORT": str(free_port())}
    async with AsyncExitStack() as stack:
        for line, printed in session_of(snippet):
            if line.startswith("wampkit run "):
                server = await stack.enter_async_context(command(*shlex.split(line)[1:], cwd=project, env=env))
                await eventually(lambda: len(server.out) >= len(printed), line)  # noqa: B023
                shown = [text.replace(env["WAMPKIT_PORT"], "8080") for text in server.out]
                assert [re.sub(r"pid \d+", "pid 4242", text) for text in shown] == printed
            else:
                await run_and_compare(line, printed, project, env)


async def run_and_compare(line: str, printed: list[str], cwd: Path, env: dict[str, str]) -> None:
    """Run `wampkit ...` and compare what it prints, and its exit code."""
    assert line.startswith("wampkit ")
    assert printed, "a transcript shows what a command prints"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wampkit", *shlex.split(line)[1:]),
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert [text.rstrip() for text in out.decode().splitlines()] == printed
    assert process.returncode == int(line.startswith(FAILING))


# ---- shell


def shell_line(key: str) -> str:
    """The only line of a shell snippet."""
    (line,) = (each.body.strip() for each in snippets("sh") if each.key == key)
    return line


async def runs_the_calculator(line: str, project: Path) -> None:
    """What the README's first command runs when it has installed wampkit serves the calculator."""
    *_, last = line.split(" && ")
    program, *words = shlex.split(last)
    assert program == ".venv/bin/wampkit"
    async with command(*words, cwd=ROOT, env={"WAMPKIT_PORT": "0"}) as server, connect(await server.url()) as client:
        assert await client.call("calc:add", 2, 3) == 5


async def serves_under_gunicorn(line: str, project: Path) -> None:
    """gunicorn serves the site of the page."""
    port = free_port()
    _, *words = shlex.split(line.replace("8080", str(port)))
    path = os.pathsep.join([str(project), environment()["PYTHONPATH"]])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", *words),
        cwd=project,
        env=environment({"PYTHONPATH": path, "SESSION_KEYS": Fernet.generate_key().decode()}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running = Command(process)
    try:
        await running.said("Listening at")
        async with connect(f"ws://127.0.0.1:{port}/ws") as client:
            assert await client.call("calc:divide", 1, 4) == 0.25
    finally:
        process.terminate()
        await running.exit()


async def packs_for_npm(line: str, project: Path) -> None:
    """The npm package is packed from the installed Python package."""
    (project / "python").symlink_to(sys.executable)
    env = environment()
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), str(project), env["PATH"]])
    env["npm_config_cache"] = str(project / "npm")
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line), cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, err.decode()
    assert (project / out.decode().split()[-1]).exists()


SHELL: dict[str, Callable[[str, Path], Awaitable[None]]] = {
    "README.md: python3 -m venv .venv && .venv/bin/pip install -q . "
    "&& .venv/bin/wampkit run --debug examples.calculator:app": runs_the_calculator,
    "docs/lifecycle.md: gunicorn -w 1 --worker-class aiohttp.GunicornWebWorker "
    "--bind 127.0.0.1:8080 chat_site:site": serves_under_gunicorn,
    "docs/javascript.md: npm pack \"$(python -c 'import wampkit, pathlib; "
    'print(pathlib.Path(wampkit.__file__).parent / "javascript")\')"': packs_for_npm,
}
"""How each shell snippet is run."""


@pytest.mark.parametrize("key", SHELL)
async def test_a_command_does_what_its_page_says(key: str, project: Path) -> None:
    """A taste of each shell snippet."""
    await SHELL[key](shell_line(key), project)


def test_the_console_is_told_of_as_in_the_readme() -> None:
    """The console's page begins with the same transcript as the README."""
    (first,) = (each.body for each in page("docs/console.md").snippets if each.language == "console")
    (readme,) = (each.body for each in page("README.md").snippets if each.language == "console")
    assert readme.startswith(first)
