"""Node processes that run the browser's client, talking with the test line by line, and an app for them to call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from wampkit import App, Connection, NotAllowed, WampError

__all__ = ["OWN", "PACKAGE", "Demo", "Script", "node", "run"]

OWN = "own"
"""The WebSocket of Node itself."""

PACKAGE = "ws"
"""The WebSocket of the package `ws`."""

PATIENCE = 15.0
"""Seconds in which a script must have said something or ended."""

HERE = Path(__file__).parents[1] / "browser" / "js"
DEBIAN = "/usr/share/nodejs"
"""Where Debian's packages for Node are."""

NAMES = "assert, ask, CallError, connect, ConnectionLost, deriveKey, failure, finish, say, sign, take, told, until, url"


@functools.cache
def _options() -> list[str]:
    """What Node has to be told so that it has a WebSocket of its own."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.removeprefix("v").partition(".")[0])
    assert major >= 20, f"the client needs Node 20 or later, this is {version}"
    return ["--experimental-websocket"] if major < 22 else []


class Script:
    """A script that runs.

    Attributes:
        complaints: What it wrote to stderr, once it has ended.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.complaints = ""
        self._process = process

    async def said(self, within: float = PATIENCE) -> Any:
        """What it says next, within so many seconds."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), within)
        if not line:
            await self.ended()
        return json.loads(line)

    def tell(self, news: Any = None) -> None:
        """Tell it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(news).encode() + b"\n")

    async def ended(self) -> None:
        """Wait until it has ended by itself, and fail if it failed."""
        out, err = await asyncio.wait_for(self._process.communicate(), PATIENCE)
        self.complaints = err.decode()
        assert self._process.returncode == 0, self.complaints
        assert out == b"", f"it said more: {out!r}"

    async def kill(self) -> None:
        """End it if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate()


@contextlib.asynccontextmanager
async def node(body: str, url: str = "", websocket: str = OWN) -> AsyncIterator[Script]:
    """Run a script beside a test.

    Args:
        body: The script, which finds what `js/script.mjs` exports.
        url: Where its clients connect.
        websocket: Which WebSocket they use, `OWN` or `PACKAGE`.
    """
    prelude = f"import {{ {NAMES} }} from {json.dumps((HERE / 'script.mjs').as_uri())};"
    path = os.pathsep.join(filter(None, [os.environ.get("NODE_PATH"), DEBIAN]))
    process = await asyncio.create_subprocess_exec(
        *("node", "--no-warnings", *_options(), "--input-type=module", "-e", f"{prelude}\n{body}\nfinish();", url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"NODE_PATH": path} | ({"PACKAGE_WS": "1"} if websocket == PACKAGE else {}),
    )
    script = Script(process)
    try:
        yield script
    finally:
        await script.kill()


async def run(body: str, url: str = "", websocket: str = OWN) -> Script:
    """Run a script to its end, which must be a good one."""
    async with node(body, url, websocket) as script:
        await script.ended()
    return script


class Demo:
    """An app for scripts to call.

    Attributes:
        app: The app.
        runs: The arguments of `run` and `hold`, in the order in which they began.
        release: Lets `hold` answer.
        left: Which topics clients have left.
    """

    def __init__(self, **options: Any) -> None:
        self.app = App(prefixes={"calc": "http://example.com/calc#", "chat": "http://example.com/chat/"}, **options)
        self.runs: list[Any] = []
        self.release = asyncio.Event()
        self.left: list[str] = []
        self._procedures()
        self._topics()

    def _procedures(self) -> None:
        @self.app.rpc("calc:add")
        async def add(x: float, y: float) -> float:
            return x + y

        @self.app.rpc("echo")
        async def echo(*args: Any) -> list[Any]:
            return list(args)

        @self.app.rpc("fail")
        async def fail(details: Any = None) -> None:
            raise WampError("calc:error", "it failed", details)

        @self.app.rpc("run")
        async def run(value: Any) -> Any:
            self.runs.append(value)
            return value

        @self.app.rpc("hold")
        async def hold(value: Any) -> Any:
            self.runs.append(value)
            await self.release.wait()
            return value

        @self.app.rpc("whoami")
        async def whoami(conn: Connection) -> Any:
            return conn.user

    def _topics(self) -> None:
        room = self.app.topic("chat:{room}", relay=True)

        @room.on_unsubscribe
        async def leave(room: str) -> None:
            self.left.append(room)

        @self.app.topic("secret").on_subscribe
        async def refuse() -> None:
            raise NotAllowed("members only")
