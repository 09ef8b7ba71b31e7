"""The fixtures of the pytest plugin, each used by a test suite of its own, in which every warning is an error."""

import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

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


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)


APP_MD = """
    async def test_add(wamp_client):
        assert await wamp_client.call("calc:add", 2, 3) == 5

    async def test_chat(wamp_connect):
        alice, bob = await wamp_connect(), await wamp_connect()
        async with bob.subscribe("chat:lobby") as events:
            await alice.publish("chat:lobby", {"text": "hi"})
            assert (await events.get(timeout=1))["text"] == "hi"

    def test_add_sync(rpc):    # no async in sight: for people who only want to call a function over the wire
        assert rpc("calc:add", 2, 3) == 5
"""


def marked(tests: str, marker: str) -> str:
    """The tests with a marker on each async one."""
    return "\n    import pytest\n" + tests.replace(
        "    async def test_", f"    @pytest.mark.{marker}\n    async def test_"
    )


# ---- who runs the tests


def test_app_md(suite: Suite) -> None:
    """The three tests of the documentation pass as they stand."""
    suite.run(APP_MD).assert_outcomes(passed=3)


def test_nothing_leaks(suite: Suite) -> None:
    """No warning, task or socket is left behind by the fixtures, even with Python's development mode on."""
    result = suite.run_apart(APP_MD)
    result.assert_outcomes(passed=3)
    assert "Exception ignored" not in result.stderr.str()
    assert "Warning" not in result.stdout.str() + result.stderr.str()


def test_strict_mode(suite: Suite) -> None:
    """Tests marked for pytest-asyncio work in its strict mode."""
    suite.run(marked(APP_MD, "asyncio"), ini=STRICT).assert_outcomes(passed=3)


ON_ASYNCIO = """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"
"""


def test_anyio(suite: Suite) -> None:
    """Tests marked for anyio work without pytest-asyncio, and leave nothing behind."""
    result = suite.run_apart(marked(APP_MD, "anyio") + ON_ASYNCIO, "-p", "no:asyncio", ini=PLAIN)
    result.assert_outcomes(passed=3)
    assert "Exception ignored" not in result.stderr.str()


def test_anyio_beside_strict_mode(suite: Suite) -> None:
    """Tests marked for anyio work where pytest-asyncio is there too, in its strict mode."""
    suite.run(marked(APP_MD, "anyio") + ON_ASYNCIO, ini=STRICT).assert_outcomes(passed=3)


def test_anyio_beside_auto_mode(suite: Suite) -> None:
    """A test that pytest-asyncio and anyio both claim, each with its own event loop, is told so and does not hang."""
    result = suite.run(marked(APP_MD, "anyio") + ON_ASYNCIO, ini=AUTO)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["pytest-asyncio runs this async test*asyncio_mode = *strict*"])


def test_uvloop_through_anyio(suite: Suite) -> None:
    """anyio's backend options are respected."""
    result = suite.run(
        """
        import asyncio, pytest, uvloop

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"use_uvloop": True}

        @pytest.mark.anyio
        async def test_loop(wamp_client):
            assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
            assert await wamp_client.call("calc:add", 2, 3) == 5
        """,
        "-p",
        "no:asyncio",
        ini=PLAIN,
    )
    result.assert_outcomes(passed=1)


def test_trio_is_refused(suite: Suite) -> None:
    """A test that anyio runs on trio is told how to choose asyncio."""
    result = suite.run(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_add(wamp_client):
            assert False, "never run"
        """,
        "-p",
        "no:asyncio",
        ini=PLAIN,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*wampkit runs on asyncio, not on trio*"])


def test_unmarked_async_test(suite: Suite) -> None:
    """An async test that no plugin runs is told how to be run."""
    result = suite.run("async def test_add(wamp_client):\n    pass", ini=STRICT)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no plugin runs this async test*pytest.mark.asyncio*"])


@pytest.mark.parametrize("plugins", [("no:asyncio",), ("no:asyncio", "no:anyio")])
def test_rpc_needs_no_async_plugin(suite: Suite, plugins: tuple[str, ...]) -> None:
    """Sync tests need neither pytest-asyncio nor anyio, and leave nothing behind."""
    tests = """
        import pytest
        from wampkit import CallError

        def test_add(rpc):
            assert rpc("calc:add", 2, 3) == 5

        def test_error(rpc):
            with pytest.raises(CallError, match="cannot divide by zero") as raised:
                rpc("calc:divide", 1, 0)
            assert raised.value.details == {"x": 1}

        def test_timeout(rpc):
            with pytest.raises(TimeoutError):
                rpc("calc:forever", timeout=0.05)

        def test_url(wamp_server):
            assert wamp_server.url.startswith("ws://127.0.0.1:")
    """
    blocked = [argument for plugin in plugins for argument in ("-p", plugin)]
    result = suite.run_apart(tests, *blocked, ini=PLAIN)
    result.assert_outcomes(passed=4)
    assert "Exception ignored" not in result.stderr.str()


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_wider_loops(suite: Suite, scope: str) -> None:
    """Tests that share a loop of pytest-asyncio have their server in that loop."""
    result = suite.run(
        f"""
        import asyncio, pytest

        pytestmark = pytest.mark.asyncio(loop_scope="{scope}")

        class TestShared:
            loops = set()

            @pytest.mark.parametrize("turn", [1, 2])
            async def test_add(self, wamp_client, turn):
                self.loops.add(asyncio.get_running_loop())
                assert len(self.loops) == 1
                assert await wamp_client.call("calc:add", turn, 3) == turn + 3
        """
    )
    result.assert_outcomes(passed=2)


def test_default_loop_scope(suite: Suite) -> None:
    """The loop scope may come from pytest-asyncio's ini option."""
    ini = AUTO + "asyncio_default_test_loop_scope = session\n"
    suite.run(APP_MD, ini=ini).assert_outcomes(passed=3)


def test_shared_objects(suite: Suite) -> None:
    """A handler runs in the test's event loop: it may wait for an event that the test sets."""
    result = suite.run(
        """
        import asyncio, pytest
        from wampkit import App

        @pytest.fixture
        def release():
            return asyncio.Event()

        @pytest.fixture
        def wamp_app(release):
            app = App()

            @app.rpc("http://example.com/wait")
            async def wait() -> str:
                await release.wait()
                return "released"

            return app

        async def test_release(wamp_client, release):
            call = asyncio.ensure_future(wamp_client.call("http://example.com/wait"))
            assert await wamp_client.call("wampkit:subscription", "x") is None
            assert not call.done()
            release.set()
            assert await asyncio.wait_for(call, 5) == "released"
        """
    )
    result.assert_outcomes(passed=1)


# ---- which app


def test_own_fixture(suite: Suite) -> None:
    """A fixture named wamp_app is served, not the ini option's app."""
    result = suite.run(
        """
        import pytest
        from wampkit import App

        @pytest.fixture(scope="module")
        def wamp_app():
            app = App()
            app.add_rpc("http://example.com/which", which)
            return app

        def which() -> str:
            return "own"

        def test_which(rpc, wamp_app, wamp_server):
            assert rpc("http://example.com/which") == "own"
            assert wamp_server.app is wamp_app

        async def test_again(wamp_client):
            assert await wamp_client.call("http://example.com/which") == "own"
        """
    )
    result.assert_outcomes(passed=2)


def test_async_own_fixture(suite: Suite) -> None:
    """A fixture named wamp_app may be async."""
    result = suite.run(
        """
        import pytest
        from wampkit import App

        @pytest.fixture
        async def wamp_app():
            app = App()
            app.add_rpc("http://example.com/which", which)
            yield app
            assert not app.running

        def which() -> str:
            return "async"

        async def test_which(wamp_client):
            assert await wamp_client.call("http://example.com/which") == "async"
        """
    )
    result.assert_outcomes(passed=1)


def test_marker(suite: Suite) -> None:
    """The marker beats the own fixture, with the name of an App or of its factory, or with an App."""
    result = suite.run(
        """
        import pytest
        from wampkit import App

        def make():
            app = App()
            app.add_rpc("http://example.com/which", which)
            return app

        def which() -> str:
            return "marked"

        @pytest.fixture
        def wamp_app():
            return App()

        @pytest.mark.wamp_app("chat:app")
        def test_name(rpc):
            assert rpc("calc:add", 2, 3) == 5

        @pytest.mark.wamp_app(make())
        async def test_object(wamp_client):
            assert await wamp_client.call("http://example.com/which") == "marked"

        @pytest.mark.wamp_app("chat:make_app")
        def test_factory(rpc):
            assert rpc("http://example.com/made") == "made"
        """
    )
    result.assert_outcomes(passed=3)


def test_no_app(suite: Suite) -> None:
    """Without any app the fixtures say the three ways to name one."""
    result = suite.run("def test_add(rpc):\n    pass", "-p", "no:asyncio", ini="[pytest]\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*three ways*", '*wampkit_app = "chat:app"*', "*fixture named wamp_app*", "*mark.wamp_app*"]
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere:app", "no module 'nowhere' in *"),
        ("chat:nothing", "there is no 'nothing' in chat *"),
        ("chat:asyncio", "chat:asyncio is the module asyncio, not an App; did you mean chat:app*"),
    ],
)
def test_wrong_app(suite: Suite, spec: str, message: str) -> None:
    """A name that leads to no App is told apart by what is wrong with it."""
    result = suite.run("def test_add(rpc):\n    pass", "-o", f"wampkit_app={spec}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{spec}*{message}"])


def test_wrong_fixture_value(suite: Suite) -> None:
    """A fixture named wamp_app that gives no App is told what is expected."""
    result = suite.run(
        """
        import pytest

        @pytest.fixture
        def wamp_app():
            return "chat:app"

        def test_add(rpc):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the fixture wamp_app: expected a wampkit.App, got 'chat:app'"])


def test_broken_app_module(suite: Suite) -> None:
    """A module that fails to import is shown with its own traceback."""
    suite.pytester.makepyfile(broken="import missing_part")
    result = suite.run("def test_add(rpc):\n    pass", "-o", "wampkit_app=broken:app")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *No module named 'missing_part'", "broken.py:1: *"])


def test_app_in_the_root_directory(suite: Suite) -> None:
    """The module of the ini option is found in pytest's root directory, from tests in a directory below."""
    suite.pytester.mkdir("tests")
    tests = suite.pytester.path / "tests" / "test_below.py"
    tests.write_text("def test_add(rpc):\n    assert rpc('calc:add', 2, 3) == 5\n")
    suite.run("", "tests").assert_outcomes(passed=1)


def test_the_same_app_twice(suite: Suite) -> None:
    """Each test starts the app afresh: no client or subscriber of the test before is there."""
    result = suite.run(
        """
        import pytest
        from chat import app

        @pytest.mark.parametrize("turn", [1, 2])
        async def test_turns(wamp_client, turn):
            assert await wamp_client.call("calc:clients") == 1
            assert "http://example.com/chat/lobby" not in app.topics
            async with wamp_client.subscribe("chat:lobby"):
                assert len(app.topics["http://example.com/chat/lobby"]) == 1

        def test_sync_turn(rpc):
            assert rpc("calc:clients") == 1

        def test_stopped():
            assert not app.running
        """
    )
    result.assert_outcomes(passed=4)


# ---- clients


def test_handshake(suite: Suite) -> None:
    """Headers, cookies and origin given to wamp_connect reach the handler."""
    result = suite.run(
        """
        async def test_handshake(wamp_connect):
            client = await wamp_connect(
                headers={"X-Token": "t"}, cookies={"user": "alice"}, origin="https://example.com"
            )
            me = await client.call("calc:whoami")
            assert me == {"token": "t", "cookie": "alice", "origin": "https://example.com", "id": client.session_id}
        """
    )
    result.assert_outcomes(passed=1)


def test_options(suite: Suite) -> None:
    """Prefixes and the options of connect pass through wamp_connect."""
    result = suite.run(
        """
        import pytest

        async def test_options(wamp_connect):
            client = await wamp_connect(prefixes={"c": "http://example.com/calc#"}, call_timeout=0.05)
            assert await client.call("c:add", 2, 3) == 5
            with pytest.raises(TimeoutError):
                await client.call("c:forever")
        """
    )
    result.assert_outcomes(passed=1)


def test_refused_handshake(suite: Suite) -> None:
    """A refused handshake is raised where the client connects."""
    result = suite.run(
        """
        import pytest
        from wampkit import AllowOrigins, App, HandshakeRefused

        @pytest.mark.wamp_app(App(middlewares=[AllowOrigins("https://example.com")]))
        async def test_origin(wamp_connect):
            await wamp_connect(origin="https://example.com")
            with pytest.raises(HandshakeRefused) as refused:
                await wamp_connect(origin="https://evil.example")
            assert refused.value.status == 403
        """
    )
    result.assert_outcomes(passed=1)


def test_events(suite: Suite) -> None:
    """Waiting for an event ends with a TimeoutError; waiting for none fails with the event that came."""
    result = suite.run(
        """
        import pytest
        from wampkit.testing import no_event

        async def test_get(wamp_client):
            async with wamp_client.subscribe("chat:lobby") as events:
                with pytest.raises(TimeoutError):
                    await events.get(timeout=0.05)

        async def test_nothing(wamp_client):
            async with wamp_client.subscribe("chat:lobby") as events:
                await no_event(events, within=0.05)

        async def test_something(wamp_connect):
            alice, bob = await wamp_connect(), await wamp_connect()
            async with bob.subscribe("chat:lobby") as events:
                await alice.publish("chat:lobby", {"text": "surprise"})
                await no_event(events, within=5)
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError*surprise*"])


def test_drop(suite: Suite) -> None:
    """A client whose wire is cut connects again, and its subscriptions are put back."""
    result = suite.run(
        """
        from wampkit.client.state import State
        from wampkit.testing import drop

        async def test_drop(wamp_connect):
            alice, bob = await wamp_connect(), await wamp_connect(backoff=(0.01, 0.1))
            async with bob.subscribe("chat:lobby") as events:
                before = bob.session_id
                await drop(bob)
                await bob.wait_for(State.OPEN, timeout=5)
                assert bob.session_id != before
                assert await bob.call("wampkit:subscription", "chat:lobby")
                await alice.publish("chat:lobby", {"text": "again"})
                assert (await events.get(timeout=5))["text"] == "again"
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "fixture"), [(AUTO, "pytest.fixture"), (STRICT, "pytest_asyncio.fixture")], ids=["auto", "strict"]
)
def test_own_fixtures(suite: Suite, ini: str, fixture: str) -> None:
    """Async fixtures may connect clients, and use them until their own end."""
    tests = f"""
        import pytest, pytest_asyncio

        @{fixture}
        async def alice(wamp_connect):
            return await wamp_connect(headers={{"X-Token": "alice"}})

        @{fixture}
        async def lobby(wamp_connect):
            client = await wamp_connect()
            async with client.subscribe("chat:lobby") as events:
                yield events
            assert await client.call("calc:add", 1, 1) == 2

        @pytest.mark.asyncio
        async def test_fixtures(alice, lobby, wamp_client):
            assert (await alice.call("calc:whoami"))["token"] == "alice"
            await alice.publish("chat:lobby", {{"text": "hi"}})
            assert (await lobby.get(timeout=5))["text"] == "hi"
            assert await wamp_client.call("calc:clients") == 3
    """
    result = suite.run_apart(tests, ini=ini)
    result.assert_outcomes(passed=1)
    assert "Exception ignored" not in result.stderr.str()


def test_own_fixtures_under_anyio(suite: Suite) -> None:
    """Async fixtures that anyio runs may connect clients, and use them until their own end."""
    tests = """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def lobby(wamp_connect):
            client = await wamp_connect()
            async with client.subscribe("chat:lobby") as events:
                yield events
            assert await client.call("calc:add", 1, 1) == 2

        async def test_fixtures(lobby, wamp_client):
            await wamp_client.publish("chat:lobby", {"text": "hi"})
            assert (await lobby.get(timeout=5))["text"] == "hi"
    """
    result = suite.run_apart(tests, "-p", "no:asyncio", ini=PLAIN)
    result.assert_outcomes(passed=1)
    assert "Exception ignored" not in result.stderr.str()


def test_wrong_fixture(suite: Suite) -> None:
    """Sync tests that ask for async clients, and async tests that block their loop, are told what to use."""
    result = suite.run(
        """
        import asyncio

        def test_sync_client(wamp_client):
            pass

        def test_sync_connect(wamp_connect):
            wamp_connect()

        async def test_async_rpc(rpc):
            rpc("calc:add", 2, 3)

        async def test_rpc_in_a_thread(rpc):
            assert await asyncio.to_thread(rpc, "calc:add", 2, 3) == 5
        """
    )
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "wamp_client is for async tests: a sync test uses the fixture rpc",
            "E *RuntimeError: wamp_connect() works in the event loop of an async test*",
            "E *RuntimeError: this blocks the test's event loop*",
        ]
    )


def test_calls_under_way(suite: Suite) -> None:
    """A call that nobody waits for neither holds up the end of the test nor fails it."""
    result = suite.run_apart(
        """
        import asyncio, contextlib
        from wampkit import ConnectionLost

        async def test_forgotten(wamp_client):
            call = asyncio.ensure_future(wamp_client.call("calc:forever"))
            call.add_done_callback(lambda done: done.exception())
            assert await wamp_client.call("calc:add", 2, 3) == 5
        """
    )
    result.assert_outcomes(passed=1)


# ---- errors in handlers


def test_handler_error_fails_the_test(suite: Suite) -> None:
    """An unexpected exception in a handler fails the test that caused it, and no other, with its traceback."""
    result = suite.run(
        """
        import pytest
        from wampkit import CallError

        async def test_call(wamp_client):
            with pytest.raises(CallError):
                await wamp_client.call("calc:inverse", 0)

        async def test_publish(wamp_client):
            await wamp_client.publish("chat:lobby", {"text": "fail"})

        def test_rpc(rpc):
            with pytest.raises(CallError):
                rpc("calc:inverse", 0)

        async def test_next(wamp_client):
            assert await wamp_client.call("calc:inverse", 2) == 0.5
        """,
        "--show-capture=no",
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "unexpected ZeroDivisionError in a handler (expect it with wamp_server.expect_error(ZeroDivisionError))",
            "Traceback *",
            '  File "*chat.py", line *, in inverse',
            "    return 1 / x",
            "ZeroDivisionError: *division by zero",
            "unexpected KeyError in a handler (expect it with wamp_server.expect_error(KeyError))",
            "Traceback *",
            '  File "*chat.py", line *, in room',
            "KeyError: 'no such room'",
            "unexpected ZeroDivisionError in a handler *",
            "ZeroDivisionError: *division by zero",
        ]
    )


def test_handler_error_explains_a_failure(suite: Suite) -> None:
    """A test that fails because a handler did shows the handler's traceback."""
    result = suite.run(
        """
        async def test_call(wamp_client):
            assert await wamp_client.call("calc:inverse", 0) == 0
        """,
        "--show-capture=no",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *CallError: *", 'E *File "*chat.py", line *, in inverse', "E *ZeroDivisionError: *"]
    )


def test_errors_at_the_end(suite: Suite) -> None:
    """An exception in a hook that runs when the client leaves is an error of that test's teardown."""
    result = suite.run(
        """
        import pytest
        from wampkit import App, Connection

        app = App()

        @app.on_disconnect
        async def left(conn: Connection) -> None:
            raise OSError("cannot say goodbye")

        @pytest.mark.wamp_app(app)
        async def test_leave(wamp_client):
            pass

        @pytest.mark.wamp_app(app)
        @pytest.mark.wamp_errors
        async def test_tolerant(wamp_client):
            pass
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leave*", "OSError: cannot say goodbye"])


def test_answers_are_no_errors(suite: Suite) -> None:
    """What a handler means to answer, and arguments that do not fit, fail no test."""
    result = suite.run(
        """
        import pytest
        from wampkit import CallError

        async def test_answers(wamp_client, wamp_server):
            with pytest.raises(CallError, match="cannot divide by zero"):
                await wamp_client.call("calc:divide", 1, 0)
            with pytest.raises(CallError):
                await wamp_client.call("calc:add", "two", 3)
            assert wamp_server.errors == []
        """
    )
    result.assert_outcomes(passed=1)


def test_expected_errors(suite: Suite) -> None:
    """An expected exception fails no test, in whichever order the caller's own error is caught."""
    result = suite.run(
        """
        import pytest
        from wampkit import CallError

        async def test_inside(wamp_client, wamp_server):
            with wamp_server.expect_error(ZeroDivisionError, match="by zero") as expected:
                with pytest.raises(CallError):
                    await wamp_client.call("calc:inverse", 0)
            assert isinstance(expected.value, ZeroDivisionError)
            assert wamp_server.errors == []

        async def test_outside(wamp_client, wamp_server):
            with pytest.raises(CallError), wamp_server.expect_error((KeyError, ArithmeticError)):
                await wamp_client.call("calc:inverse", 0)

        async def test_publish(wamp_client, wamp_server):
            async with wamp_server.expect_error(KeyError, match="no such room") as expected:
                await wamp_client.publish("chat:lobby", {"text": "fail"})
            assert isinstance(expected.value, KeyError)

        def test_rpc(rpc, wamp_server):
            with wamp_server.expect_error(ZeroDivisionError), pytest.raises(CallError):
                rpc("calc:inverse", 0)

        @pytest.mark.wamp_errors
        async def test_any(wamp_client, wamp_server):
            with pytest.raises(CallError):
                await wamp_client.call("calc:inverse", 0)
            assert [type(error) for error in wamp_server.errors] == [ZeroDivisionError]
        """
    )
    result.assert_outcomes(passed=5)


def test_expected_errors_that_do_not_come(suite: Suite) -> None:
    """Expecting an exception that no handler raises fails the test."""
    result = suite.run(
        """
        import pytest
        from wampkit import CallError

        async def test_none(wamp_server):
            with wamp_server.expect_error(ValueError):
                pass

        async def test_none_later(wamp_server):
            async with wamp_server.expect_error(ValueError, within=0.05):
                pass

        def test_none_sync(wamp_server):
            with wamp_server.expect_error(ValueError, within=0.05):
                pass

        async def test_other(wamp_client, wamp_server):
            with wamp_server.expect_error(ZeroDivisionError, match="unrelated"), pytest.raises(CallError):
                await wamp_client.call("calc:inverse", 0)

        async def test_earlier(wamp_client, wamp_server):
            with pytest.raises(CallError):
                await wamp_client.call("calc:inverse", 0)
            with wamp_server.expect_error(ZeroDivisionError):
                pass
        """
    )
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines_random(
        [
            "E *AssertionError: no handler raised ValueError; for PUBLISH and SUBSCRIBE use `async with`*",
            "E *AssertionError: no handler raised ValueError within 0.05 s",
            "E *AssertionError: no handler raised ZeroDivisionError matching 'unrelated', but ZeroDivisionError(*",
        ]
    )


def test_a_broken_declaration(suite: Suite) -> None:
    """An app that cannot start fails the test with what is wrong, and the next test is not touched by it."""
    result = suite.run(
        """
        import pytest
        from wampkit import App

        app = App()
        app.add_rpc("http://example.com/{name}", lambda: None)

        @pytest.mark.wamp_app(app)
        def test_broken(rpc):
            pass

        def test_sound(rpc):
            assert rpc("calc:add", 2, 3) == 5
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *DeclarationError: *"])


def test_a_project_that_does_not_use_it_pays_nothing(suite: Suite) -> None:
    """pytest loads the plugin in every project of the environment: it imports the package when a fixture is used."""
    result = suite.run_apart(
        """
        import sys

        def heavy():
            return {"wampkit", "aiohttp", "msgspec"} & sys.modules.keys()

        def test_before():
            assert heavy() == set()

        def test_use(rpc):
            assert heavy() == {"wampkit", "aiohttp", "msgspec"}
        """,
        *("-p", "no:wampkit", "-p", "pytest_wampkit"),
    )
    result.assert_outcomes(passed=2)


def test_pytest_is_told_of_the_plugin() -> None:
    """The package's metadata names the module that imports nothing."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"wampkit": "pytest_wampkit"}
