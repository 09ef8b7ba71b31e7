"""How the pytest plugin finds the app: the fixture, the marker, the ini option."""

import pytest

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

from ..support.plugin_suite import Suite


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
