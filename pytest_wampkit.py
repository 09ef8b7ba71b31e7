"""Fixtures for testing an app over real frames: `wamp_client`, `wamp_connect`, `wamp_server`, `rpc`.

pytest imports this module in every run of every project that has wampkit installed. So it stands outside of the
package, whose import takes a while, and imports it when a fixture is used.

The app that is served, nearest first: the marker `@pytest.mark.wamp_app("chat:app")` (or the object itself), your own
fixture named `wamp_app`, the ini option `wampkit_app = "chat:app"`.

The server of an async test lives in the test's own event loop, whether pytest-asyncio or anyio's plugin runs it, so
tests and handlers may share events and locks; a sync test has its server in a thread. Each test starts the app and
stops it. An unexpected exception in a handler fails the test, except in
`with wamp_server.expect_error(ValueError): ...` and in a test with the marker `@pytest.mark.wamp_errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import types
from collections.abc import Awaitable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from wampkit import App, Client
    from wampkit.testing import Connect, Rpc, WampServer
    from wampkit.testing.loops import LoopThread, TestLoop

__all__: list[str] = []

Loop: TypeAlias = "TestLoop | LoopThread"

SERVED = pytest.StashKey["tuple[WampServer, Loop]"]()

NO_APP = """\
which app shall be served? Say so in one of three ways:
  - pyproject.toml:  [tool.pytest.ini_options]  wampkit_app = "chat:app"
  - a fixture named wamp_app that returns the App
  - on the test:  @pytest.mark.wamp_app("chat:app")  or  @pytest.mark.wamp_app(app)"""

NO_RUNNER = """\
no plugin runs this async test: with pytest-asyncio mark it @pytest.mark.asyncio (or set asyncio_mode = "auto"), with \
anyio mark it @pytest.mark.anyio"""

TWO_RUNNERS = """\
pytest-asyncio runs this async test, as its mode is "auto", and anyio runs its fixtures, in another event loop: set \
asyncio_mode = "strict", or take the anyio marker away"""

NOT_ASYNCIO = """\
wampkit runs on asyncio, not on {backend}. Choose anyio's backend with a fixture:
  @pytest.fixture
  def anyio_backend():
      return "asyncio\""""

FOREIGN_LOOP = """\
wamp_connect() works in the event loop of an async test: a sync test uses the fixture rpc, and async fixtures must run \
in the loop of their test (with pytest-asyncio: the same loop_scope)"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini("wampkit_app", 'the wampkit App that the fixtures serve, as "module:attribute"', default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and register fixtures that find the loops of pytest-asyncio if it is there."""
    config.addinivalue_line("markers", "wamp_app(app): the App that the fixtures serve, or its 'module:attribute'")
    config.addinivalue_line("markers", "wamp_errors: exceptions in handlers do not fail this test")
    asyncio_plugin = sys.modules.get("pytest_asyncio.plugin")
    if asyncio_plugin is not None and config.pluginmanager.is_registered(asyncio_plugin):
        config.pluginmanager.register(_asyncio_loops(), "wampkit-asyncio-loops")


# ---- which app


@pytest.fixture
def wamp_app(request: pytest.FixtureRequest) -> App:
    """The app to serve. Override it with a fixture of this name, or name the app by marker or ini option."""
    marked = _marked_app(request)
    if marked is not None:
        return marked
    spec = str(request.config.getini("wampkit_app"))
    if not spec:
        pytest.fail(NO_APP, pytrace=False)
    return _load(spec, request.config.rootpath)


@pytest.fixture
def _wamp_served_app(request: pytest.FixtureRequest) -> App:
    marked = _marked_app(request)
    return marked if marked is not None else _check(request.getfixturevalue("wamp_app"), "the fixture wamp_app")


def _marked_app(request: pytest.FixtureRequest) -> App | None:
    marker = request.node.get_closest_marker("wamp_app")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs:
        pytest.fail('write @pytest.mark.wamp_app("module:attribute") or @pytest.mark.wamp_app(app)', pytrace=False)
    app = marker.args[0]
    if isinstance(app, str):
        return _load(app, request.config.rootpath)
    return _check(app, "the marker wamp_app")


def _load(name: str, root: Path) -> App:
    """The app that `module:attribute` names, the module being looked for in pytest's root directory too."""
    from wampkit.runner.errors import CommandError
    from wampkit.runner.loading import load_app

    try:
        return load_app(name, root)
    except CommandError as error:
        # What the user's own module raised is best shown whole.
        if error.__cause__ is not None:
            raise error.__cause__ from None
        pytest.fail(f"wampkit app {name!r}: {error}", pytrace=False)


def _check(app: object, source: str) -> App:
    from wampkit import App

    if not isinstance(app, App):
        pytest.fail(f"{source}: expected a wampkit.App, got {app!r}", pytrace=False)
    return app


# ---- which event loop


@pytest.fixture
def _wamp_loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    from wampkit.testing.loops import LoopThread, TestLoop

    if _is_async(request.node):
        yield TestLoop(request.getfixturevalue(_loop_fixture(request)))
    else:
        with LoopThread() as thread:
            yield thread


def _is_async(item: pytest.Item) -> bool:
    function: Any = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(getattr(getattr(function, "hypothesis", None), "inner_test", function))


def _loop_fixture(request: pytest.FixtureRequest) -> str:
    """The name of the async fixture that runs in the loop of this test."""
    marker = request.node.get_closest_marker("asyncio")
    anyio = "anyio_backend" in request.fixturenames
    if marker is not None and request.config.pluginmanager.has_plugin("wampkit-asyncio-loops"):
        if anyio:
            pytest.fail(TWO_RUNNERS, pytrace=False)
        return f"_wamp_asyncio_{_loop_scope(marker, request.config)}_loop"
    if not anyio:
        pytest.fail(NO_RUNNER, pytrace=False)
    backend = request.getfixturevalue("anyio_backend")
    name = backend if isinstance(backend, str) else backend[0]
    if name != "asyncio":
        pytest.fail(NOT_ASYNCIO.format(backend=name), pytrace=False)
    return "_wamp_anyio_loop"


def _loop_scope(marker: pytest.Mark, config: pytest.Config) -> str:
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    if scope is None:
        # An older pytest-asyncio has no such option; its tests run in the loop of their function.
        with contextlib.suppress(ValueError):
            scope = config.getini("asyncio_default_test_loop_scope")
    return str(scope or "function")


@pytest.fixture
async def _wamp_anyio_loop() -> asyncio.AbstractEventLoop:
    # anyio's plugin keeps the loop of an async fixture open until the fixture is torn down.
    return asyncio.get_running_loop()


def _asyncio_loops() -> types.ModuleType:
    """A plugin with a fixture for each scope of pytest-asyncio's loops, whose value is the loop."""
    import pytest_asyncio

    plugin = types.ModuleType("wampkit_asyncio_loops")
    scopes: tuple[Any, ...] = ("function", "class", "module", "package", "session")
    for scope in scopes:

        @pytest_asyncio.fixture(name=f"_wamp_asyncio_{scope}_loop", loop_scope=scope)
        async def running_loop() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        setattr(plugin, f"{scope}_loop", running_loop)
    return plugin


# ---- what tests use


@pytest.fixture
def wamp_server(request: pytest.FixtureRequest, _wamp_served_app: App, _wamp_loop: Loop) -> Iterator[WampServer]:
    """A real server on 127.0.0.1, with `.url`, `.app`, `.errors` and `.expect_error(...)`; see `WampServer`."""
    from wampkit.testing import WampServer

    server = WampServer(_wamp_served_app)
    _wamp_loop.run(server.start())
    request.node.stash[SERVED] = server, _wamp_loop
    try:
        yield server
    finally:
        del request.node.stash[SERVED]
        _wamp_loop.run(server.close())
    _fail_for_errors(request.node, server)


@pytest.fixture
def wamp_client(request: pytest.FixtureRequest, wamp_server: WampServer, _wamp_loop: Loop) -> Client:
    """A connected `Client` of the app, for async tests; it is closed after the test."""
    if not _is_async(request.node):
        pytest.fail("wamp_client is for async tests: a sync test uses the fixture rpc", pytrace=False)
    return _wamp_loop.run(wamp_server.connect())


@pytest.fixture
def wamp_connect(wamp_server: WampServer, _wamp_loop: Loop) -> Connect:
    """Connect as many clients as an async test needs: `await wamp_connect(headers=..., cookies=..., origin=...)`.

    The options are those of `wampkit.connect`. All clients are closed after the test and after the fixtures that
    connected them. Use it in async fixtures too, in the event loop of the test.
    """

    def connect_client(**options: Any) -> Awaitable[Client]:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(FOREIGN_LOOP) from None
        if here is not _wamp_loop.loop:
            raise RuntimeError(FOREIGN_LOOP)
        return wamp_server.connect(**options)

    return connect_client


@pytest.fixture
def rpc(wamp_server: WampServer, _wamp_loop: Loop) -> Rpc:
    """Call a procedure over the wire from a sync test: `rpc("calc:add", 2, 3, timeout=5) == 5`.

    Raises `CallError` when the server answers with one, `TimeoutError` after `timeout` seconds.
    """
    client = _wamp_loop.run(wamp_server.connect())

    def call(uri: str, *args: Any, timeout: float | None = 5.0) -> Any:
        return _wamp_loop.run(client.call(uri, *args, timeout=timeout))

    return call


# ---- errors in handlers


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Fail a test for what its handlers raised, and add that to the report of a test that failed itself."""
    __tracebackhide__ = True
    try:
        result = yield
    except BaseException as failure:
        served = pyfuncitem.stash.get(SERVED, None)
        if served is not None and served[0].errors and not isinstance(failure, pytest.skip.Exception):
            failure.add_note(_report(served[0]))
        raise
    served = pyfuncitem.stash.get(SERVED, None)
    if served is not None:
        server, loop = served
        loop.run(server.settle())
        _fail_for_errors(pyfuncitem, server)
    return result


def _fail_for_errors(item: pytest.Item, server: WampServer) -> None:
    __tracebackhide__ = True
    if server.errors and item.get_closest_marker("wamp_errors") is None:
        pytest.fail(_report(server), pytrace=False)


def _report(server: WampServer) -> str:
    """A text about what the handlers raised; the list of errors is empty afterwards."""
    from wampkit.testing.server import format_errors

    errors, server.errors = server.errors, []
    kind = type(errors[0]).__name__
    return f"unexpected {kind} in a handler (expect it with wamp_server.expect_error({kind}))\n{format_errors(errors)}"
