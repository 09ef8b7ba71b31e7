"""One connection's WAMP v1 state without any I/O: text in, messages out, text out.

`WampV1` serves both sides. It knows the session id, the prefixes and, on the client's side, the calls that wait
for an answer; it decides what may come from the other side. Whoever has a socket moves the bytes.
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
)
from .uris import expand
from .websocket import CloseCode

__all__ = ["SUBPROTOCOL", "VERSION", "Side", "WampV1"]

SUBPROTOCOL = "wamp"

VERSION = 1

Side = Literal["server", "client"]


# What a server is asked, by a name that it must resolve.
_REQUESTS: frozenset[type[Message]] = frozenset({Call, Subscribe, Unsubscribe, Publish})

_ANSWERS: frozenset[type[Message]] = frozenset({CallResult, CallFailed, Event})


class WampV1:
    """The state of one WAMP v1 session.

    Args:
        side: Which end this is.
        prefixes: The prefixes that hold before any PREFIX message: the app's, or those a client will send.
        ident: The server's free text in WELCOME.
        known: Names and the URIs that they mean by these prefixes, so that the usual ones need not be taken apart.
        limits: What the other side may ask for.
        welcome: Whether a server must begin with WELCOME; not all do.
    """

    __slots__ = (
        "_defaults",
        "_known",
        "_limits",
        "_own",
        "_prefixes_size",
        "_requests",
        "_waits",
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
        self.ident = ident
        # 24 random bytes: others learn the id through exclude and eligible, nobody can guess it.
        self.session_id = secrets.token_urlsafe(24) + SESSION_ID_SUFFIX if side == "server" else ""
        self.server_ident = ""
        self._waits = welcome
        self._welcomed = False
        self._defaults: Mapping[str, str] = prefixes or {}
        self._own: dict[str, str] | None = None
        self._prefixes_size = 0  # bytes of those that the other side has sent
        self._known: Mapping[str, str] = known or {}
        self._limits = limits or _ANY
        self._requests = _REQUESTS if side == "server" else frozenset()

    # ---- in

    def receive(self, data: bytes | str) -> Message:
        """The message in one text frame, with its URIs resolved; PREFIX and WELCOME have taken effect already.

        Raises:
            ProtocolError: The text is no message, or not one that may come from the other side now, or it asks for
                more than the limits allow.
        """
        message = decode(data, self._limits.nesting)
        kind = type(message)
        if kind in self._requests:
            name: str = message.uri  # type: ignore[union-attr]  # each of the four has one
            uri = self._known.get(name) or self.resolve(name)
            return message if uri == name else msgspec.structs.replace(message, uri=uri)
        if self.side == "server" and isinstance(message, Prefix):
            self._take_prefix(message)
        elif self.side == "client" and kind in _ANSWERS:
            if self._waits and not self._welcomed:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "the first message of a server is WELCOME")
        else:
            self._welcome_or_refuse(message)
        return message

    def _take_prefix(self, message: Prefix) -> None:
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
        if isinstance(message, Prefix) and (self._welcomed or not self._waits):
            # Ratchet and BabDev can send it; Autobahn|JS ignores it, and no server has a use for it.
            return
        if not isinstance(message, Welcome):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"a server does not send {name}")
        if self._welcomed:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a server sends WELCOME once")
        self._welcomed = True
        self.session_id = message.session_id
        self.server_ident = message.ident

    # ---- names

    @property
    def prefixes(self) -> Mapping[str, str]:
        """The prefixes in force on this connection."""
        return self._defaults if self._own is None else self._own

    def resolve(self, name: str) -> str:
        """The URI that a name means on this connection."""
        return expand(name, self._defaults if self._own is None else self._own)

    def set_prefix(self, prefix: str, uri: str) -> None:
        """Let `prefix:` stand for `uri` from now on, in place of what it stood for."""
        if self._own is None:
            self._own = dict(self._defaults)
        self._own[prefix] = uri
        self._known = {}

    # ---- out: a server's messages

    def welcome(self) -> bytes:
        """WELCOME, the first thing on the wire."""
        return encode(Welcome(self.session_id, VERSION, self.ident))

    def result(self, call_id: str, result: Any) -> bytes:
        """CALLRESULT. Raises TypeError, ValueError or RecursionError for a result that JSON cannot carry."""
        return encode_value([3, call_id, result])

    def error(self, call_id: str, uri: str, description: str, details: Any = None) -> bytes:
        """CALLERROR, with five elements only where there are details. Raises as `result` does."""
        return encode(CallFailed(call_id, uri, description, details))

    # ---- out: a client's messages

    def prefix(self, prefix: str, uri: str) -> bytes:
        """PREFIX; takes effect on this side too."""
        self.set_prefix(prefix, uri)
        return encode(Prefix(prefix, uri))

    def call(self, call_id: str, uri: str, *args: Any) -> bytes:
        """CALL under an id of the caller's choice."""
        return encode(Call(call_id, uri, list(args)))

    def subscribe(self, uri: str) -> bytes:
        """SUBSCRIBE."""
        return encode(Subscribe(uri))

    def unsubscribe(self, uri: str) -> bytes:
        """UNSUBSCRIBE."""
        return encode(Unsubscribe(uri))


def _size(prefix: str, uri: str) -> int:
    return len(prefix.encode()) + len(uri.encode())


_ANY = Limits()
