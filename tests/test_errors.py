"""What a caller may know of an error, and how a peer's text is shown."""

import pytest

from wampkit import ERROR_URIS, DeclarationError, InvalidArgument, NotAllowed, NotFound, WampError
from wampkit.errors import CallError, ConnectionLost, HandshakeRefused, ProtocolError, answer_for, one_line, quote

from .support.tables import rows


def test_a_wamp_error_speaks_for_itself() -> None:
    """URI, description and details of a `WampError` are its answer."""
    assert answer_for(WampError("a:b", "text", [1]), ERROR_URIS) == ("a:b", "text", [1])
    assert answer_for(WampError("a:b"), ERROR_URIS) == ("a:b", "", None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NotFound("x"), "not_found"), (InvalidArgument("x"), "invalid_argument"), (NotAllowed("x"), "not_allowed")],
)
def test_a_kind_finds_its_uri_in_the_table(error: WampError, kind: str) -> None:
    """Errors by kind carry the table's URI, also one that the app has replaced."""
    assert answer_for(error, ERROR_URIS) == (ERROR_URIS[kind], "x", None)
    assert error.uri == ERROR_URIS[kind]
    assert answer_for(error, {**ERROR_URIS, kind: "mine"})[0] == "mine"


def test_anything_else_keeps_its_text_to_itself() -> None:
    """An unexpected exception is the generic error; only `debug` tells what it was."""
    secret = ValueError("password is hunter2")
    uri, description, details = answer_for(secret, ERROR_URIS)
    assert (uri, details) == ("http://api.wamp.ws/error#generic", None)
    assert "hunter2" not in description
    assert "ValueError: password is hunter2" in answer_for(secret, ERROR_URIS, debug=True)[1]


def test_errors_read_well() -> None:
    """An error as text says what a reader needs."""
    assert str(WampError("a:b", "text")) == str(CallError("a:b", "text")) == "a:b: text"
    assert str(WampError("a:b")) == str(CallError("a:b")) == "a:b"
    assert str(ProtocolError(1002, "too short")) == "too short (close code 1002)"
    assert str(ConnectionLost("gone", 1006)) == "gone"


def test_the_clients_errors_are_connection_errors() -> None:
    """`except ConnectionError` catches a lost connection and a refused handshake; a bad declaration is a TypeError."""
    assert issubclass(ConnectionLost, ConnectionError)
    assert issubclass(HandshakeRefused, ConnectionLost)
    assert issubclass(DeclarationError, TypeError)


@rows(
    ("text", "shown"),
    [
        ("plain", "'plain'"),
        ("two\nlines\x1b[31m", r"'two\nlines\x1b[31m'"),
        ("k\u00fcche \u2028 \u202e", r"'k\xfcche \u2028 \u202e'"),
        ("\ud800", r"'\ud800'"),
        (7, "'7'"),
        ("", "''"),
    ],
)
def test_a_peers_text_is_escaped(text: object, shown: str) -> None:
    """Control characters, line separators and text direction marks are visible and harmless."""
    assert quote(text) == shown


def test_a_peers_long_text_is_shortened() -> None:
    """Only the beginning of a long text is shown, with its length."""
    shown = quote("x" * 60_000, 10)
    assert shown == "'xxxxxxxxxx'… (60000 characters)"


def test_one_line() -> None:
    """Whatever the text, it is one line without control characters."""
    assert one_line("a\n  b\r\n\x1b[31m\u202e\u2028c\x00 Grüße") == "a b \\x1b[31m\\u202e c\\x00 Grüße"
