"""What `wampkit.testing` shows: what a test of an app uses, and nothing else."""

import wampkit.testing
from wampkit import App
from wampkit.testing import ExpectedError, WampServer


def test_the_names() -> None:
    """The module has what a test names: types for annotations, the server, and what is done to a client."""
    assert wampkit.testing.__all__ == ["Connect", "ExpectedError", "Rpc", "WampServer", "drop", "no_event"]


def test_what_a_server_and_an_expected_error_show() -> None:
    """A test that holds the server, or an error that it expects, sees what it may use."""
    server = WampServer(App())
    used = ["app", "close", "connect", "errors", "expect_error", "settle", "start", "url"]
    assert [name for name in dir(server) if not name.startswith("_")] == used
    expected: ExpectedError = server.expect_error(ValueError)
    assert [name for name in dir(expected) if not name.startswith("_")] == ["value"]
