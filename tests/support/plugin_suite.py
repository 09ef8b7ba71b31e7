"""Test suites that use the pytest plugin, written and run by the tests of the plugin."""

import sys
from importlib.metadata import entry_points

import pytest

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

INSTALLED = "wampkit" in {entry.name for entry in entry_points(group="pytest11")}


AUTO = """
[pytest]
wampkit_app = chat:app
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""


STRICT = AUTO.replace("auto", "strict")


PLAIN = """
[pytest]
wampkit_app = chat:app
"""


CHAT = """
    import asyncio
    from typing import Annotated
    import msgspec
    from wampkit import AllowOrigins, App, Connection, Topic, WampError

    app = App(
        prefixes={"calc": "http://example.com/calc#", "chat": "http://example.com/chat/"},
        middlewares=[AllowOrigins("https://example.com", allow_missing=True)],
    )

    @app.rpc("calc:add")
    async def add(x: float, y: float) -> float:
        return x + y

    @app.rpc("calc:divide")
    async def divide(x: float, y: float) -> float:
        if y == 0:
            raise WampError("calc:division-by-zero", "cannot divide by zero", {"x": x})
        return x / y

    @app.rpc("calc:inverse")
    def inverse(x: float) -> float:
        return 1 / x

    @app.rpc("calc:whoami")
    async def whoami(conn: Connection) -> dict:
        request = conn.request
        return {
            "token": request.headers.get("X-Token"),
            "cookie": request.cookies.get("user"),
            "origin": request.headers.get("Origin"),
            "id": conn.id,
        }

    @app.rpc("calc:forever")
    async def forever() -> None:
        await asyncio.Event().wait()

    class Message(msgspec.Struct):
        text: Annotated[str, msgspec.Meta(max_length=500)]

    @app.topic("chat:{room}")
    async def room(event: Message, topic: Topic, conn: Connection, room: str) -> dict:
        if event.text == "fail":
            raise KeyError("no such room")
        return {"from": conn.id, "room": room, "text": event.text}

    @app.rpc("calc:clients")
    async def clients() -> int:
        return len(list(app.connections))

    def make_app() -> App:
        made = App()
        made.add_rpc("http://example.com/made", make_name)
        return made

    def make_name() -> str:
        return "made"
"""


class Suite:
    """A directory with an app and a pytest configuration, in which tests are run."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def run(self, tests: str, *args: str, ini: str = AUTO) -> pytest.RunResult:
        """Run tests in this process with warnings as errors."""
        return self.pytester.runpytest_inprocess(*self._prepare(tests, ini), *args)

    def run_apart(self, tests: str, *args: str, ini: str = AUTO) -> pytest.RunResult:
        """Run tests in a process of their own, where nothing that leaks can go unseen."""
        command = (sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", *self._prepare(tests, ini), *args)
        return self.pytester.run(*command, timeout=30)

    def _prepare(self, tests: str, ini: str) -> list[str]:
        self.pytester.makeini(ini)
        self.pytester.makepyfile(chat=CHAT)
        self.pytester.makepyfile(tests)
        plugin = [] if INSTALLED else ["-p", "pytest_wampkit"]
        warnings = ["-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        # Hypothesis is slow to import, and no suite here uses it.
        return [*plugin, *warnings, "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
