"""The servers that there are: how each is started, what it speaks, and why it cannot be measured here if it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .dialects import ECHO, SOCKET_IO, WAMP, Dialect

__all__ = ["KIT", "KIT_MIDDLEWARE", "Server", "catalogue"]

SERVERS = Path(__file__).parent / "servers"

KIT = "wampkit"
"""The server that all others are compared with."""

KIT_MIDDLEWARE = f"{KIT} + middleware"


@dataclass(frozen=True)
class Server:
    """A server.

    Attributes:
        name: What tables call it.
        dialect: What it speaks.
        command: The command that starts it on the port which replaces `PORT`.
        missing: What is not installed, so that it cannot be measured; empty if it can.
        most: How many connections it can hold.
    """

    name: str
    dialect: Dialect
    command: tuple[str, ...]
    missing: str = ""
    most: int = 1_000_000


def catalogue(*, uvloop: bool = False, ratchet: str = "") -> list[Server]:
    """Every server.

    Args:
        uvloop: Whether those in Python run on uvloop.
        ratchet: The vendor/autoload.php of a directory with cboden/ratchet, or nothing.
    """

    def python(name: str, module: str, dialect: Dialect = WAMP, needs: str = "") -> Server:
        command = (sys.executable, "-m", f"benchmarks.servers.{module}", "PORT", *(["--uvloop"] if uvloop else []))
        missing = f"the Python package {needs}" if needs and find_spec(needs) is None else ""
        return Server(name, dialect, command, missing)

    def wampkit(name: str, module: str) -> Server:
        loop = "uvloop" if uvloop else "asyncio"
        app = f"benchmarks.servers.{module}:app"
        return Server(name, WAMP, (sys.executable, "-m", "wampkit", "run", app, "--port", "PORT", "--loop", loop))

    return [
        wampkit(KIT, "kit"),
        wampkit(KIT_MIDDLEWARE, "kit_middleware"),
        python("by hand", "by_hand"),
        python("shared frame", "shared_frame"),
        python("raw echo", "echo", ECHO),
        python("websockets", "websockets_wamp", needs="websockets"),
        python("python-socketio", "python_socketio", SOCKET_IO, needs="socketio"),
        _node(),
        _php(ratchet),
    ]


def _node() -> Server:
    name = "Socket.IO (Node)"
    if shutil.which("node") is None:
        return Server(name, SOCKET_IO, (), "node")
    found = subprocess.run(
        ["node", "-p", "require.resolve('socket.io')"], capture_output=True, text=True, check=False
    ).stdout.strip()
    missing = "" if found else "the npm package socket.io, here or on NODE_PATH"
    return Server(name, SOCKET_IO, ("node", str(SERVERS / "socketio.mjs"), "PORT", found), missing)


def _php(autoload: str) -> Server:
    if shutil.which("php") is None:
        missing = "php"
    elif not autoload:
        missing = "cboden/ratchet (--ratchet says where)"
    else:
        missing = "" if Path(autoload).is_file() else f"cboden/ratchet: there is no {autoload}"
    command = ("php", str(SERVERS / "ratchet.php"), "PORT", str(Path(autoload).absolute()))
    return Server("Ratchet", WAMP, command, missing, most=1000)  # its usual loop is select(), which ends at 1,024 files
