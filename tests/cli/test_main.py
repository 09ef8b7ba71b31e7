"""The command `wampkit`: its options from three sources, what it prints, and one line for each mistake."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from ..support.command import PATIENCE, Command, command, environment, free_port, wampkit, write
from ..support.tables import rows
from ..support.wire import CALL, ERROR, Peer

Outcome = subprocess.CompletedProcess[str]

APP = """
from enum import Enum
from typing import Annotated, Any

from msgspec import Meta, Struct

from wampkit import AllowOrigins, App, Call, Connection, Depends, NotAllowed, Router, Topic, WampError


class Colour(Enum):
    RED = "red"


class Message(Struct):
    text: str


class Users:
    async def connect(self, connection): ...

    async def message(self, message, call_next):
        return await call_next(message)


async def timing(message, call_next):
    return await call_next(message)


async def admins(message, call_next):
    return await call_next(message)


def database():
    return None


app = App(
    prefixes={"calc": "http://example.com/calc#"},
    middlewares=[AllowOrigins("https://example.com", allow_missing=True), Users(), timing],
)


@app.rpc("calc:add", timeout=5)
async def add(x: float, y: float = 1) -> float:
    \"\"\"Add two numbers.

    Not more.
    \"\"\"
    return x + y


@app.rpc("paint/{name}")
def paint(name: str, conn: Connection, call: Call, colour: Annotated[Colour, Meta(title="c")] = Colour.RED,
          *more: int, db: Annotated[Any, Depends(database)]) -> None: ...


@app.rpc("fail")
async def fail():
    raise WampError("http://example.com/error#no", "no \\x1b[31mway\\nout", {"why": "\\x1b[2J"})


@app.rpc("crash")
async def crash():
    raise RuntimeError("private matters")


@app.rpc("echo")
async def echo(value: Any, conn: Connection) -> Any:
    return [value, conn.request.headers.get("X-Test"), conn.request.headers.get("Origin")]


router = Router("admin/", middlewares=[admins])


@router.rpc("stop")
async def stop(*reasons): ...


app.include(router)


@app.topic("room/{name}")
async def room(event: Message, topic: Topic, name: str) -> dict:
    return {"room": name, "text": event.text}


@app.topic("secret").on_subscribe
async def refuse():
    raise NotAllowed("members only")


app.topic("lobby", relay=True)
app.topic("news")


@app.rpc("say")
async def say(topic: str, *events: Any) -> None:
    for event in events:
        await app.publish(topic, event)


print("chatter of the module")
"""

ROUTES = """\
prefix     calc          http://example.com/calc#
procedure  calc:add      (x: float, y: float = 1) -> float within 5 s                                   Add two numbers.
procedure  paint/{name}  (colour: Annotated[Colour, Meta(title='c')] = Colour.RED, *more: int) -> None
procedure  fail          ()
procedure  crash         ()
procedure  echo          (value: Any) -> Any
procedure  say           (topic: str, *events: Any) -> None
procedure  admin/stop    (*reasons)
topic      room/{name}   handler (event: Message) -> dict
topic      secret        server only
topic      lobby         relay
topic      news          server only
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an app."""
    directory = tmp_path_factory.mktemp("project")
    write(directory, shop=APP)
    return directory


@asynccontextmanager
async def serving(project: Path, *args: str) -> AsyncIterator[tuple[Command, str]]:
    """The app under `wampkit run`, and its URL."""
    async with command("run", "shop:app", "--port", "0", *args, cwd=project) as server:
        yield server, await server.url()


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


async def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, run while this test's loop goes on."""
    return await asyncio.to_thread(wampkit, *args, cwd=cwd)


# ---- routes


def test_routes(project: Path) -> None:
    """Each route is a line: kind, URI, what is sent as it was written, who may publish, the docstring's first line."""
    done = wampkit("routes", "shop:app", cwd=project)
    assert done.stdout == ROUTES
    assert done.stderr == "chatter of the module\n"
    assert done.returncode == 0


def test_routes_with_middlewares(project: Path) -> None:
    """--middlewares shows what handshakes pass, and what each route's messages pass, outermost first."""
    lines = wampkit("routes", "shop:app", "--middlewares", cwd=project).stdout.splitlines()
    assert lines[0] == "handshake  AllowOrigins > Users"
    assert lines[lines.index("procedure  admin/stop    (*reasons)") + 1] == "           through Users > timing > admins"
    assert lines[lines.index("topic      lobby         relay") + 1] == "           through Users > timing"


def test_routes_in_json(project: Path) -> None:
    """--json prints one document that a script can read, with full URIs, middlewares and JSON Schemas."""
    listing = json.loads(wampkit("routes", "shop:app", "--json", cwd=project).stdout)
    assert listing["prefixes"] == {"calc": "http://example.com/calc#"}
    assert listing["handshake"] == ["AllowOrigins", "Users"]
    by_name = {route["declared"]: route for route in listing["routes"]}
    assert by_name["calc:add"] == {
        "kind": "procedure",
        "declared": "calc:add",
        "uri": "http://example.com/calc#add",
        "publish": None,
        "signature": "(x: float, y: float = 1) -> float",
        "timeout": 5,
        "doc": "Add two numbers.",
        "middlewares": ["Users", "timing"],
        "requires": {},
        "documentation": "Add two numbers.\n\nNot more.",
        "variables": [],
        "parameters": [
            {"name": "x", "schema": {"type": "number"}, "required": True, "variadic": False},
            {"name": "y", "schema": {"type": "number"}, "required": False, "variadic": False, "default": 1},
        ],
        "definitions": {},
    }
    assert [by_name[name]["publish"] for name in ("room/{name}", "lobby", "news")] == [
        "handler",
        "relay",
        "server only",
    ]


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


# ---- mistakes


MISTAKES = [
    ("run nowhere:app", "wampkit: no module 'nowhere' in {here} or on the Python path", 1),
    ("run shop:ap", "wampkit: there is no 'ap' in shop (shop.py); did you mean 'app'?", 1),
    ("run shop:router", "wampkit: shop:router is a Router, not an App; did you mean shop:app?", 1),
    ("run broken:app", "wampkit: broken.py:1: ModuleNotFoundError: No module named 'nothing_here'", 1),
    ("routes broken:app", "wampkit: broken.py:1: ModuleNotFoundError: No module named 'nothing_here'", 1),
    ("run", "wampkit: which app?", 2),
    ("run wrong:app", "wampkit: x (f, {here}/wrong.py:6): parameter 'y': JSON cannot be converted to App", 1),
    ("routes wrong:app", "wampkit: x (f, {here}/wrong.py:6): parameter 'y': JSON cannot be converted to App", 1),
    ("run sour:app --port 0", "wampkit: the app failed to start: sour.py:6: OSError: the database is gone", 1),
    ("run calm:app --port 70000", "wampkit run: Invalid value for '--port': 70000 is not in the range", 2),
    ("run calm:app --workers 0", "wampkit run: Invalid value for '--workers': 0 is not in the range", 2),
    ("run calm:app --drain nan", "wampkit run: Invalid value for '--drain': 'nan' is no number of seconds", 2),
    ("run calm:app --path ws", "wampkit run: Invalid value for '--path': 'ws' is no path such as /ws", 2),
    ("run calm:app --host nowhere.invalid", "wampkit: host 'nowhere.invalid': ", 1),
    ("run calm:app --host 203.0.113.77", "wampkit: host '203.0.113.77' is no address of this machine", 1),
    ("run calm:app --broker carrier://:pigeon@x", "wampkit: --broker: there is no broker for carrier://", 1),
    ("run calm:app --reload --workers 2", "wampkit: --reload runs one process; leave out --workers", 2),
    ("run calm:app --prot 1", "wampkit run: No such option '--prot'", 2),
    ("walk", "wampkit: No such command 'walk'", 2),
    ("call 127.0.0.1:8080 f", "wampkit call: '127.0.0.1:8080' is no WebSocket URL; write ws://host:port/path", 2),
    ("call ws://127.0.0.1:{free}/ws f", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("publish ws://127.0.0.1:{free}/ws t 1", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("subscribe ws://127.0.0.1:{free}/ws t", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("call ws://nowhere.invalid/ws f", "wampkit: ws://nowhere.invalid/ws: ", 1),
    (
        "call ws://127.0.0.1:{free}/ws f 1 hello",
        "wampkit call: the argument hello is not JSON; quote text twice: '\"hello\"'",
        2,
    ),
    ("call ws://127.0.0.1:{free}/ws f NaN", "wampkit call: the argument NaN is not JSON", 2),
    ("call ws://127.0.0.1:{free}/ws f --tiemout", "wampkit call: the argument --tiemout is not JSON", 2),
    ("publish ws://127.0.0.1:{free}/ws t {{x}}", "wampkit publish: the argument {{x}} is not JSON", 2),
    ("call ws://127.0.0.1:{free}/ws f --prefix calc", "wampkit call: Invalid value for '--prefix': 'calc' must", 2),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the apps of `MISTAKES`."""
    directory = tmp_path_factory.mktemp("mistakes")
    write(
        directory,
        shop="from wampkit import App, Router\napp, router = App(), Router()\n",
        calm="from wampkit import App\napp = App()\n",
        broken="import nothing_here\n",
        wrong="from wampkit import App\n\napp = App()\n\n\n@app.rpc('x')\ndef f(y: App): ...\n",
        sour="from wampkit import App\napp = App()\n\n@app.on_startup\ndef start():\n"
        "    raise OSError('the database is gone')\n",
    )
    return directory


@rows(("args", "text", "code"), MISTAKES)
def test_a_mistake_is_one_line(mistaken: Path, args: str, text: str, code: int) -> None:
    """Each mistake is one clear line on stderr and a non-zero exit code."""
    names = {"here": mistaken, "free": free_port()}
    done = wampkit(*args.format(**names).split(), cwd=mistaken)
    (line,) = done.stderr.splitlines()
    assert line.startswith(text.format(**names))
    assert "pigeon" not in line, "the password of a broker"
    assert done.stdout == ""
    assert done.returncode == code


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("prot = 1", "wampkit: pyproject.toml: [tool.wampkit] has no key 'prot'; did you mean 'port'?"),
        ("port = true", "wampkit run: [tool.wampkit] in pyproject.toml: Invalid value for '--port': 'true'"),
        ("port = 80.5", "wampkit run: [tool.wampkit] in pyproject.toml: Invalid value for '--port': '80.5'"),
        ("port = [[1]]", "wampkit: pyproject.toml: [tool.wampkit] port: no option takes this"),
        ("port =", "wampkit: pyproject.toml: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, line: str, text: str) -> None:
    """What is wrong in pyproject.toml is one line that says where, and exit code 2."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.wampkit]\n{line}\n")
    done = wampkit("run", cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(text)
    assert done.returncode == 2


def test_a_mistake_in_a_variable_is_one_line(tmp_path: Path) -> None:
    """What is wrong in a variable names the variable."""
    done = wampkit("run", cwd=tmp_path, env={"WAMPKIT_PORT": "http"})
    assert done.stderr.startswith("wampkit run: WAMPKIT_PORT: Invalid value for '--port': 'http'")
    assert done.returncode == 2


def test_the_traceback_can_be_seen(tmp_path: Path) -> None:
    """With --log-level debug the traceback of the user's own mistake is shown, and the line as its last."""
    write(tmp_path, broken="import nothing_here\n")
    done = wampkit("run", "broken:app", "--log-level", "debug", cwd=tmp_path)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("wampkit: broken.py:1: ModuleNotFoundError")


@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [("watchfiles", "--reload", "wampkit[reload]"), ("uvloop", "--loop uvloop", "wampkit[speed]")],
)
def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, module: str, args: str, extra: str) -> None:
    """An option whose package is missing says what to install; without the option nobody misses it."""
    write(tmp_path, calm="from wampkit import App\napp = App()\nraise OSError('this far')\n")
    write(tmp_path, **{module: "raise ImportError\n"})
    done = wampkit("run", "calm:app", *args.split(), cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 1
    assert extra in done.stderr
    assert done.returncode != 0
    assert "this far" in wampkit("run", "calm:app", cwd=tmp_path).stderr


# ---- call, publish, subscribe


async def test_call(project: Path) -> None:
    """`call` prints the result as JSON, with --json in one line; arguments are JSON, negative numbers too."""
    async with serving(project) as (_, url):
        done = await run("call", url, "calc:add", "2", "-3.5", cwd=project)
        assert (done.stdout, done.stderr, done.returncode) == ("-1.5\n", "", 0)
        options = ["--json", "--header", "X-Test: a: b", "--origin", "https://example.com"]
        done = await run("call", url, *options, "echo", '{"ü": "\\u001b[31m\\u202e"}', cwd=project)
        assert done.stdout == '[{"ü": "\\u001b[31m\\u202e"}, "a: b", "https://example.com"]\n'
        done = await run("call", url, "--prefix", "c=http://example.com/calc#", "c:add", "1", cwd=project)
        assert done.stdout == "2.0\n"


async def test_a_call_that_fails(project: Path) -> None:
    """A CALLERROR is its URI and description, then its details as JSON, on stderr, fit for a terminal; exit code 1."""
    async with serving(project) as (_, url):
        done = await run("call", url, "fail", cwd=project)
        assert done.stderr == 'http://example.com/error#no: no \\x1b[31mway out\n{"why": "\\u001b[2J"}\n'
        assert (done.stdout, done.returncode) == ("", 1)


async def test_a_handshake_that_is_refused(project: Path) -> None:
    """A refused handshake is one line with the HTTP status, and exit code 1."""
    async with serving(project) as (_, url):
        done = await run("call", url, "--origin", "http://evil.example", "echo", "1", cwd=project)
        (line,) = done.stderr.splitlines()
        assert "refused" in line
        assert "HTTP 403" in line
        assert done.returncode == 1


async def test_a_server_that_says_nothing(project: Path) -> None:
    """A call whose answer does not come in time is one line, and exit code 1."""

    async def mute(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("wamp",))
        await socket.prepare(request)
        await socket.send_json([0, "session", 1, "mute"])
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT
        return socket

    site = web.Application()
    site.router.add_get("/ws", mute)
    runner = web.AppRunner(site)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        done = await run("call", f"ws://127.0.0.1:{port}/ws", "f", "--timeout", "0.3", cwd=project)
    finally:
        await runner.cleanup()
    assert done.stderr == "wampkit: f: no answer within 0.3 s (--timeout)\n"
    assert done.returncode == 1


async def test_publish_and_subscribe(project: Path) -> None:
    """`subscribe` prints a line an event, flushed; what `publish` sends reaches it; Ctrl-C ends it quietly with 0."""
    async with serving(project) as (_, url), command("subscribe", url, "room/1", cwd=project) as listener:
        await listener.said('subscribed to "room/1"')
        done = await run("publish", url, "room/1", '{"text": "hi\\u001b[2J"}', cwd=project)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
        await listener.printed("hi")
        assert listener.out == ['{"room": "1", "text": "hi\\u001b[2J"}']
        listener.signal(signal.SIGINT)
        assert await listener.exit() == 0
    assert len(listener.err) == 1


async def test_subscribe_to_several(project: Path) -> None:
    """Of several topics each line tells the topic; --count ends after so many events; a refusal is told on stderr."""
    async with (
        serving(project) as (_, url),
        command("subscribe", url, "lobby", "secret", "news", "--count", "2", cwd=project) as listener,
    ):
        await listener.said(r"refused.*secret")
        await listener.said('subscribed to "news"')
        assert (await run("call", url, "say", '"news"', "1", cwd=project)).returncode == 0
        assert (await run("publish", url, "lobby", "null", cwd=project)).returncode == 0
        assert await listener.exit() == 0
        assert [json.loads(line) for line in listener.out] == [
            {"topic": "news", "event": 1},
            {"topic": "lobby", "event": None},
        ]


async def test_subscribe_survives_a_restart(project: Path) -> None:
    """A lost connection is told, made again, and events go on."""
    port = str(free_port())
    args = ("run", "shop:app", "--port", port)
    url = f"ws://127.0.0.1:{port}/ws"
    async with command(*args, cwd=project) as server:
        await server.url()
        async with command("subscribe", url, "news", "--json", "--count", "1", cwd=project) as listener:
            await listener.said("subscribed to")
            server.signal(signal.SIGTERM)
            await listener.said("the connection is lost; trying to make it again")
            async with command(*args, cwd=project) as again:
                await again.url()
                await listener.said("connected again")
                assert (await run("call", url, "say", '"news"', '"after"', cwd=project)).returncode == 0
                assert await listener.exit() == 0
            assert listener.out == ['{"topic": "news", "event": "after"}']


async def test_a_reader_that_leaves(project: Path) -> None:
    """When whoever reads the events has gone, `subscribe` ends without a complaint."""
    read, written = os.pipe()
    async with serving(project) as (_, url):
        listener = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wampkit", "subscribe", url, "news"),
            cwd=project,
            env=environment(),
            stdout=written,
            stderr=subprocess.PIPE,
        )
        os.close(written)
        assert listener.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                assert b"subscribed" in await listener.stderr.readline()
                assert (await run("call", url, "say", '"news"', "1", cwd=project)).returncode == 0
                assert await asyncio.to_thread(os.read, read, 100) == b"1\n"
                os.close(read)
                assert (await run("call", url, "say", '"news"', "2", cwd=project)).returncode == 0
                assert await listener.stderr.read() == b""
                assert await listener.wait() == 0
        finally:
            if listener.returncode is None:
                listener.kill()
                await listener.wait()


# ---- help


def test_the_command_alone(tmp_path: Path) -> None:
    """Without a command the help is shown, and every command is in it."""
    done = wampkit(cwd=tmp_path)
    assert done.returncode == 2
    assert all(f"  {name} " in done.stderr for name in ("run", "routes", "call", "publish", "subscribe"))
