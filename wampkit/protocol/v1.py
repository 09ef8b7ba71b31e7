"""The WAMP v1 state of one connection, without I/O: text in, messages out; values in, text out.

`WampV1` serves both sides. It keeps the session id and the prefixes, and decides which messages the other side may
send. A second version of WAMP would be a class beside it with the same methods.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..errors import ProtocolError
from ..limits import Limits
from .extensions import SESSION_ID_SUFFIX
from .messages import (
    NAMES,
    Call,
    CallFailed,
    CallResult,
    Event,
    Message,
    Prefix,
    Publish,
    Subscribe,
    Unsubscribe,
    Welcome,
    decode,
    encode,
    encode_value,
    publish_elements,
)
from .uris import expand
from .websocket import CloseCode

__all__ = ["SUBPROTOCOL", "Side", "WampV1"]

SUBPROTOCOL = "wamp"
"""The WebSocket subprotocol that both sides offer in the handshake."""

VERSION = 1

Side = Literal["server", "client"]

_REQUESTS: frozenset[type[Message]] = frozenset({Call, Subscribe, Unsubscribe, Publish})
"""The messages of a client whose URI may be a CURIE."""

_ANSWERS: frozenset[type[Message]] = frozenset({CallResult, CallFailed, Event})
"""The messages of a server after WELCOME."""

_DEFAULT_LIMITS = Limits()


class WampV1:
    """The state of one WAMP v1 session.

    Args:
        side: The side that this object speaks for.
        prefixes: The prefixes in force before any PREFIX message.
        ident: The server's name and version in WELCOME, a free text.
        known: A cache from the usual names to the URIs that they stand for by these prefixes.
        limits: The bounds for messages of the other side.
        welcome: Whether the server must begin with WELCOME; some servers do not.

    Attributes:
        session_id: The id of the session; a client knows it after WELCOME.
        server_ident: The server's name and version; a client knows it after WELCOME.
    """

    __slots__ = (
        "_defaults",
        "_expects_welcome",
        "_known",
        "_limits",
        "_own",
        "_prefixes_size",
        "_requests",
        "_welcomed",
        "ident",
        "server_ident",
        "session_id",
        "side",
    )

    def __init__(
        self,
        side: Side,
        *,
        prefixes: Mapping[str, str] | None = None,
        ident: str = "wampkit",
        known: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        welcome: bool = True,
    ) -> None:
        self.side = side
        self.ident: str = ident
        # 24 random bytes, so that an id cannot be guessed: who knows it can exclude its client from events.
        self.session_id: str = secrets.token_urlsafe(24) + SESSION_ID_SUFFIX if side == "server" else ""
        self.server_ident: str = ""
        self._expects_welcome = welcome
        self._welcomed = False
        self._defaults: Mapping[str, str] = prefixes or {}
        self._own: dict[str, str] | None = None
        self._prefixes_size = 0  # bytes of the prefixes and URIs that the other side has sent
        self._known: Mapping[str, str] = known or {}
        self._limits = limits or _DEFAULT_LIMITS
        self._requests = _REQUESTS if side == "server" else frozenset()

    # ---- receiving

    def receive(self, data: bytes | str) -> Message:
        """Decode the message in one text frame, expand its CURIE, and apply it if it is PREFIX or WELCOME.

        Raises:
            ProtocolError: The text is no message, or one that the other side may not send now, or it exceeds the
                limits.
        """
        message = decode(data, self._limits.nesting)
        kind = type(message)
        if kind in self._requests:
            name: str = message.uri  # type: ignore[union-attr]  # each of the four has one
            uri = self._known.get(name) or self.resolve(name)
            return message if uri == name else msgspec.structs.replace(message, uri=uri)
        if self.side == "server" and isinstance(message, Prefix):
            self._apply_prefix(message)
        elif self.side == "client" and kind in _ANSWERS:
            if self._expects_welcome and not self._welcomed:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "the first message of a server is WELCOME")
        else:
            self._welcome_or_refuse(message)
        return message

    def _apply_prefix(self, message: Prefix) -> None:
        most = self._limits.uri_length
        if len(message.uri.encode()) > most or len(message.prefix.encode()) > most:
            raise ProtocolError(CloseCode.POLICY_VIOLATION, f"a prefix or its URI is longer than {most} bytes")
        own, limits = self._own, self._limits
        if own is not None and message.prefix not in own and len(own) >= limits.prefixes + len(self._defaults):
            raise ProtocolError(CloseCode.POLICY_VIOLATION, f"more than {limits.prefixes} prefixes")
        size = self._prefixes_size + _size(message.prefix, message.uri)
        before = None if own is None else own.get(message.prefix)
        if before is not None and before is not self._defaults.get(message.prefix):
            size -= _size(message.prefix, before)
        if size > limits.prefixes_size:
            raise ProtocolError(
                CloseCode.POLICY_VIOLATION, f"more than {limits.prefixes_size} bytes of prefixes and their URIs"
            )
        self._prefixes_size = size
        self.set_prefix(message.prefix, message.uri)

    def _welcome_or_refuse(self, message: Message) -> None:
        name = NAMES[message.code]
        if self.side == "server":
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"a client does not send {name}")
        if isinstance(message, Prefix) and (self._welcomed or not self._expects_welcome):
            # Ratchet and BabDev can send it, without effect; Autobahn|JS ignores it too.
            return
        if not isinstance(message, Welcome):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"a server does not send {name}")
        if self._welcomed:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a server sends WELCOME once")
        self._welcomed = True
        self.session_id = message.session_id
        self.server_ident = message.ident

    # ---- prefixes

    @property
    def prefixes(self) -> Mapping[str, str]:
        """The prefixes in force on this connection."""
        return self._defaults if self._own is None else self._own

    def resolve(self, name: str) -> str:
        """Expand a CURIE by the prefixes of this connection; other names stay unchanged."""
        return expand(name, self._defaults if self._own is None else self._own)

    def set_prefix(self, prefix: str, uri: str) -> None:
        """Define or redefine a prefix of this connection."""
        if self._own is None:
            self._own = dict(self._defaults)
        self._own[prefix] = uri
        self._known = {}

    # ---- texts of a server

    def welcome(self) -> bytes:
        """WELCOME, the first message of a server."""
        return encode(Welcome(self.session_id, VERSION, self.ident))

    def result(self, call_id: str, result: Any) -> bytes:
        """CALLRESULT. Raises TypeError, ValueError or RecursionError for a result that JSON cannot carry."""
        return encode_value([3, call_id, result])

    def error(self, call_id: str, uri: str, description: str, details: Any = None) -> bytes:
        """CALLERROR, with five elements only where there are details. Raises as `result` does."""
        return encode(CallFailed(call_id, uri, description, details))

    # ---- texts of a client

    def prefix(self, prefix: str, uri: str) -> bytes:
        """PREFIX; the prefix is defined on this side too."""
        self.set_prefix(prefix, uri)
        return encode(Prefix(prefix, uri))

    def call(self, call_id: str, uri: str, *args: Any) -> bytes:
        """CALL; the answer will carry the same id."""
        return encode(Call(call_id, uri, list(args)))

    def publish(self, message: Publish) -> bytes:
        """PUBLISH, as `publish_elements` has it."""
        return encode_value(self.publish_elements(message))

    def publish_elements(self, message: Publish) -> list[Any]:
        """The elements of a PUBLISH: with `exclude_me`, a list of excluded ids gets this session's id, as it takes the
        place of `excludeMe` on the wire."""
        exclude = message.exclude
        if exclude is not None and message.exclude_me and self.session_id not in exclude:
            message = msgspec.structs.replace(message, exclude=[*exclude, self.session_id])
        return publish_elements(message)

    def subscribe(self, uri: str) -> bytes:
        """SUBSCRIBE."""
        return encode(Subscribe(uri))

    def unsubscribe(self, uri: str) -> bytes:
        """UNSUBSCRIBE."""
        return encode(Unsubscribe(uri))


def _size(prefix: str, uri: str) -> int:
    return len(prefix.encode()) + len(uri.encode())
