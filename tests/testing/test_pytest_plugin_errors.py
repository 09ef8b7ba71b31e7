"""Errors of handlers fail the test that caused them, unless the test expects them."""

import tomllib
from pathlib import Path

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

from ..support.plugin_suite import Suite


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
