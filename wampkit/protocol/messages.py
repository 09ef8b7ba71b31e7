"""The nine messages of WAMP v1, decoded from text and encoded to text.

Each is one JSON array that begins with the number of its type. Which side may send which message is checked in
`v1.py`. The repr of a message leaves its payload out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import msgspec

from ..errors import ProtocolError, quote
from .strict_json import MAX_NESTING, SHORT, decode_short, read_json
from .websocket import CloseCode

__all__ = [
    "NAMES",
    "Call",
    "CallFailed",
    "CallResult",
    "Event",
    "Message",
    "NotJson",
    "Prefix",
    "Publish",
    "Subscribe",
    "Unsubscribe",
    "Welcome",
    "decode",
    "decode_head",
    "encode",
    "encode_value",
    "event_head",
    "event_text",
    "publish_elements",
    "read_publish",
]


class Welcome(msgspec.Struct, frozen=True):
    """`[0, sessionId, protocolVersion, serverIdent]`, the server's first message."""

    code: ClassVar[int] = 0
    session_id: str
    version: int
    ident: str


class Prefix(msgspec.Struct, frozen=True):
    """`[1, prefix, uri]`: defines `prefix:` as `uri` on this connection."""

    code: ClassVar[int] = 1
    prefix: str
    uri: str


class Call(msgspec.Struct, frozen=True):
    """`[2, callId, procUri, arg...]`."""

    code: ClassVar[int] = 2
    id: str
    uri: str
    args: list[Any]

    def __repr__(self) -> str:
        return f"Call(id={quote(self.id)}, uri={quote(self.uri)}, {len(self.args)} arguments)"


class CallResult(msgspec.Struct, frozen=True):
    """`[3, callId, result]`."""

    code: ClassVar[int] = 3
    id: str
    result: Any

    def __repr__(self) -> str:
        return f"CallResult(id={quote(self.id)})"


class CallFailed(msgspec.Struct, frozen=True):
    """`[4, callId, errorUri, errorDesc]` or the same with `errorDetails`: WAMP's CALLERROR."""

    code: ClassVar[int] = 4
    id: str
    uri: str
    description: str
    details: Any = None

    def __repr__(self) -> str:
        return f"CallFailed(id={quote(self.id)}, uri={quote(self.uri)})"


class Subscribe(msgspec.Struct, frozen=True):
    """`[5, topicUri]`."""

    code: ClassVar[int] = 5
    uri: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """`[6, topicUri]`."""

    code: ClassVar[int] = 6
    uri: str


class Publish(msgspec.Struct, frozen=True):
    """`[7, topicUri, event]`, with `excludeMe` or the lists `exclude` and `eligible` of session ids behind it."""

    code: ClassVar[int] = 7
    uri: str
    event: Any
    exclude_me: bool | None = None
    exclude: list[str] | None = None
    eligible: list[str] | None = None

    def __repr__(self) -> str:
        return f"Publish(uri={quote(self.uri)})"


class Event(msgspec.Struct, frozen=True):
    """`[8, topicUri, event]`."""

    code: ClassVar[int] = 8
    uri: str
    event: Any

    def __repr__(self) -> str:
        return f"Event(uri={quote(self.uri)})"


Message: TypeAlias = Welcome | Prefix | Call | CallResult | CallFailed | Subscribe | Unsubscribe | Publish | Event


class NotJson(TypeError):
    """A value that JSON cannot carry; the text names its type and what to give instead."""


def _refuse_type(value: Any) -> Any:
    """The encoder's hook for a value of a type that it does not know."""
    kind = type(value)
    advice = next(
        (advice for attribute, advice in _ADVICE.items() if hasattr(kind, attribute)),
        "give a dict, a list, a dataclass or a msgspec.Struct instead",
    )
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise NotJson(f"JSON cannot carry a {name}: {advice}")


_ADVICE = {
    "model_dump": 'it looks like pydantic; give its .model_dump(mode="json") instead',
    "__await__": "an await is missing",
    "__next__": "make a list of it",
    "tolist": "give its .tolist() instead",
    "_asdict": "give its ._asdict() instead",
    "keys": "give dict(...) of it instead",
}
"""The advice for a value, by an attribute of its type."""

encode_value: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_refuse_type).encode
"""Encode a value as JSON text in UTF-8. NaN and the infinities become null, as in JavaScript's JSON.stringify.

Raises NotJson (a TypeError) for a type that JSON cannot carry, UnicodeEncodeError for a lone surrogate,
RecursionError for a value that contains itself.
"""

NAMES: Mapping[int, str] = MappingProxyType(
    {each.code: each.__name__.upper() for each in (Welcome, Prefix, Call, Subscribe, Unsubscribe, Publish, Event)}
    | {CallResult.code: "CALLRESULT", CallFailed.code: "CALLERROR"}
)
"""The name of each type number in the specification."""


def encode(message: Message) -> bytes:
    """Encode a message as JSON text. Raises as `encode_value` does."""
    match message:
        case Call():
            return encode_value([2, message.id, message.uri, *message.args])
        case CallFailed(details=None):
            return encode_value([4, message.id, message.uri, message.description])
        case Publish():
            return encode_value(publish_elements(message))
        case _:
            return encode_value([message.code, *msgspec.structs.astuple(message)])


def publish_elements(message: Publish) -> list[Any]:
    """The elements of a PUBLISH, its type number included; some servers do not know the optional ones."""
    elements = [7, message.uri, message.event]
    if message.exclude is not None or message.eligible is not None:
        elements.append(message.exclude_me if message.exclude is None else message.exclude)
        if message.eligible is not None:
            elements.append(message.eligible)
    elif message.exclude_me is not None:
        elements.append(message.exclude_me)
    return elements


def event_head(uri: str) -> bytes:
    """The beginning of each EVENT of a topic, for `event_text`."""
    return b"[8," + encode_value(uri) + b","


def event_text(head: bytes, event: bytes) -> bytes:
    """EVENT from the head of its topic and the event as JSON text, so that an event is encoded once for all."""
    return head + event + b"]"


def decode(data: bytes | str, nesting: int = MAX_NESTING) -> Message:
    """Decode the message in one text frame.

    Args:
        data: The text, as bytes or decoded.
        nesting: How deep its lists and objects may nest.

    Raises:
        ProtocolError: 1007 if the text is not JSON in UTF-8, nests too deep or holds a number beyond a double;
            1002 if it is JSON but no WAMP v1 message.
    """
    if len(data) <= SHORT and len(data) <= 2 * nesting:
        try:
            elements = decode_short(data)
        except (ValueError, RecursionError):
            elements = read_json(data, nesting)
    else:
        elements = read_json(data, nesting)
    if type(elements) is not list or not elements:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a WAMP message is a JSON list that begins with its type number")
    code = elements[0]
    # `True == 1` and `2.0 == 2` in Python: the type decides, not the value.
    reader = _READERS.get(code) if type(code) is int else None
    if reader is None:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"unknown message type {_shown(code)}")
    return reader(elements)


# ---- decoding the beginning only


_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'

_HEAD = re.compile(rb"\s*+\[\s*+([0-9]++)\s*+(?:,\s*+(" + _TEXT + rb")\s*+(?:,\s*+(" + _TEXT + rb"))?)?", re.DOTALL)


def decode_head(data: bytes) -> list[Any]:
    """Decode the type number of a message and up to two texts after it, without parsing the rest.

    Returns:
        The elements, or an empty list if the text does not begin like a message.
    """
    found = _HEAD.match(data)
    if found is None:
        return []
    try:
        elements: list[Any] = read_json(b"[" + b",".join(filter(None, found.groups())) + b"]")
    except ProtocolError:
        return []
    return elements


def _shown(code: Any) -> str:
    # The text of a list or an object would cost more than it did to read it.
    return "that is a list" if type(code) is list else "that is an object" if type(code) is dict else quote(code, 24)


# ---- one reader for each type, which checks the number and types of the elements


def _refuse(form: str) -> ProtocolError:
    return ProtocolError(CloseCode.PROTOCOL_ERROR, f"expected {form}")


def _strings(elements: list[Any], first: int, last: int) -> bool:
    return set(map(type, elements[first:last])) <= {str}


def _read_welcome(elements: list[Any]) -> Welcome:
    # A client reads leniently: some servers leave the ident out.
    if not 3 <= len(elements) <= 4 or type(elements[1]) is not str or type(elements[2]) is not int:
        raise _refuse("WELCOME [0, sessionId, protocolVersion, serverIdent]")
    ident = elements[3] if len(elements) == 4 else ""
    return Welcome(elements[1], elements[2], ident if type(ident) is str else "")


def _read_prefix(elements: list[Any]) -> Prefix:
    if len(elements) != 3 or not _strings(elements, 1, 3):
        raise _refuse("PREFIX [1, prefix, uri]")
    return Prefix(elements[1], elements[2])


def _read_call(elements: list[Any]) -> Call:
    if len(elements) < 3 or type(elements[1]) is not str or type(elements[2]) is not str:
        raise _refuse("CALL [2, callId, procUri, arguments...]")
    return Call(elements[1], elements[2], elements[3:])


def _read_call_result(elements: list[Any]) -> CallResult:
    if len(elements) != 3 or type(elements[1]) is not str:
        raise _refuse("CALLRESULT [3, callId, result]")
    return CallResult(elements[1], elements[2])


def _read_call_failed(elements: list[Any]) -> CallFailed:
    # WampSharp sends a null error URI for exceptions it does not know.
    if not 4 <= len(elements) <= 5 or type(elements[1]) is not str:
        raise _refuse("CALLERROR [4, callId, errorUri, errorDesc, errorDetails]")
    uri, description = elements[2], elements[3]
    return CallFailed(
        elements[1],
        uri if type(uri) is str else "",
        description if type(description) is str else "",
        elements[4] if len(elements) == 5 else None,
    )


def _read_subscribe(elements: list[Any]) -> Subscribe:
    if len(elements) != 2 or type(elements[1]) is not str:
        raise _refuse("SUBSCRIBE [5, topicUri]")
    return Subscribe(elements[1])


def _read_unsubscribe(elements: list[Any]) -> Unsubscribe:
    if len(elements) != 2 or type(elements[1]) is not str:
        raise _refuse("UNSUBSCRIBE [6, topicUri]")
    return Unsubscribe(elements[1])


def read_publish(elements: list[Any]) -> Publish:
    """A PUBLISH from its elements, its type number included. Raises ProtocolError."""
    count = len(elements)
    if not 3 <= count <= 5 or type(elements[1]) is not str:
        raise _refuse("PUBLISH [7, topicUri, event, excludeMe | exclude, eligible]")
    if count == 3:
        return Publish(elements[1], elements[2])
    exclude_me = exclude = eligible = None
    if type(elements[3]) is bool:
        exclude_me = elements[3]
    else:
        exclude = _session_ids(elements[3], "exclude")
    if count == 5:
        eligible = _session_ids(elements[4], "eligible")
    return Publish(elements[1], elements[2], exclude_me, exclude, eligible)


def _session_ids(value: Any, name: str) -> list[str] | None:
    # autobahn-python's client writes null for a list that was not given.
    if value is None:
        return None
    if type(value) is not list or not _strings(value, 0, len(value)):
        raise _refuse(f"PUBLISH with a list of session ids as {name}")
    return value


def _read_event(elements: list[Any]) -> Event:
    if len(elements) != 3 or type(elements[1]) is not str:
        raise _refuse("EVENT [8, topicUri, event]")
    return Event(elements[1], elements[2])


_READERS: dict[int, Callable[[list[Any]], Message]] = {
    0: _read_welcome,
    1: _read_prefix,
    2: _read_call,
    3: _read_call_result,
    4: _read_call_failed,
    5: _read_subscribe,
    6: _read_unsubscribe,
    7: read_publish,
    8: _read_event,
}
