"""What can go wrong, whose mistake it was, and what the other side may know of it.

`WampError` is an answer: a handler raises it and the caller receives it as CALLERROR. `ProtocolError` is the
peer's mistake and carries the close code that answers it. `DeclarationError` is the app author's mistake and
stops the start. `CallError` and `ConnectionLost` are what a client meets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

__all__ = [
    "ERROR_URIS",
    "AuthenticationFailed",
    "Busy",
    "CallError",
    "ClientError",
    "ConnectionLost",
    "DeclarationError",
    "HandshakeRefused",
    "InvalidArgument",
    "LimitExceeded",
    "NotAllowed",
    "NotFound",
    "ProtocolError",
    "TooManyMessages",
    "WampError",
    "answer_for",
    "escape",
    "one_line",
    "quote",
    "suggestion",
]

ERROR_URIS: Mapping[str, str] = MappingProxyType(
    {
        "not_found": "http://api.wamp.ws/error#NoSuchRPCEndpoint",
        "invalid_argument": "http://api.wamp.ws/error#invalid-argument",
        "not_allowed": "http://api.wamp.ws/error#not_authorized",
        "timeout": "http://api.wamp.ws/error#timeout",
        "limit_exceeded": "http://api.wamp.ws/error#limit-exceeded",
        "too_many_messages": "http://api.wamp.ws/error#too-many-messages",
        "busy": "http://api.wamp.ws/error#busy",
        "internal": "http://api.wamp.ws/error#internal",
        "generic": "http://api.wamp.ws/error#generic",
    }
)
"""The error URI of each kind of failure; `App(error_uris={...})` replaces any of them.

WAMP v1 defines no error URI. `NoSuchRPCEndpoint`, `generic`, `internal` and `invalid-argument` are those of
autobahn-python 0.8, `not_authorized` that of WampSharp; the others follow their form.
"""


class WampError(Exception):
    """An answer to a call that failed; raise it in a handler, a dependency or a middleware.

    Args:
        uri: The error URI. A CURIE of the app's prefixes is sent as the full URI.
        description: One sentence for the caller.
        details: Anything JSON can carry, or None for a CALLERROR without details.

    Raises:
        DeclarationError: The URI is missing, or can be none, as a sentence cannot.
    """

    kind: ClassVar[str | None] = None

    def __init__(self, uri: str = "", description: str = "", details: Any = None) -> None:
        if not isinstance(uri, str) or uri.split() != [uri]:
            raise DeclarationError(_no_error_uri(type(self).__name__, uri))
        super().__init__(uri, description, details)
        self.uri = uri
        self.description = description
        self.details = details

    def __str__(self) -> str:
        return f"{self.uri}: {self.description}" if self.description else self.uri


def _no_error_uri(name: str, uri: object) -> str:
    example = f'{name}("http://example.com/error#sold-out", "it is sold out")'
    if not uri:
        return f"{name} needs the error's URI, by which callers tell errors apart: raise {example}"
    return f"{name}: the URI comes first and {quote(uri)} is none: raise {example}"


class _KindError(WampError):
    """A `WampError` whose URI is looked up in the app's error table by its kind."""

    kind: ClassVar[str]

    def __init__(self, description: str = "", details: Any = None) -> None:
        super().__init__(ERROR_URIS[self.kind], description, details)


class NotFound(_KindError):
    """There is no such procedure or topic."""

    kind = "not_found"


class InvalidArgument(_KindError):
    """An argument or an event does not have the form that the handler declares."""

    kind = "invalid_argument"


class NotAllowed(_KindError):
    """The caller may not do this."""

    kind = "not_allowed"


class LimitExceeded(_KindError):
    """The caller asks for more than `Limits` allow."""

    kind = "limit_exceeded"


class TooManyMessages(_KindError):
    """The caller sends more messages than `Limits` allow."""

    kind = "too_many_messages"


class Busy(_KindError):
    """Too many calls wait for a thread; the same call may succeed a little later."""

    kind = "busy"


class ProtocolError(Exception):
    """The peer sent what WAMP v1 does not allow.

    Args:
        code: The WebSocket close code that answers it: 1007 (not JSON), 1002 (not a legal message), 1003
            (binary) or 1008 (more than may be asked for), RFC 6455 section 7.4.1.
        reason: What was wrong, for the close frame and the log.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (close code {self.code})"


class DeclarationError(TypeError):
    """A handler, a route or an option is declared in a way that cannot work; says what to change."""


class ClientError(Exception):
    """The base of what `wampkit.connect` raises."""


class CallError(ClientError):
    """The server answered a call with CALLERROR.

    Attributes:
        uri: The error URI as the server sent it.
        description: The server's sentence, possibly empty.
        details: Whatever the server added, or None.
    """

    def __init__(self, uri: str, description: str = "", details: Any = None) -> None:
        super().__init__(uri, description, details)
        self.uri = uri
        self.description = description
        self.details = details

    def __str__(self) -> str:
        return f"{self.uri}: {self.description}" if self.description else self.uri


class ConnectionLost(ClientError, ConnectionError):
    """The connection is gone or was never there; a call in flight may or may not have run.

    Attributes:
        code: The WebSocket close code, 1006 where the wire was cut, or None before any connection.
        reason: Why, as far as this side knows.
    """

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class HandshakeRefused(ConnectionLost):
    """The server answered the WebSocket handshake with an HTTP error or without the subprotocol `wamp`.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class AuthenticationFailed(ConnectionLost):
    """The server did not let this client log in, or asked for what no honest server does.

    Attributes:
        uri: The error URI that the server answered, such as `http://api.wamp.ws/error#invalid-signature`; "" where it
            was the client who gave up.
    """

    def __init__(self, reason: str, uri: str = "") -> None:
        super().__init__(reason)
        self.uri = uri


def answer_for(error: BaseException, uris: Mapping[str, str], *, debug: bool = False) -> tuple[str, str, Any]:
    """What a caller may know of `error`: the error URI, the description and the details of its CALLERROR.

    Only a `WampError` speaks for itself. Anything else becomes the generic error and keeps its text to
    itself, unless `debug` is set.
    """
    if isinstance(error, WampError):
        uri = uris[error.kind] if error.kind is not None else error.uri
        return uri, error.description, error.details
    description = "the procedure failed"
    if debug:
        description += f": {type(error).__name__}: {error}"
    return uris["generic"], description, None


def quote(text: object, limit: int = 128) -> str:
    """A peer's text made fit for a log line, an error or a terminal: escaped, in quotes, at most `limit` characters.

    Control characters, line separators and anything else that is not printable ASCII stay visible as escapes,
    so that one message is one line.
    """
    whole = text if isinstance(text, str) else repr(text)
    shown = ascii(whole[:limit])
    return shown if len(whole) <= limit else f"{shown}… ({len(whole)} characters)"


_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
"""Control characters, line separators, what turns the direction of writing, and lone surrogates."""

"\x00".encode("unicode_escape")  # so that the codec is there when no file can be opened any more


def escape(text: str) -> str:
    """A text in which every character that could end a line or command a terminal is shown as its escape."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A text fit for one line of a terminal: line breaks become spaces, control characters their escapes."""
    return escape(" ".join(part.strip() for part in text.splitlines() if part.strip()))


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint at a similar word, to be put behind an error; empty where there is none."""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
