"""The pytest plugin under pytest-asyncio (strict and auto), anyio and uvloop."""

import pytest

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

from ..support.plugin_suite import AUTO, PLAIN, STRICT, Suite

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
