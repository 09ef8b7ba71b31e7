"""A strict JSON decoder whose cost a hostile text cannot drive far above that of a plain one.

msgspec decodes. What it does not check (depth, integers beyond a double), treats otherwise (lone surrogates) or
decodes slowly (doubles with large exponents) is found by passes that run in C: no loop in Python visits each byte.
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
from ..limits import Limits
from .websocket import CloseCode

__all__ = ["MAX_NESTING", "SHORT", "decode_short", "read_json"]

MAX_NESTING = Limits().nesting
"""How deep lists and objects of a message may nest, its own list included, where no limits are given."""

SHORT = 308
"""Bytes up to which a text cannot hold an integer beyond the largest double, which has 309 digits."""

LONG = 64 * 1024
"""Bytes from which a text may hold enough lists for the garbage collector to cost more than the decoder."""


def read_json(data: bytes | bytearray | str, nesting: int = MAX_NESTING) -> Any:
    """Decode a JSON text.

    A lone surrogate escape is read as U+FFFD: it is valid JSON, but UTF-8 cannot carry it to other clients.

    Args:
        data: The text, as bytes or decoded.
        nesting: How deep its lists and objects may nest.

    Raises:
        ProtocolError: 1007, if it is not JSON in UTF-8, nests too deep or holds a number beyond a double.
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
        repaired = _without_lone_surrogates(data)
        if repaired == data:
            raise _not_json(error) from None
    try:
        return decode(repaired)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


def _without_collector(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Wrap a decoder so that the garbage collector of Python 3.11 pauses; decoding makes no garbage.

    It would visit all lists so far after each 700 new ones, which takes four times as long as decoding.
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
"""Takes twice as long for usual doubles, but has no worst case: msgspec takes 7 µs for `8e307`, or 1.3 s a MiB."""

decode_short = _decode_by_float
"""Decodes a text of at most `SHORT` bytes, and at most two bytes for each level of nesting, as `read_json` does.

Raises ValueError or RecursionError where `read_json` would repair or refuse the text.
"""

_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")

_LONG_RUN = b"0" * 309

_NO_DIGIT = re.compile(rb"[^0]")


def _check(data: bytes, nesting: int) -> Callable[[bytes], Any]:
    """Refuse what msgspec would accept, and choose the decoder for the rest."""
    if data.count(b"[") + data.count(b"{") > nesting and _is_deeper(data, nesting):
        raise ProtocolError(CloseCode.INVALID_DATA, f"nested deeper than {nesting} levels")
    digits = data.translate(_DIGITS_ALIKE)
    if _LONG_RUN in digits and _has_long_integer(data, digits):
        raise ProtocolError(CloseCode.INVALID_DATA, f"not JSON: {OUT_OF_RANGE}")
    return _decode_by_float if b"0e" in digits else _decode


def _has_long_integer(data: bytes, digits: bytes) -> bool:
    """Whether an integer outside of strings is beyond the largest double: other clients would read infinity."""
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
    """Whether a run of digits is a whole number, not a part of one with a point or an exponent."""
    before = digits[max(start - 2, 0) : start]
    return digits[end : end + 1] not in (b".", b"e") and not before.endswith((b".", b"e", b"e-", b"e+"))


# ---- depth


_LISTS_ALIKE = bytes.maketrans(b"{}", b"[]")

_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))

_OPENING, _CLOSING = re.compile(rb"\[+"), re.compile(rb"\]+")

MANY = 16
"""If more than one byte in 16 begins an innermost list, there are too many runs of brackets to count each."""


def _is_deeper(data: bytes, nesting: int) -> bool:
    """Whether a JSON text nests deeper. For another text the answer is arbitrary, as it is refused in any case."""
    brackets = _brackets(data)
    while brackets.count(b"[]") * MANY > len(brackets):
        # Removing the innermost lists takes away one level.
        brackets = brackets.replace(b"[]", b"")
        nesting -= 1
        if brackets.count(b"[") <= nesting:
            return False
    up = map(len, _OPENING.findall(brackets))
    down = map(len, _CLOSING.findall(brackets.lstrip(b"]")))
    return max(accumulate(map(sub, up, chain((0,), down))), default=0) > nesting


def _brackets(data: bytes) -> bytes:
    """The brackets outside of strings, all of them square."""
    marks = _without_escaped_quotes(data, b"").translate(_LISTS_ALIKE, _NEITHER_BRACKET_NOR_QUOTE)
    # Two adjacent quotes do not change which brackets are inside of a string.
    marks = marks.replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


# ---- strings


_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:"
    rb"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)


def _without_escaped_quotes(data: bytes, replacement: bytes) -> bytes:
    """The text without escaped quotes, so that each remaining quote begins or ends a string."""
    return data.replace(b"\\\\", replacement).replace(b'\\"', replacement) if b"\\" in data else data


def _without_lone_surrogates(data: bytes) -> bytes:
    if b"\\u" not in data or b"\0" in data:  # no JSON text holds a NUL
        return data
    # Without escaped backslashes, each backslash begins an escape.
    escapes = data.replace(b"\\\\", b"\0\0")
    return _LONE_SURROGATE.sub(rb"\\ufffd", escapes).replace(b"\0\0", b"\\\\")
