"""The package's exceptions, the CALLERROR that each becomes, and how foreign text is shown in one line.

`WampError` is an answer: a handler raises it and the caller receives it as CALLERROR. `ProtocolError` is the peer's
mistake and carries the close code that answers it. `DeclarationError` is the app author's mistake and stops the start.
`ClientError` is the base of what a client raises.
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

# ---- raised on the server


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
    """The answer to a call that failed; raise it in a handler, a dependency or a middleware.

    Args:
        uri: The error URI. A CURIE of the app's prefixes is sent as the full URI.
        description: One sentence for the caller.
        details: Any JSON value, or None for a CALLERROR without details.

    Raises:
        DeclarationError: The URI is missing or holds white space.
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
        return _with_description(self.uri, self.description)


def _with_description(uri: str, description: str) -> str:
    return f"{uri}: {description}" if description else uri


def _no_error_uri(name: str, uri: object) -> str:
    example = f'{name}("http://example.com/error#sold-out", "it is sold out")'
    if not uri:
        return f"{name} needs the error's URI, by which callers tell errors apart: raise {example}"
    return f"{name}: the URI comes first and {quote(uri)} is none: raise {example}"


class _KindError(WampError):
    """A `WampError` whose URI is looked up by its kind in `App(error_uris=...)`, else in `ERROR_URIS`."""

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


class DeclarationError(TypeError):
    """A handler, a route or an option is declared in a way that cannot work; the message says what to change."""


class ProtocolError(Exception):
    """The peer sent what WAMP v1 does not allow.

    Args:
        code: The WebSocket close code that answers it: 1007 (not JSON), 1002 (not a legal message), 1003
            (binary) or 1008 (more than may be asked for), RFC 6455 section 7.4.1.
        reason: The mistake, for the close frame and the log.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (close code {self.code})"


# ---- sent to the caller


def answer_for(error: BaseException, uris: Mapping[str, str], *, debug: bool = False) -> tuple[str, str, Any]:
    """The URI, description and details of the CALLERROR that answers an exception.

    A `WampError` is sent as it is. Any other exception becomes the generic error without its text, unless `debug` is
    set.
    """
    if isinstance(error, WampError):
        uri = uris[error.kind] if error.kind is not None else error.uri
        return uri, error.description, error.details
    description = "the procedure failed"
    if debug:
        description += f": {type(error).__name__}: {error}"
    return uris["generic"], description, None


# ---- raised by the client


class ClientError(Exception):
    """The base of what `wampkit.connect` and its client raise."""


class CallError(ClientError):
    """The server answered a call with CALLERROR.

    Attributes:
        uri: The error URI as the server sent it.
        description: The server's sentence, possibly empty.
        details: The server's details, or None.
    """

    def __init__(self, uri: str, description: str = "", details: Any = None) -> None:
        super().__init__(uri, description, details)
        self.uri = uri
        self.description = description
        self.details = details

    def __str__(self) -> str:
        return _with_description(self.uri, self.description)


class ConnectionLost(ClientError, ConnectionError):
    """The connection has ended or was never made; a call in flight may or may not have run.

    Attributes:
        code: The WebSocket close code, 1006 if the connection was cut, or None before any connection.
        reason: Why, as far as the client knows.
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
    """The server refused the login, or asked for something that no honest server asks for.

    Attributes:
        uri: The error URI that the server answered, such as `http://api.wamp.ws/error#invalid-signature`; "" if the
            client gave up.
    """

    def __init__(self, reason: str, uri: str = "") -> None:
        super().__init__(reason)
        self.uri = uri


# ---- text in one line


def quote(text: object, limit: int = 128) -> str:
    """A peer's text for a log line, an error or a terminal: in quotes, escaped, at most `limit` characters.

    Everything but printable ASCII is shown as an escape, so that the text stays in one line.
    """
    whole = text if isinstance(text, str) else repr(text)
    shown = ascii(whole[:limit])
    return shown if len(whole) <= limit else f"{shown}… ({len(whole)} characters)"


_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
"""Control characters, line separators, marks of writing direction, and lone surrogates."""

"\x00".encode("unicode_escape")  # loads the codec now: later the process may be out of file descriptors


def escape(text: str) -> str:
    """A text with escapes for the characters that could end a line or control a terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A text as one line of a terminal: line breaks become spaces, control characters escapes."""
    return escape(" ".join(part.strip() for part in text.splitlines() if part.strip()))


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint at a similar word, for the end of an error message; "" if there is none."""
    import difflib  # slow to import, and needed for mistakes only

    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
