# ruff: noqa: E501  # a mistake a line
"""Mistakes in what is declared and set: each is refused as early as it can be seen, with its place and the cure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import wampkit
from wampkit import App, DeclarationError, NotFound, WampError
from wampkit.runner.errors import describe_error

from .support.command import wampkit as run_command
from .support.wire import PUBLISH, serve

NAMES = {name: getattr(wampkit, name) for name in wampkit.__all__} | {
    "Annotated": __import__("typing").Annotated,
    "Any": Any,
    "contextlib": contextlib,
    "web": web,
}


HERE = "# here"
"""Marks the line that a message must name."""


ROWS: list[tuple[str, str, list[str]]] = [
    # ---- decorators with and without parentheses
    ("bare rpc", "@app.rpc  # here\nasync def add(x: int): ...", ['write @app.rpc("add")']),
    ("bare topic", "@app.topic  # here\nasync def room(event: int): ...", ['write @app.topic("room")']),
    ("bare rpc of a router", "r = Router('x/')\n@r.rpc  # here\nasync def add(): ...", ['rpc("add")', "above add"]),
    ("rpc of a number", "app.rpc(5)  # here", ["a URI is a text, not 5"]),
    ("rpc without uri", "@app.rpc()  # here\nasync def add(): ...", ["'uri'"]),
    ("bare every", "@app.every  # here\nasync def tick(): ...", ["write @app.every(60)"]),
    ("every of text", "app.every('60')  # here", ["above 0"]),
    ("bare error_handler", "@app.error_handler  # here\ndef f(e): ...", ["@app.error_handler(ValueError)"]),
    (
        "error handler of no argument",
        "@app.error_handler(KeyError)  # here\ndef f(): ...",
        ["one argument", "exception"],
    ),
    ("on_startup with parentheses", "@app.on_startup()  # here\nasync def f(): ...", ["without parentheses"]),
    ("on_connect with parentheses", "@app.on_connect()  # here\nasync def f(c): ...", ["without parentheses"]),
    ("on_error of a text", "app.on_error('f')  # here", ["without parentheses"]),
    ("on_connect without argument", "@app.on_connect  # here\nasync def f(): ...", ["one argument (connection)"]),
    (
        "on_subscribe with parentheses",
        "t = app.topic('x')\n@t.on_subscribe()  # here\ndef f(): ...",
        ["without parenth"],
    ),
    ("on_unsubscribe of a number", "app.topic('x').on_unsubscribe(3)  # here", ["without parentheses"]),
    (
        "bare requires below",
        "@app.rpc('x')  # here\n@requires\nasync def f(message): ...",
        ["@requires()", "parenthes"],
    ),
    ("bare requires above", "@requires  # here\n@app.rpc('x')\nasync def f(a): ...", ["@requires()", "above f"]),
    ("bare requires, no argument", "@requires  # here\n@app.rpc('x')\nasync def f(): ...", ["@requires()", "parenth"]),
    (
        "bare requires on a topic",
        "@requires  # here\n@app.topic('x')\nasync def f(event): ...",
        ["@requires()", "above f"],
    ),
    ("a class method object", "app.rpc('x')(classmethod(print))  # here", ["no function"]),
    ("a declaration as handler", "app.rpc('x')(app.topic('y'))  # here", ["no function"]),
    # ---- methods
    (
        "rpc in a class body",
        "class Service:\n    @app.rpc('s/add')  # here\n    async def add(self, a: int, b: int): ...",
        ["Service.add", "'self'", "app.rpc('s/add')(service.add)"],
    ),
    (
        "topic in a class body",
        "class Service:\n    @app.topic('s')  # here\n    async def on(self, event: int): ...",
        ["Service.on", "app.topic('s')(service.on)"],
    ),
    (
        "hook in a class body",
        "class Service:\n    @app.on_connect  # here\n    async def come(self, connection): ...",
        ["Service.come", "app.on_connect(service.come)"],
    ),
    (
        "on_subscribe in a class body",
        "t = app.topic('x')\nclass Service:\n    @t.on_subscribe  # here\n    async def come(self, topic: Topic): ...",
        ["Service.come", "topic.on_subscribe(service.come)"],
    ),
    (
        "every in a class body",
        "class Service:\n    @app.every(5)  # here\n    async def tick(self): ...",
        ["Service.tick", "app.every(...)(service.tick)"],
    ),
    (
        "a method as dependency",
        "class Pool:\n    def get(self): ...\n"
        "@app.rpc('x')  # here\nasync def f(c: Annotated[int, Depends(Pool.get)]): ...",
        ["Depends(service.get)"],
    ),
    # ---- parameters without annotation
    ("conn in rpc", "@app.rpc('x')  # here\nasync def whoami(conn): ...", ["'conn'", "conn: Connection"]),
    ("conn with default", "@app.rpc('x')  # here\nasync def f(a, conn=None): ...", ["conn: Connection"]),
    ("topic in topic", "@app.topic('x')  # here\nasync def room(event, topic): ...", ["topic: Topic"]),
    ("publish in topic", "@app.topic('x')  # here\nasync def room(event, publish): ...", ["publish: Publish"]),
    (
        "connection in hook",
        "t = app.topic('x')\n@t.on_subscribe  # here\nasync def f(connection): ...",
        ["connection: Conn"],
    ),
    (
        "conn in dependency",
        "def user(conn):  # here\n    ...\n@app.rpc('x')\nasync def f(u: Annotated[Any, Depends(user)]): ...",
        ["conn: Connection"],
    ),
    # ---- habits of other frameworks
    (
        "a dependency as default",
        "def db(): ...\n@app.rpc('x')  # here\nasync def f(a: int = Depends(db)): ...",
        ["write a: Annotated[Any, Depends(db)]"],
    ),
    (
        "a dependency as annotation",
        "def db(): ...\n@app.rpc('x')  # here\nasync def f(a: Depends(db)): ...",
        ["write a: Annotated[Any, Depends(db)]"],
    ),
    (
        "a type in a variable",
        "@app.rpc('x/{id:int}')  # here\nasync def f(id): ...",
        ["write {id} and annotate the parameter, id: int", "{id:path}"],
    ),
    ("anyone with parentheses", "app.rpc('x', requires=anyone())  # here", ["anyone without parentheses"]),
    (
        "a middleware of aiohttp",
        "@web.middleware\nasync def mw(request, handler): ...\nApp(middlewares=[mw])  # here",
        ["mw is a middleware of aiohttp", "web.Application(middlewares=[...])"],
    ),
    ("a path with a query", "app.setup(web.Application(), '/ws?room=1')  # here", ["'/ws?room=1' is no path"]),
    ("a path without slash", "app.setup(web.Application(), 'ws')  # here", ["'ws' is no path such as '/ws'"]),
    (
        "two handlers of an error",
        "@app.error_handler(KeyError)\ndef f(e): ...\n@app.error_handler(KeyError)  # here\ndef g(e): ...",
        ["g, /user/mistake.py:3", "is the second for this class, after f, /user/mistake.py:1"],
    ),
    # ---- rules
    ("user None", "requires(user=None)  # here", ["user=None", "requires()"]),
    ("user empty", "requires(user='')  # here", ["user=''", "requires()"]),
    ("users empty", "requires(user=[])  # here", ["nobody could pass", "requires()"]),
    ("users with None", "requires(user=['ann', None])  # here", ["user=None"]),
    ("role None", "requires(None)  # here", ["names of roles"]),
    ("role empty", "requires('')  # here", ["'' is no role", "requires()"]),
    ("roles in a list", "requires(['admin', 'editor'])  # here", ["requires('admin', 'editor')"]),
    ("roles by name", "requires(role='admin')  # here", ["no option 'role'", "conditions"]),
    ("condition without argument", "requires(lambda: True)  # here", ["one argument, the message"]),
    ("App requires a text", "App(requires='admin')  # here", ["requires('admin')"]),
    ("App requires a wrong list", "App(requires=['admin'])  # here", ["requires('admin')"]),
    ("requires without call", "App(requires=requires)  # here", ["write requires() or anyone"]),
    ("console of a text", "App(console='admin')  # here", ["requires('admin')"]),
    ("console of nothing", "App(console=[])  # here", ["True, False"]),
    # ---- options
    ("unknown option", "App(middleware=[])  # here", ["'middleware'", "did you mean 'middlewares'?"]),
    ("unknown option of Router", "Router('x', require=requires())  # here", ["did you mean 'requires'?"]),
    ("unknown option of rpc", "app.rpc('x', time_out=3)  # here", ["did you mean 'timeout'?"]),
    ("unknown option of topic", "app.topic('x', relays=True)  # here", ["did you mean 'relay'?"]),
    ("prefixes as list", "App(prefixes=['a'])  # here", ["dict of prefix to URI", "not ['a']"]),
    ("prefix of no URI", "App(prefixes={'q': 'q'})  # here", ["'q'", "no URI", "http://example.com/q#"]),
    ("prefix with colon", "App(prefixes={'q:': 'http://x/'})  # here", ["without a colon"]),
    ("prefix of wampkit", "App(prefixes={'wampkit': 'http://x/'})  # here", ["another prefix"]),
    ("prefix of a number", "App(prefixes={'q': 5})  # here", ["a URI, not 5"]),
    ("prefix of two fragments", "App(prefixes={'q': 'http://x/#a#'})  # here", ["two '#'"]),
    ("middlewares as one", "async def mw(m, n): ...\nApp(middlewares=mw)  # here", ["middlewares=[...]", "mw"]),
    (
        "middlewares of rpc",
        "async def mw(m, n): ...\napp.rpc('x', middlewares=mw)(print)  # here",
        ["middlewares=[...]"],
    ),
    (
        "middleware class",
        "class Gate:\n    async def connect(self, c): ...\nApp(middlewares=[Gate])  # here",
        ["Gate(...)"],
    ),
    ("trusted_proxies as text", "App(trusted_proxies='10.0.0.0/8')  # here", ["write ['10.0.0.0/8']"]),
    ("trusted_proxies as number", "App(trusted_proxies=5)  # here", ["a list of addresses"]),
    ("keepalive as text", "App(keepalive='25')  # here", ["seconds above 0"]),
    ("threads as float", "App(threads=2.5)  # here", ["whole number"]),
    ("debug as text", "App(debug='0')  # here", ["debug is True or False"]),
    ("ident of nothing", "App(ident='')  # here", ["ident is a text"]),
    ("limits as dict", "App(limits={'calls': 1})  # here", ["Limits(calls=100)"]),
    ("cra of a function", "App(cra=print)  # here", ["Cra(lookup)"]),
    ("broker scheme", "App(broker='redis://localhost')  # here", ["no broker for redis://", "memory://"]),
    ("broker class", "App(broker=MemoryBroker)  # here", ["MemoryBroker(...)"]),
    ("broker of nothing", "App(broker=3)  # here", ["no method 'start'"]),
    ("error_uris kind", "App(error_uris={'nonsense': 'http://x/'})  # here", ["the kinds are"]),
    ("error_uris of a sentence", "App(error_uris={'timeout': 'too late'})  # here", ["holds a space"]),
    ("lifespan of a number", "App(lifespan=3)  # here", ["asynccontextmanager"]),
    ("lifespan undecorated", "async def life(app):  # here\n    yield\nApp(lifespan=life)", ["asynccontextmanager"]),
    ("lifespan as coroutine", "async def life(app): ...  # here\nApp(lifespan=life)", ["asynccontextmanager"]),
    ("lifespan of no argument", "def life(): ...  # here\nApp(lifespan=life)", ["one argument, the app"]),
    (
        "lifespan of None",
        "life = lambda app: None  # here\napp = App(lifespan=life)",
        ["it gave None", "asynccontextm"],
    ),
    (
        "lifespan that is not async",
        "@contextlib.contextmanager  # here\ndef life(app):\n    yield\napp = App(lifespan=life)",
        ["no async context manager", "@contextlib.asynccontextmanager"],
    ),
    ("hosts as URL", "AllowHosts('https://example.com')  # here", ["give the host alone", "'example.com'"]),
    ("hosts with a path", "AllowHosts('example.com/ws')  # here", ["give the host alone", "'example.com'"]),
    # ---- attributes
    (
        "limits while it runs",
        "on_start(lambda: setattr(app, 'limits', Limits()))  # here",
        ["App(limits=...)", "before"],
    ),
    ("prefixes while it runs", "on_start(lambda: setattr(app, 'prefixes', {}))  # here", ["App(prefixes=...)"]),
    (
        "console after setup",
        "app.setup(web.Application())\napp.console = True  # here",
        ["after App.setup", "App(console"],
    ),
    ("an option misspelt", "app.keep_alive = 5  # here", ["did you mean 'keepalive'?"]),
    ("a method replaced", "app.on_startup = print  # here", ["app.on_startup(...)"]),
    ("threads", "app.threads = 5  # here", ["App(threads=...)"]),
    ("a wrong value", "app.limits = 5  # here", ["Limits(calls=100)"]),
    # ---- mounting and including
    (
        "two apps on a path",
        "site = web.Application()\napp.setup(site, '/a')\nApp().setup(site, '/a')  # here",
        ["another app", "'/a'", "choose another path"],
    ),
    (
        "an app on two paths",
        "site = web.Application()\napp.setup(site, '/a')\napp.setup(site, '/b')  # here",
        ["at '/a' already", "another App", "'/b'"],
    ),
    (
        "a path that is taken",
        "site = web.Application()\nsite.router.add_get('/a', web.Request.text)\napp.setup(site, '/a')  # here",
        ["GET", "'/a'", "choose another path"],
    ),
    ("setup of an app", "app.setup(App())  # here", ["aiohttp.web.Application"]),
    ("including an app", "app.include(App())  # here", ["takes a Router"]),
    ("a prefix of no text", "Router(App())  # here", ["the prefix is a text"]),
    # ---- what only the start can see
    ("declared twice", "app.topic('x')\napp.topic('x')  # here", ["declared twice", "remove or rename one"]),
    ("empty", "app.topic('')  # here", ["cannot be empty"]),
    ("braces", "app.topic('x/{a')  # here", ["braces do not pair"]),
    (
        "a gate at a route",
        "class G:\n    async def connect(self, c): ...\napp.topic('x', middlewares=[G()])  # here",
        ["App("],
    ),
    ("a handler that yields", "@app.rpc('x')  # here\nasync def f():\n    yield 1", ["does not yield"]),
    (
        "an undeclared prefix",
        "app.topic('zz:a')  # here",
        ["'zz' is declared nowhere", "App(prefixes={'zz': ", "full URI"],
    ),
    (
        "an undeclared prefix of a router",
        "r = Router('zz:')\n@r.rpc('a')  # here\nasync def f(): ...\napp.include(r)",
        ["'zz' is declared nowhere"],
    ),
    ("a scheme that is misused", "app.topic('urn:a')  # here", ["'urn' is declared nowhere"]),
    ("error_uris of a prefix", "App(error_uris={'timeout': 'zz:late'})  # here", ["'zz' is declared nowhere"]),
    # ---- errors
    ("an error's sentence", "WampError('no description here')  # here", ["the URI comes first", "http://example.com/"]),
    ("an error without anything", "WampError()  # here", ["needs the error's URI", "http://example.com/error#"]),
]


def _run(source: str) -> None:
    """Run a module with an app in it, and start and stop the app."""
    waiting: list[Any] = []
    names = {**NAMES, "app": App(), "on_start": waiting.append}
    exec(compile(source, "/user/mistake.py", "exec"), names)
    app = names["app"]

    async def start() -> None:
        await app.start()
        try:
            for each in waiting:
                each()
        finally:
            await app.stop()

    asyncio.run(start())


def test_mistakes_are_refused_with_place_and_cure() -> None:
    """Each mistake is one line that names file and line of the user's own code and says what to do."""
    wrong = []
    for title, source, cure in ROWS:
        line = next(number for number, text in enumerate(source.splitlines(), 1) if HERE in text)
        try:
            _run(source)
        except (DeclarationError, AttributeError, TypeError) as error:
            said = describe_error(error)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        else:
            said = "nothing"
        wanted = [f"/user/mistake.py:{line}", *cure]
        missing = [each for each in wanted if each not in said]
        if missing or ".py:" in said.replace("/user/mistake.py:", ""):
            wrong.append(f"{title}: {said!r} lacks {missing}")
    assert wrong == [], "\n".join(wrong)


RIGHT = [
    "@app.rpc('x')\nasync def f(conn: str, topic, publish, session): ...",
    "@app.rpc('x/{conn}')\nasync def f(conn): ...",
    "class Service:\n    async def add(self, a: int): ...\napp.rpc('s/add')(Service().add)",
    "class Service:\n    async def come(self, connection): ...\napp.on_connect(Service().come)",
    "class Service:\n    @app.rpc('x')\n    @staticmethod\n    async def add(a: int): ...",
    "def make():\n    @app.rpc('x')\n    async def add(self): ...\nmake()",
    "App(requires=[requires(), requires('admin')], console=[requires('admin')])",
    "App(prefixes={'u': 'urn:example:'}, lifespan=None, broker=MemoryBroker(), keepalive=None, console=None)",
    "app.limits = Limits(calls=3)\napp.prefixes = {'x': 'http://x/'}\napp.console = True\napp.state = {}",
    "site = web.Application()\napp.setup(site, '/a')\nApp().setup(site, '/b')",
    "app.setup(web.Application())\napp.setup(web.Application())",
    "WampError('http://example.com/error#a', 'a b')\nNotFound()\nNotFound('a b')",
    "for name in ('calc/add', 'urn:example:a', 'tag:a@b,2020:c', 'http://x/#a', 'a/b:c', '1:2', '{a}:b'):\n    app.topic(name)",
    "app.prefixes = {'t': 't:', 'room': 'room/'}\nfor name in ('t:x', 'room:a'):\n    app.topic(name)",
    "app.setup(web.Application(), '/ws/{tenant}')",
    "def check(message): return True\nrequires(check)",
]


def test_what_looks_alike_and_is_right_is_let_pass() -> None:
    """What is no mistake is not taken for one."""
    for source in RIGHT:
        _run(source)


COMMANDS = (["routes"], ["check"], ["run", "--port", "0"])


def test_the_commands_say_it_all_alike(tmp_path: Path) -> None:
    """`wampkit routes`, `check` and `run` refuse an app in the same line, and end with exit code 1."""
    mistakes = {
        "broker": ("app = App(broker='redis://localhost')\n", "broker.py:2: there is no broker for redis://"),
        "bare": ("app = App()\n@app.rpc\nasync def add(): ...\n", 'bare.py:3: write @app.rpc("add")'),
        "conn": ("app = App()\n@app.rpc('x')\nasync def f(conn): ...\n", "write conn: Connection"),
    }
    wrong = []
    for name, (source, words) in mistakes.items():
        (tmp_path / f"{name}.py").write_text(f"from wampkit import App\n{source}")
        for arguments in COMMANDS:
            done = run_command(*arguments, f"{name}:app", cwd=tmp_path)
            lines = done.stderr.splitlines()
            if done.returncode != 1 or len(lines) != 1 or words not in lines[0] or f"{name}.py:" not in lines[0]:
                wrong.append((name, arguments, done.returncode, lines))
    assert wrong == []


def test_a_failing_lifespan_is_no_fault_of_the_standard_library(tmp_path: Path) -> None:
    """What cannot be seen before the start is said with the user's place too, or with none."""
    (tmp_path / "late.py").write_text("from wampkit import App\n\napp = App(lifespan=lambda app: None)\n")
    done = run_command("run", "--port", "0", "late:app", cwd=tmp_path)
    assert done.returncode == 1
    assert "late.py:3" in done.stderr
    assert "contextlib.py" not in done.stderr
    assert "site-packages" not in done.stderr


def test_a_file_in_another_folder_is_named_with_its_folder(tmp_path: Path) -> None:
    """An app that is given as a path gets the name of the module and the folder to start from."""
    done = run_command("run", "--workers", "2", "../quiz:app", cwd=tmp_path)
    assert done.stderr == "wampkit: '../quiz:app' is a file; name the module instead: quiz:app, in the folder '..'\n"


# ---- names


async def test_topics_are_found_by_curie() -> None:
    """`app.topics` takes the names that `app.publish` takes, and `app.expand` says which URI one means."""
    app = App(prefixes={"room": "http://example.com/room/"})
    app.topic("room:{name}", relay=True)
    uri = "http://example.com/room/lobby"
    assert app.expand("room:lobby") == app.expand(uri) == uri
    async with serve(app) as server:
        peer = await server.peer()
        await peer.subscribe(uri)
        for name in ("room:lobby", uri):
            assert name in app.topics
            assert len(app.topics[name]) == 1
            found = app.topics.get(name)
            assert found is not None
            assert found.uri == uri
        assert list(app.topics) == [uri]
        assert "room:hall" not in app.topics
        assert app.topics.get("other:lobby") is None


async def test_typed_variables_guard_whatever_names_a_route() -> None:
    """A URI whose variable is of the wrong form is no topic and no procedure: nobody subscribes, publishes or calls it."""
    app = App()
    got: list[int] = []

    @app.topic("channel/{id}")
    async def channel(event: Any, id: int) -> Any:
        got.append(id)
        return event

    hooked = app.topic("hooked/{id}", relay=True)

    @hooked.on_subscribe
    async def come(id: int) -> None: ...

    @app.rpc("book/{number}")
    async def book(number: int) -> int:
        return number

    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("book/7") == 7
        assert (await peer.call("book/abc"))[3] == "no such procedure: 'book/abc'"
        for topic in ("channel", "hooked"):
            await peer.subscribe(f"{topic}/5")
            await peer.subscribe(f"{topic}/abc")
            await peer.send(PUBLISH, f"{topic}/abc", 1)
            assert await peer.result("book/7") == 7
        assert sorted(app.topics) == ["channel/5", "hooked/5"]
        assert got == []
        with pytest.raises(ValueError, match="no topic is declared"):
            await app.publish("channel/abc", 1)


# ---- errors at run time


async def test_errors_that_are_raised_wrongly_are_logged_with_the_cure(caplog: pytest.LogCaptureFixture) -> None:
    """A WampError without a URI, and an error URI with two `#`, are told in the log; a kind needs no description."""
    app = App(prefixes={"calc": "http://example.com/calc#"})

    async def bare() -> None:
        raise WampError

    async def sentence() -> None:
        raise WampError("cannot divide by zero")

    async def fragments() -> None:
        raise WampError("calc:error#zero", "cannot divide by zero")

    async def kind() -> None:
        raise NotFound

    async def prefix() -> None:
        raise WampError("zz:error", "nobody knows it")

    for handler in (bare, sentence, fragments, kind, prefix):
        app.rpc(handler.__name__)(handler)
    async with serve(app) as server:
        peer = await server.peer()
        answers = {name: (await peer.call(name))[2] for name in ("bare", "sentence", "fragments", "kind", "prefix")}
    generic = "http://api.wamp.ws/error#generic"
    assert answers == {
        "bare": generic,
        "sentence": generic,
        "fragments": "http://example.com/calc#error#zero",
        "kind": "http://api.wamp.ws/error#NoSuchRPCEndpoint",
        "prefix": "zz:error",
    }
    for words in ("needs the error's URI", "the URI comes first", "has two '#'", "'zz' is declared nowhere"):
        assert caplog.text.count(words) == 1


async def test_a_name_with_two_fragments_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A name that is no valid URI works, and the start says where it stands."""
    app = App(prefixes={"calc": "http://example.com/calc#"})
    app.rpc("calc:a#b")(lambda: 1)
    with caplog.at_level(logging.WARNING, "wampkit"):
        async with serve(app) as server:
            assert await (await server.peer()).result("http://example.com/calc#a#b") == 1
    assert "test_declarations.py" in caplog.text
    assert "has two '#'" in caplog.text


# ---- what a shell offers


def test_a_shell_offers_public_names_alone() -> None:
    """`dir(wampkit)` has what the package is for, and none of the modules that it is made of."""
    assert {name for name in dir(wampkit) if not name.startswith("_")} == set(wampkit.__all__)
