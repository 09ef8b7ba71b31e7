"""JSON is read strictly, as an obvious reader of it would, and no text makes that expensive."""

import contextlib
import gc
import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wampkit.errors import ProtocolError
from wampkit.protocol.messages import decode
from wampkit.protocol.strict_json import MAX_NESTING, read_json

# ---- what is read


class Pairs(list[Any]):
    """A JSON object with all its pairs, those that are repeated too."""


def obvious(data: bytes, nesting: int) -> Any:
    """What `read_json` must give, as slowly as one likes. Raises ValueError for what must be refused."""

    def number(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError("no double")
        return float(text)

    def integer(text: str) -> int:
        number(text)
        return int(text)

    def constant(name: str) -> None:
        raise ValueError(name)

    value = json.loads(
        data.decode(), parse_float=number, parse_int=integer, parse_constant=constant, object_pairs_hook=Pairs
    )

    def clean(item: Any, level: int) -> Any:
        if isinstance(item, list) and level == nesting:
            raise ValueError("too deep")
        if isinstance(item, str):
            return re.sub("[\ud800-\udfff]", "\ufffd", item)
        if isinstance(item, Pairs):
            return {clean(key, level): clean(each, level + 1) for key, each in item}
        if isinstance(item, list):
            return [clean(each, level + 1) for each in item]
        return item

    return clean(value, 0)


PIECES = [r"\\", r"\"", r"\/", r"\n", r"\u005b", r"\u0022", r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\ud83d\ude00",
          "[", "]", "{", "}", ",", ":", "a", "é", "😀", "9" * 309, "1e5", "u", "ud800", "/"]  # fmt: skip
NUMBERS = ["0", "-1", "1.5", "8e307", "1E+2", "5e-324", "1e309", "-1e999", "9" * 308, "9" * 309, "-" + "9" * 309,
           "1" + "0" * 308, "1" * 400, "0." + "0" * 400 + "1", "1" * 310 + "e-5", "1" * 309 + ".5", "1e" + "0" * 309,
           str(int(1.7976931348623157e308)), str(2**1024 - 2**970), str(2**1024 - 2**970 - 1), "1.7976931348623159e308",
           "1.7976931348623158e308", "9" * 4400, "18446744073709551616", "-9223372036854775809"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map(lambda pieces: '"' + "".join(pieces) + '"')
VALUES = st.recursive(
    TEXTS | st.sampled_from([*NUMBERS, "true", "null", '""', "[]", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: "[" + ",".join(parts) + "]")
        | st.lists(st.tuples(TEXTS, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
        | st.tuples(st.integers(1, 12), inner).map(lambda pair: "[" * pair[0] + pair[1] + "]" * pair[0])
    ),
    max_leaves=12,
)
ODD = st.sampled_from(["[", "]", "{", "}", '"', "\\", ",", ":", "9", "e", "-", ".", "\0", "x", r"\ud8", r"\udc00", " "])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON texts, some of them spoilt in a place or two, long enough for either way of reading them."""
    text = draw(VALUES)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(ODD) + text[place + draw(st.integers(0, 1)) :]
    data = text.encode()
    if draw(st.integers(0, 9)) == 9:
        data = (
            data[: len(data) // 2] + draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc3"])) + data[len(data) // 2 :]
        )
    return b" " * draw(st.sampled_from([0, 400])) + data


@settings(max_examples=500, deadline=None)
@given(texts(), st.sampled_from([1, 2, 3, 5, 9, 11, MAX_NESTING]))
def test_what_is_read_is_what_an_obvious_reader_reads(data: bytes, nesting: int) -> None:
    """Each text gives the value that it means or is refused with 1007, whatever passes it takes."""
    try:
        wanted = obvious(data, nesting)
    except ValueError:
        with pytest.raises(ProtocolError) as refused:
            read_json(data, nesting)
        assert refused.value.code == 1007
    else:
        assert read_json(data, nesting) == wanted
        assert read_json(data.decode(), nesting) == wanted


def test_the_largest_double_is_the_bound() -> None:
    """An integer or a float that a browser would read as infinity is refused, anything smaller is taken exactly."""
    halfway = 2**1024 - 2**970  # rounds up to infinity; one less rounds down to the largest double
    wrong = []
    for number in ("1" + "0" * 308, str(halfway - 1), str(-halfway + 1)):
        if decode(f'[8,"t",{number}]').event != int(number):  # type: ignore[union-attr]
            wrong.append(number)
    for number in (str(halfway), str(-halfway), "18" + "0" * 307, "199" + "9" * 306, "1.7976931348623159e308", "2e308"):
        try:
            decode(f'[8,"t",{number}]')
        except ProtocolError as error:
            if (error.code, error.reason) == (1007, "not JSON: Number out of range"):
                continue
        wrong.append(number)
    assert wrong == []


# ---- what it costs


SIZE = 128 * 1024


def filled(unit: bytes, begin: bytes = b'[8,"t",[', end: bytes = b"1]]") -> bytes:
    """A message of the usual size made of one piece."""
    return begin + unit * (SIZE // len(unit)) + end


SURROGATE = b'"\\ud800",'
LONG = b"9" * 308 + b","
LONG_TEXT = b'"' + b"9" * 309 + b'",'
PLAIN = filled(b'{"id":12345,"name":"hello"},')
HOSTILE = {
    "lists": filled(b"[],"),
    "objects": filled(b'{"":0},'),
    "lists and a long integer": filled(b"[],", end=LONG + b"1]]"),
    "integers and a long integer": filled(b"1,", end=LONG + b"1]]"),
    "long integers": filled(LONG),
    "an integer out of range": filled(b"1,", end=b"9" * 309 + b"]]"),
    "digits in a text": filled(b"9", b'[8,"t","', b'"]'),
    "integers and digits in a text": filled(b"1,", end=LONG_TEXT + b"1]]"),
    "digits in many texts": filled(LONG_TEXT),
    "lists and a surrogate": filled(b"[],", end=SURROGATE + b"1]]"),
    "surrogates": filled(b"\\ud800", b'[8,"t","', b'"]'),
    "surrogates and backslashes": filled(b"\\ud800\\\\", b'[8,"t","', b'"]'),
    "pairs and a surrogate": filled(b"\\ud83d\\ude00", b'[8,"t","\\ud800', b'"]'),
    "escapes and a surrogate": filled(b"\\n", b'[8,"t","\\ud800', b'"]'),
    "all of them": filled(b'[],{"":0},1,"\\"[","]",', end=SURROGATE + LONG + LONG_TEXT + b"8e307]]"),
    "chains": filled(b"[" * 125 + b"]" * 125 + b","),
    "short chains": filled(b"[" * 9 + b"]" * 9 + b","),
    "a comb": filled(b"[],", begin=b'[8,"t",[' + b"[" * 100, end=b"1" + b"]" * 102),
    "brackets in a text": filled(b"[", b'[8,"t","', b'"]'),
    "brackets in many texts": filled(b'["["],'),
    "quotes in a text": filled(b'\\"', b'[8,"t","', b'"]'),
    "quotes in many texts": filled(b'["\\""],'),
    "backslashes": filled(b"\\\\", b'[8,"t","', b'"]'),
    "short texts": filled(b'"",'),
    "escaped brackets": filled(b"\\u005b", b'[8,"t","', b'"]'),
    "a long key": filled(b"[", b'[8,"t",{"', b'":1}]'),
    "session ids": filled(b'"",', b'[7,"t",1,[', b'""]]'),
    "a list for a type": filled(b"[],", b"[[", b"1]]"),
    "garbage at the end": filled(b"[],", end=b"1]]x"),
    "garbage behind a surrogate": filled(b"[],", end=SURROGATE + b"1]]x"),
    "too deep at the end": filled(b"[],", end=b"[" * 200),
    "never closed": b"[" * SIZE,
}
MOST = 6
"""How many times the cost of plain decoding a message may cost; about 3 are meant, the rest is for noise."""


def cost(function: Any, argument: Any) -> float:
    """The least CPU time of several runs."""
    best = math.inf
    for _ in range(5):
        begin = time.process_time()
        with contextlib.suppress(ProtocolError, ValueError, RecursionError):
            function(argument)
        best = min(best, time.process_time() - begin)
    return best


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector visits what other tests made, which is nobody's cost here."""
    gc.disable()
    yield
    gc.enable()


def test_no_text_costs_much_more_than_a_plain_one(no_collector: None) -> None:
    """Whatever a message is made of, reading it costs a small multiple of plain decoding, as bytes and as text."""
    plain = cost(msgspec.json.decode, PLAIN)

    def ratio(data: bytes | str) -> float:
        return cost(decode, data) / max(plain, cost(msgspec.json.decode, data))

    expensive = {}
    for name, data in HOSTILE.items():
        for form in (data, data.decode()):
            if ratio(form) > MOST and (again := ratio(form)) > MOST:
                expensive[name] = again
    assert expensive == {}


def test_doubles_that_take_a_decoder_long_do_not(no_collector: None) -> None:
    """Doubles with large exponents, for which msgspec takes 100 times as long, cost a few times as much as others."""
    plain, expensive = cost(msgspec.json.decode, filled(b"1.5,")), {}
    for double in (b"8e307,", b"5E-324,", b"1.0e300,", b"8.98846567431158048e307,"):
        data = filled(double)
        if (ratio := min(cost(decode, data) for _ in range(2)) / plain) > 20:
            expensive[double] = ratio
    assert expensive == {}


def test_the_collector_does_not_run_while_a_long_text_is_decoded() -> None:
    """A text of many lists is decoded without a look at them by the collector, which goes on as it was."""
    data = HOSTILE["lists"]
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            for text in (data, data + b"x"):
                gc.collect()
                before = sum(each["collections"] for each in gc.get_stats())
                with contextlib.suppress(ProtocolError):
                    read_json(text)
                assert sum(each["collections"] for each in gc.get_stats()) - before <= 3
                assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_a_short_message_is_not_expensive_either(no_collector: None) -> None:
    """The same holds in messages that are too short for the other passes."""
    begin = b'[8,"t",['

    def thousand(data: bytes) -> None:
        for _ in range(1000):
            decode(data)

    plain, hostile = (begin + double * 30 + b"1]]" for double in (b"1.5e1,", b"8e307,"))
    assert min(cost(thousand, hostile) / cost(thousand, plain) for _ in range(2)) < MOST
