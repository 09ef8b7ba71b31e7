"""JSON text to values, strictly, at a cost that no text can drive far above that of a plain one.

msgspec decodes. What it does not judge (depth, integers beyond a double), judges otherwise (lone surrogates) or is
slow at (doubles with large exponents) is found by passes that run in C: no text is walked in Python.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from itertools import accumulate, chain
from math import isinf
from operator import sub
from typing import Any

import msgspec

from ..errors import ProtocolError
from .websocket import CloseCode

__all__ = ["MAX_NESTING", "SHORT", "decode_short", "read_json"]

MAX_NESTING = 128
"""How deep lists and objects of a message may nest by default, its own list included."""

SHORT = 308
"""Bytes of a text that is too short for an integer beyond the largest double, which has 309 digits."""

LONG = 64 * 1024
"""Bytes of a text that may hold so many lists that the garbage collector costs more than the decoder."""


def read_json(data: bytes | bytearray | str, nesting: int = MAX_NESTING) -> Any:
    """The value of a JSON text.

    A lone surrogate escape is read as U+FFFD: it is JSON, but no text in UTF-8 can carry it on, so it must not get
    as far as other clients.

    Args:
        data: The text, as bytes or decoded.
        nesting: How deep its lists and objects may nest.

    Raises:
        ProtocolError: 1007, if it is not JSON in UTF-8, nests too deep or holds a number that no double can.
    """
    if type(data) is not bytes:
        data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    # Each level takes two bytes.
    is_short = len(data) <= SHORT and len(data) <= 2 * nesting
    decode = decode_short if is_short else _check(data, nesting)
    if len(data) >= LONG:
        decode = _without_collector(decode)
    try:
        return decode(data)
    except (ValueError, RecursionError) as error:
        mended = _without_lone_surrogates(data)
        if mended == data:
            raise _not_json(error) from None
    try:
        return decode(mended)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


def _without_collector(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A decoder during which Python 3.11 collects no garbage, of which decoding makes none.

    Each 700 lists let it look at all lists so far, which takes four times as long as to make them.
    """

    def decode_uncollected(data: bytes) -> Any:
        is_enabled = gc.isenabled()
        gc.disable()
        try:
            return decode(data)
        finally:
            if is_enabled:
                gc.enable()

    return decode_uncollected


def _not_json(error: Exception) -> ProtocolError:
    if isinstance(error, UnicodeDecodeError):
        reason = "the text is not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "it nests too deep"
    else:
        reason = str(error).removeprefix("JSON is malformed: ").split(" - at ")[0]
    return ProtocolError(CloseCode.INVALID_DATA, f"not JSON: {reason}")


# ---- numbers


OUT_OF_RANGE = "Number out of range"


def _to_float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(OUT_OF_RANGE)
    return value


_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode

_decode_by_float: Callable[[bytes | str], Any] = msgspec.json.Decoder(float_hook=_to_float).decode
"""Twice as slow at usual doubles, but never slow: msgspec takes 7 µs for `8e307`, which is 1.3 s a MiB."""

decode_short = _decode_by_float
"""What `read_json` gives for a text of at most `SHORT` bytes and two a level, in one step less. Raises ValueError or
RecursionError where `read_json` would read it otherwise or refuse it."""

_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")

_LONG_RUN = b"0" * 309

_NO_DIGIT = re.compile(rb"[^0]")


def _check(data: bytes, nesting: int) -> Callable[[bytes], Any]:
    """Refuse what msgspec would take, and choose what decodes the rest."""
    if data.count(b"[") + data.count(b"{") > nesting and _is_deeper(data, nesting):
        raise ProtocolError(CloseCode.INVALID_DATA, f"nested deeper than {nesting} levels")
    digits = data.translate(_DIGITS_ALIKE)
    if _LONG_RUN in digits and _has_long_integer(data, digits):
        raise ProtocolError(CloseCode.INVALID_DATA, f"not JSON: {OUT_OF_RANGE}")
    return _decode_by_float if b"0e" in digits else _decode


def _has_long_integer(data: bytes, digits: bytes) -> bool:
    """Whether an integer outside of texts is beyond the largest double: other clients would read infinity."""
    quotes = _without_escaped_quotes(data, b"__")
    inside = end = 0
    while (start := digits.find(_LONG_RUN, end)) >= 0:
        inside ^= quotes.count(b'"', end, start) & 1
        after = _NO_DIGIT.search(digits, start)
        end = after.start() if after else len(digits)
        if not inside and _is_integer(digits, start, end) and (end - start > 309 or isinf(float(data[start:end]))):
            return True
    return False


def _is_integer(digits: bytes, start: int, end: int) -> bool:
    """Whether a run of digits is a number by itself, not a part of one with a point or an exponent."""
    before = digits[max(start - 2, 0) : start]
    return digits[end : end + 1] not in (b".", b"e") and not before.endswith((b".", b"e", b"e-", b"e+"))


# ---- depth


_LISTS_ALIKE = bytes.maketrans(b"{}", b"[]")

_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))

_OPENING, _CLOSING = re.compile(rb"\[+"), re.compile(rb"\]+")

MANY = 16
"""Where more than one byte in so many begins an innermost list, there are too many runs to count them one by one."""


def _is_deeper(data: bytes, nesting: int) -> bool:
    """Whether a text that is JSON nests deeper; any answer does for one that is none, as it is refused anyway."""
    brackets = _brackets(data)
    while brackets.count(b"[]") * MANY > len(brackets):
        # Without its innermost lists the whole is one level less deep.
        brackets = brackets.replace(b"[]", b"")
        nesting -= 1
        if brackets.count(b"[") <= nesting:
            return False
    up = map(len, _OPENING.findall(brackets))
    down = map(len, _CLOSING.findall(brackets.lstrip(b"]")))
    return max(accumulate(map(sub, up, chain((0,), down))), default=0) > nesting


def _brackets(data: bytes) -> bytes:
    """The brackets outside of texts, all of them square."""
    marks = _without_escaped_quotes(data, b"").translate(_LISTS_ALIKE, _NEITHER_BRACKET_NOR_QUOTE)
    # Two quotes side by side change nothing about what is inside and what is outside.
    marks = marks.replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


# ---- texts


_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:"
    rb"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)


def _without_escaped_quotes(data: bytes, replacement: bytes) -> bytes:
    """A text in which each quote begins or ends a text."""
    return data.replace(b"\\\\", replacement).replace(b'\\"', replacement) if b"\\" in data else data


def _without_lone_surrogates(data: bytes) -> bytes:
    if b"\\u" not in data or b"\0" in data:  # no JSON text holds a NUL
        return data
    # Without escaped backslashes, each backslash begins an escape.
    escapes = data.replace(b"\\\\", b"\0\0")
    return _LONE_SURROGATE.sub(rb"\\ufffd", escapes).replace(b"\0\0", b"\\\\")
