"""`wampkit check`: the door as it is configured, and what a handshake would meet there and why."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wampkit.cli.check import attempt_from, report_on
from wampkit.cli.main import _run

from ..support.command import wampkit, write
from ..support.tables import rows

DOOR = """
import contextlib
import logging

from aiohttp import web

from wampkit import AllowHosts, AllowOrigins, App, BlockAddresses, MemoryBroker, NotAllowed, Refused, TrustedProxies

print("chatter of the module")


class Users:
    '''Needs its lifespan, as a pool would.'''

    names = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        assert len(app.connections) == 0
        self.names = {"key-of-ann": "ann\\x1b[2J"}
        yield
        self.names = None

    def describe(self):
        return "knows users by\\ntheir cookie"

    async def connect(self, connection):
        key = connection.request.cookies.get("key") or connection.request.query.get("ticket")
        if key is None:
            return "no cookie\\x1b[31m came"
        if key == "crash":
            raise RuntimeError("out of order")
        if key not in self.names:
            raise Refused("who are you?", "the cookie is nobody's")
        connection.user = self.names[key]


class Silent:
    async def connect(self, connection): ...

    async def message(self, message, call_next):
        return await call_next(message)


class Teapot:
    async def connect(self, connection):
        if "X-Tea" in connection.request.headers:
            raise web.HTTPUnauthorized(text="tea first")
        if "X-Coffee" in connection.request.headers:
            raise NotAllowed("no coffee")


async def messages_only(message, call_next):
    return await call_next(message)


class NeverStarted(MemoryBroker):
    async def start(self, deliver):
        raise AssertionError("the broker must not be started")


gates = [BlockAddresses("203.0.113.0/24", "unix"), AllowHosts("example.com", "127.0.0.1"), messages_only, Users()]
app = App(middlewares=[*gates, Silent(), Teapot()], trusted_proxies=["10.0.0.0/8"], broker=NeverStarted())
listed = App(
    middlewares=[AllowOrigins("https://*.example.com", "same-origin"), Users()],
    trusted_proxies=TrustedProxies("10.0.0.1", header="Forwarded"),
)
anybody = App(middlewares=[AllowOrigins("*")])
bare = App()


@app.on_startup
def never():
    raise AssertionError("the app must not be started")


class Broken:
    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        raise OSError("no database")
        yield

    async def connect(self, connection): ...


broken = App(middlewares=[Broken()])
wrong = App()
wrong.add_rpc("x", lambda: None)
wrong.add_rpc("x", lambda: None)
"""

SHOWN = """\
proxies: the client's address is believed of 10.0.0.0/8 (X-Forwarded-For)
1. BlockAddresses  refuses 203.0.113.0/24, unix sockets
2. AllowHosts      lets in clients that asked for example.com, 127.0.0.1
3. AllowOrigins    lets in pages of the server's own origin and clients without Origin (by default)
4. Users           knows users by their cookie
5. Silent
6. Teapot
"""


@dataclass
class Done:
    """A command that was run."""

    stdout: str
    stderr: str
    returncode: int


Here = Callable[..., Done]


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Run the command in this process, which takes a tenth of the time."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)

    def run(*args: str) -> Done:
        sys.modules.pop("door", None)
        code = _run(args)
        return Done(*capsys.readouterr(), code)

    yield run
    sys.modules.pop("door", None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with the module `door`."""
    write(tmp_path, door=DOOR)
    return tmp_path


def test_the_door_is_shown(project: Path) -> None:
    """Without anything to try, check prints the gates of the handshake in their order, the default one included."""
    done = wampkit("check", "door:app", cwd=project)
    assert done.stdout == SHOWN
    assert done.stderr == "chatter of the module\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("app", "line"),
    [
        ("listed", "1. AllowOrigins  lets in pages of the server's own origin, https://*.example.com"),
        ("anybody", "1. AllowOrigins  lets in the pages of any site"),
        ("bare", "1. AllowOrigins  lets in pages of the server's own origin and clients without Origin (by default)"),
        ("bare", "proxies: none is trusted"),
        ("listed", "proxies: the client's address is believed of 10.0.0.1 (Forwarded)"),
    ],
)
def test_each_kind_of_door_is_shown(app: str, line: str, here: Here) -> None:
    """What the gates do is told in words."""
    assert line in here("check", f"door:{app}").stdout.splitlines()


TRIALS: list[tuple[list[str], int, str]] = [
    # options, exit code, the lines that tell of the trial
    (
        ["--origin", "https://example.com", "--host", "example.com"],
        1,
        """\
from 127.0.0.1, without TLS
1. BlockAddresses  passes: 127.0.0.1 is not in the list
2. AllowHosts      passes: 'example.com' port 80 is in the list
3. AllowOrigins    refuses: the origin 'https://example.com' differs from http://example.com in its scheme: is a TLS \
proxy in front? name it with trusted_proxies
refused with HTTP 403: pages of this origin may not connect
""",
    ),
    (
        ["--origin", "https://example.com", "--url", "wss://example.com/ws?ticket=key-of-ann"],
        0,
        """\
from 127.0.0.1, with TLS
1. BlockAddresses  passes: 127.0.0.1 is not in the list
2. AllowHosts      passes: 'example.com' port 443 is in the list
3. AllowOrigins    passes: the origin 'https://example.com' is the server's own
4. Users           passes
5. Silent          passes
6. Teapot          passes
let in as user 'ann\\x1b[2J'
""",
    ),
    (
        ["--address", "203.0.113.7", "--cookie", "key=key-of-ann"],
        1,
        """\
from 203.0.113.7, without TLS
1. BlockAddresses  refuses: 203.0.113.7 is in the list, as 203.0.113.0/24
refused with HTTP 403: this address may not connect
""",
    ),
    (
        ["--address", "::ffff:10.1.1.1", "--header", "X-Forwarded-For: 203.0.113.7"],
        1,
        """\
from 203.0.113.7, without TLS
1. BlockAddresses  refuses: 203.0.113.7 is in the list, as 203.0.113.0/24
refused with HTTP 403: this address may not connect
""",
    ),
    (
        ["--address", "198.51.100.1", "--header", "X-Forwarded-For: 203.0.113.7", "--host", "evil.example"],
        1,
        """\
X-Forwarded-For is ignored: the peer is no trusted proxy
from 198.51.100.1, without TLS
1. BlockAddresses  passes: 198.51.100.1 is not in the list
2. AllowHosts      refuses: 'evil.example' port 80 is none of example.com, 127.0.0.1
refused with HTTP 403: this server does not answer to that host name
""",
    ),
    (
        ["--address", "10.1.1.1", "--header", "X-Forwarded-For: unknown"],
        1,
        """\
refused with HTTP 400: the address of this client cannot be read (a trusted proxy's X-Forwarded-For names 'unknown', \
which is no address)
""",
    ),
    (
        ["--address", "unix"],
        1,
        """\
from a unix socket, without TLS
1. BlockAddresses  refuses: a unix socket is in the list, as unix
refused with HTTP 403: this address may not connect
""",
    ),
    (
        ["--cookie", "other=1"],
        0,
        """\
from 127.0.0.1, without TLS
1. BlockAddresses  passes: 127.0.0.1 is not in the list
2. AllowHosts      passes: '127.0.0.1' port 8080 is in the list
3. AllowOrigins    passes: no Origin came, so that this is no page
4. Users           passes: no cookie\\x1b[31m came
5. Silent          passes
6. Teapot          passes
let in; no gate says who it is
""",
    ),
]


@rows(("options", "code", "lines"), TRIALS)
def test_a_handshake_is_tried(options: list[str], code: int, lines: str, here: Here) -> None:
    """Each gate says what it found until one refuses, and the last line says what the client would meet."""
    done = here("check", "door:app", *options)
    assert done.stdout == f"{SHOWN}\n{lines}"
    assert done.returncode == code
    assert done.stderr == "chatter of the module\n"


@rows(
    ("options", "ending"),
    [
        (["--cookie", "key=wrong"], ["4. Users           refuses: the cookie is nobody's",
         "refused with HTTP 403: who are you?"]),
        (["--url", "/ws?ticket=wrong"], ["4. Users           refuses: the cookie is nobody's",
         "refused with HTTP 403: who are you?"]),
        (["--cookie", "other=1", "--cookie", "key=wrong"], ["4. Users           refuses: the cookie is nobody's",
         "refused with HTTP 403: who are you?"]),
        (["--header", "X-Tea: yes"], ["6. Teapot          refuses: tea first", "refused with HTTP 401: tea first"]),
        (["--header", "X-Coffee: yes"], ["6. Teapot          refuses: no coffee", "refused with HTTP 403: no coffee"]),
        (["--origin", "null"], ["3. AllowOrigins    refuses: the origin is 'null', which sandboxed frames, files and "
         "redirected pages send", "refused with HTTP 403: pages of this origin may not connect"]),
        (["--origin", ""], ["3. AllowOrigins    refuses: the Origin header is empty",
         "refused with HTTP 403: pages of this origin may not connect"]),
        (["--header", "Origin: http://a", "--header", "Origin: http://b"], [
         "3. AllowOrigins    refuses: 2 Origin headers came",
         "refused with HTTP 403: pages of this origin may not connect"]),
        (["--header", "Sec-WebSocket-Protocol: other"], ["", "refused with HTTP 400: this server speaks WAMP v1: offer "
         "the WebSocket subprotocol 'wamp'"]),
        (["--header", "Upgrade: h2c"], ["", "refused with HTTP 426: this is a WAMP v1 WebSocket: connect with a "
         "WebSocket client that offers the subprotocol 'wamp'"]),
    ],
)  # fmt: skip
def test_what_refuses_is_the_end(options: list[str], ending: list[str], here: Here) -> None:
    """The last two lines name the gate with its reason and the answer, whatever kind of refusal it is."""
    done = here("check", "door:app", *options)
    assert done.stdout.splitlines()[-2:] == ending
    assert done.returncode == 1


def test_a_gate_that_fails(project: Path) -> None:
    """A gate that fails is told of with the place in the code; a client would get HTTP 500."""
    done = wampkit("check", "door:app", "--cookie", "key=crash", cwd=project)
    lines = done.stdout.splitlines()
    assert lines[-2].startswith("4. Users           fails: door.py:")
    assert lines[-2].endswith("RuntimeError: out of order")
    assert lines[-1].startswith("refused with HTTP 500")
    assert done.returncode == 1


def test_what_is_no_http_is_refused(project: Path) -> None:
    """A header that HTTP forbids meets aiohttp before any gate, as it would on a real socket."""
    done = wampkit("check", "door:app", "--origin", "https://example.com\x01", cwd=project)
    assert done.stdout.splitlines()[-1].startswith("refused with HTTP 400: ")
    assert "\x01" not in done.stdout
    assert done.returncode == 1


def test_other_proxies_are_tried(project: Path) -> None:
    """`--trusted-proxies` means here what it means for `run`, in the environment too."""
    options = ["--address", "192.0.2.1", "--header", "X-Forwarded-For: 203.0.113.7"]
    for extra, env in (["--trusted-proxies", "192.0.2.1"], {}), ([], {"WAMPKIT_TRUSTED_PROXIES": "192.0.2.1"}):
        done = wampkit("check", "door:app", *options, *extra, cwd=project, env=env)
        assert "believed of 192.0.2.1 (X-Forwarded-For)" in done.stdout
        assert "refused with HTTP 403: this address may not connect" in done.stdout


def test_options_of_other_commands_are_not_tried(project: Path) -> None:
    """What the file and the environment say for other commands, such as the host to listen on, is not tried."""
    (project / "pyproject.toml").write_text('[tool.wampkit]\nhost = "0.0.0.0"\norigin = "https://example.com"\n')
    done = wampkit("check", "door:app", cwd=project, env={"WAMPKIT_HOST": "::1", "WAMPKIT_HEADER": "A: b"})
    assert done.stdout == SHOWN


def test_json(project: Path) -> None:
    """--json prints the same for scripts."""
    done = wampkit("check", "door:app", "--json", cwd=project)
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["proxies"] == ["10.0.0.0/8"]
    assert told["header"] == "X-Forwarded-For"
    assert [(gate["name"], gate["default"]) for gate in told["gates"]] == [
        ("BlockAddresses", False),
        ("AllowHosts", False),
        ("AllowOrigins", True),
        ("Users", False),
        ("Silent", False),
        ("Teapot", False),
    ]
    assert (told["trial"], told["let_in"]) == (None, True)
    done = wampkit("check", "door:app", "--json", "--address", "203.0.113.7", cwd=project)
    told = json.loads(done.stdout)
    assert told["let_in"] is False
    assert told["trial"]["status"] == 403
    assert told["trial"]["address"] == "203.0.113.7"
    assert told["trial"]["steps"] == [
        {"gate": "BlockAddresses", "outcome": "refuses", "note": "203.0.113.7 is in the list, as 203.0.113.0/24"}
    ]
    assert done.returncode == 1


@rows(
    ("options", "words"),
    [
        (["--address", "1"], "'1' is no address"),
        (["--address", "example.com"], "is no address"),
        (["--address", "\x1b[31m"], "is no address"),
        (["--cookie", "name"], "must have the form NAME=VALUE"),
        (["--header", "name"], "must have the form 'Name: value'"),
        (["--header", "X: a\r\nY: b"], "line break"),
        (["--origin", "a\nb"], "line break"),
        (["--host", "a\r\n\r\nGET / HTTP/1.1"], "line break"),
        (["--url", "ws"], "is neither a path"),
        (["--url", "ftp://example.com/"], "is neither a path"),
        (["--url", "/a b"], "is no URL"),
        (["--url", "/\x1b"], "is no URL"),
        (["--trusted-proxies", "x"], "--trusted-proxies"),
        (["--orign", "x"], "--origin"),
    ],
)
def test_a_wrong_command_is_one_line(options: list[str], words: str, here: Here) -> None:
    """What cannot be tried is one printable line and exit code 2."""
    done = here("check", "door:app", *options)
    assert done.returncode == 2
    said = done.stderr.removeprefix("chatter of the module\n")
    assert words in said
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("app", "words", "code"),
    [
        ("door:broken", "Broken failed to start: door.py:", 1),
        ("door:wrong", "x", 1),
        ("door:nothing", "there is no 'nothing'", 1),
        ("nowhere:app", "no module 'nowhere'", 1),
    ],
)
def test_an_app_that_cannot_be_tried_is_one_line(app: str, words: str, code: int, project: Path) -> None:
    """An app that cannot work is one line and exit code 1."""
    done = wampkit("check", app, "--cookie", "a=b", cwd=project)
    assert done.returncode == code
    said = done.stderr.removeprefix("chatter of the module\n")
    assert words in said
    assert said.count("\n") == 1


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that was tried is not running, and can be tried again and started."""
    from wampkit import App, BlockAddresses

    gate = BlockAddresses("203.0.113.7")
    app = App(middlewares=[gate])
    for _ in range(2):
        report = report_on(app, attempt_from(address="203.0.113.7"))
        assert not report.let_in
        assert not app.running
    gate.block("203.0.113.8")
    assert attempt_from() is None


def test_a_description_that_fails_is_one_line(here: Here, project: Path) -> None:
    """A gate that cannot tell what it does is named with the place in its code."""
    module = project / "door.py"
    module.write_text(DOOR.replace('return "knows users by', 'return 1 / 0, "knows users by'))
    done = here("check", "door:app")
    assert done.returncode == 1
    assert "Users.describe failed: door.py:" in done.stderr
    assert "ZeroDivisionError" in done.stderr
