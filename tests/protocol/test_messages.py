"""The nine messages: exact forms in, exact forms out, and nothing else let in."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wampkit.errors import ProtocolError
from wampkit.protocol.messages import (
    Call,
    CallFailed,
    CallResult,
    Event,
    Prefix,
    Publish,
    Subscribe,
    Unsubscribe,
    Welcome,
    decode,
    encode,
    encode_value,
    event_head,
    event_text,
)
from wampkit.protocol.strict_json import MAX_NESTING

from ..support.tables import rows


@rows(
    ("text", "message"),
    [
        ('[0,"s",1,"me"]', Welcome("s", 1, "me")),
        ('[0,"s",1]', Welcome("s", 1, "")),
        ('[0,"s",1,null]', Welcome("s", 1, "")),
        ('[1,"p","u"]', Prefix("p", "u")),
        ('[2,"c","u"]', Call("c", "u", [])),
        ('[2,"","",null,[1],{"a":2}]', Call("", "", [None, [1], {"a": 2}])),
        ('[3,"c",null]', CallResult("c", None)),
        ('[4,"c","u","d"]', CallFailed("c", "u", "d")),
        ('[4,"c","u","",{"x":1}]', CallFailed("c", "u", "", {"x": 1})),
        ('[4,"c",null,"d",null]', CallFailed("c", "", "d")),
        ('[5,"t"]', Subscribe("t")),
        ('[6,"t"]', Unsubscribe("t")),
        ('[7,"t",null]', Publish("t", None)),
        ('[7,"t",1,true]', Publish("t", 1, True)),
        ('[7,"t",1,false]', Publish("t", 1, False)),
        ('[7,"t",1,null]', Publish("t", 1)),
        ('[7,"t",1,[]]', Publish("t", 1, None, [])),
        ('[7,"t",1,["a"],["b"]]', Publish("t", 1, None, ["a"], ["b"])),
        ('[7,"t",1,["a"],null]', Publish("t", 1, None, ["a"])),
        ('[7,"t",1,null,[]]', Publish("t", 1, None, None, [])),
        ('[7,"t",1,true,["b"]]', Publish("t", 1, True, None, ["b"])),
        ('[8,"t",{"a":[]}]', Event("t", {"a": []})),
        (' \r\n\t[ 5 , "t" ] ', Subscribe("t")),
    ],
)
def test_what_is_a_message(text: str, message: object) -> None:
    """Each form of each message is read, from text and from bytes."""
    assert decode(text) == message
    assert decode(text.encode()) == message


WRONG_ELEMENTS: list[Any] = [None, True, 1, 1.5, [], {}]


@rows(
    ("elements", "strings"),
    [
        ([0, "s", 1, "x"], [1]),
        ([1, "p", "u"], [1, 2]),
        ([2, "c", "u"], [1, 2]),
        ([3, "c", 1], [1]),
        ([4, "c", "u", "d"], [1]),
        ([5, "t"], [1]),
        ([6, "t"], [1]),
        ([7, "t", 1], [1]),
        ([8, "t", 1], [1]),
    ],
)
def test_what_must_be_text_is_text(elements: list[Any], strings: list[int]) -> None:
    """A number, a list or null where a text belongs is refused with 1002."""
    for index in strings:
        for wrong in WRONG_ELEMENTS:
            spoilt = [*elements[:index], wrong, *elements[index + 1 :]]
            with pytest.raises(ProtocolError) as refused:
                decode(json.dumps(spoilt))
            assert refused.value.code == 1002


@rows(
    "text",
    ["[0]", '[0,"s"]', '[0,"s","1"]', '[0,"s",1,"x",2]', "[1]", '[1,"p"]', '[1,"p","u",1]', "[2]", '[2,"c"]', "[3]",
     '[3,"c"]', '[3,"c",1,2]', '[4,"c","u"]', '[4,"c","u","d",1,2]', "[5]", '[5,"t","u"]', "[6]", '[6,"t",1]', "[7]",
     '[7,"t"]', '[7,"t",1,[],[],1]', '[7,"t",1,"x"]', '[7,"t",1,1]', '[7,"t",1,{}]', '[7,"t",1,[1]]',
     '[7,"t",1,[null]]', '[7,"t",1,[["x"]]]', '[7,"t",1,[],"x"]', '[7,"t",1,[],true]', '[7,"t",1,[],[1]]', "[8]",
     '[8,"t"]', '[8,"t",1,2]', "[]", "{}", "null", "1", '"[2]"', "true", "[9]", "[-1]", '["2","c","u"]',
     '[2.0,"c","u"]', '[true,"p","u"]', "[null]", "[[2]]", "[1e3]"],
)  # fmt: skip
def test_what_is_json_and_no_message(text: str) -> None:
    """A wrong length, a wrong list of ids, an unknown type, or a type that only equals one, is refused with 1002."""
    with pytest.raises(ProtocolError) as refused:
        decode(text)
    assert refused.value.code == 1002
    assert "expected" in refused.value.reason or "type" in refused.value.reason


@rows(
    ("text", "shown"),
    [
        ("[9]", "'9'"),
        ("[true]", "'True'"),
        ('["5","t"]', "'5'"),
        ('["' + "x" * 1000 + '"]', f"'{'x' * 24}'… (1000 characters)"),
        ('[["' + "x" * 1000 + '"]]', "that is a list"),
        ('[{"' + "x" * 1000 + '":1}]', "that is an object"),
    ],
)
def test_an_unknown_type_is_named(text: str, shown: str) -> None:
    """The refusal tells the type that is unknown, in a few characters however long it is."""
    with pytest.raises(ProtocolError) as refused:
        decode(text)
    assert refused.value.reason == f"unknown message type {shown}"


@rows(
    "data",
    [b"", b" ", b"x", b"[5,'t']", b'[5,"t"', b'[5,"t"]]', b'[5,"t"] x', b'[5,"t",]', b'[5,"a\nb"]', b'[3,"c",NaN]',
     b'[3,"c",Infinity]', b'[3,"c",-Infinity]', b'[3,"c",1e999]', b'[3,"c",-1e999]', b'[3,"c",' + b"9" * 309 + b"]",
     b'[3,"c",-' + b"9" * 5000 + b"]", b'[3,"c",01]', b'[3,"c",+1]', b'[3,"c",.5]', b"\xef\xbb\xbf[5,\"t\"]",
     '[5,"t"]'.encode("utf-16"), '[5,"t"]'.encode("utf-32"), b'[5,"\xff"]', b'[5,"\xed\xa0\x80"]', b'[5,"\\x"]',
     b'[5,"\\u12"]', b'[5,"\\ud800', b"[" * 100_000, b'{"a":' * 100_000],
)  # fmt: skip
def test_what_is_not_json(data: bytes) -> None:
    """Text that is no JSON in UTF-8, or holds a number that no double can, is refused with 1007 at any nesting."""
    for nesting in (MAX_NESTING, 1000):
        with pytest.raises(ProtocolError) as refused:
            decode(data, nesting)
        assert refused.value.code == 1007


@rows(
    ("text", "value"),
    [
        (r"\ud800", "\ufffd"),
        (r"x\udc00y", "x\ufffdy"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d\ude00\ude00", "😀\ufffd"),
        (r"\ud800\ud800", "\ufffd\ufffd"),
        (r"\ud800\u0041", "\ufffdA"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\\ufffd"),
        (r"\uD800", "\ufffd"),
    ],
)
def test_a_lone_surrogate_is_a_replacement_character(text: str, value: str) -> None:
    """An escaped lone surrogate is read as U+FFFD, so that what was read can always be sent on."""
    message = decode(f'[8,"t","{text}"]')
    assert message == Event("t", value)
    encode(message).decode("utf-8", "strict")


def test_nesting_has_a_bound() -> None:
    """So many levels are read, one more is refused, and brackets inside of texts do not count."""
    inner = MAX_NESTING - 1
    assert isinstance(decode('[3,"c",' + "[" * inner + "]" * inner + "]"), CallResult)
    assert isinstance(decode('[3,"c",' + '{"a":' * inner + "1" + "}" * inner + "]"), CallResult)
    with pytest.raises(ProtocolError, match="nested deeper"):
        decode('[3,"c",' + "[" * (inner + 1) + "]" * (inner + 1) + "]")
    assert decode(json.dumps([8, "t", "[" * 5000 + '"{' * 5000])) == Event("t", "[" * 5000 + '"{' * 5000)
    assert isinstance(decode(json.dumps([8, "t", [[]] * 5000])), Event)


@rows(
    "data",
    [
        b'[8,"t","' + b'\\"[' * 300_000,
        b'[8,"t","' + b"\\" * 900_000,
        b'[8,"' + b"[" * 900_000,
        b'"[' * 400_000,
        b'[8,"t","' + b"\\ud800" * 150_000,
        (b"9" * 308 + b",") * 3000,
    ],
)
def test_hostile_text_is_refused_in_one_pass(data: bytes) -> None:
    """A megabyte made to be looked at again and again is refused; a quadratic reader would not end within minutes."""
    with pytest.raises(ProtocolError):
        decode(data)


def test_large_numbers_survive() -> None:
    """Integers are exact far beyond 64 bits, as long as a double could hold them."""
    for number in (2**53, -(2**63), 2**64, 10**300):
        message = decode(json.dumps([8, "t", number]))
        assert message == Event("t", number)
        assert json.loads(encode(message))[2] == number
    digits = "9" * 400
    assert decode(f'[8,"t","{digits}"]') == Event("t", digits)


def test_object_keys_are_data() -> None:
    """`__proto__` is a key like any other, and of two alike the last counts."""
    assert decode('[8,"t",{"__proto__":1,"a":1,"a":2}]') == Event("t", {"__proto__": 1, "a": 2})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text("abc"), children, max_size=4),
    max_leaves=10,
)  # fmt: skip
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.none() | st.lists(NAME, max_size=3)


@given(
    st.one_of(
        st.builds(Welcome, NAME, st.just(1), NAME),
        st.builds(Prefix, NAME, NAME),
        st.builds(Call, NAME, NAME, st.lists(JSON, max_size=3)),
        st.builds(CallResult, NAME, JSON),
        st.builds(CallFailed, NAME, NAME, NAME, JSON),
        st.builds(Subscribe, NAME),
        st.builds(Unsubscribe, NAME),
        st.builds(Publish, NAME, JSON, st.none() | st.booleans(), st.none(), IDS),
        st.builds(Publish, NAME, JSON, st.none(), IDS, IDS),
        st.builds(Event, NAME, JSON),
    )
)
def test_what_is_written_is_read_back(message: Any) -> None:
    """Every message survives being written and read, and what is written is strict JSON."""
    text = encode(message)
    assert decode(text) == message
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_the_shortest_form_is_written() -> None:
    """CALLERROR has four elements without details, PUBLISH as few as say what is meant."""
    assert encode(CallFailed("c", "u", "")) == b'[4,"c","u",""]'
    assert encode(CallFailed("c", "u", "d", [])) == b'[4,"c","u","d",[]]'
    assert encode(Publish("t", 1)) == b'[7,"t",1]'
    assert encode(Publish("t", 1, False)) == b'[7,"t",1,false]'
    assert encode(Publish("t", 1, None, None, [])) == b'[7,"t",1,null,[]]'


@rows("topic", ["t", "http://example.com/a%20b#%b", "caf\u00e9", '"'])
def test_an_events_text_is_written_from_what_is_encoded(topic: str) -> None:
    """EVENT from the head of its topic and an event that is JSON already is what encoding it would give."""
    assert event_text(event_head(topic), b'{"a":1}') == encode(Event(topic, {"a": 1}))
    assert event_text(event_head(topic), b"null") == encode(Event(topic, None))


def test_not_a_number_is_null() -> None:
    """NaN and the infinities are written as null, as JavaScript writes them, never as words that are no JSON."""
    assert encode_value([math.nan, math.inf, -math.inf, 1.5]) == b"[null,null,null,1.5]"


def test_printing_a_message_does_not_print_what_it_carries() -> None:
    """A message in a log shows its names, shortened, and not its payload."""
    secret = "hunter2"
    for message in (Call("c", "u", [secret]), CallResult("c", secret), Publish("t", secret), Event("t", secret)):
        assert secret not in repr(message)
    assert len(repr(Call("x" * 1000, "u" * 1000, []))) < 400


def test_messages_are_frozen() -> None:
    """What travels is not changed on the way."""
    with pytest.raises(AttributeError):
        Subscribe("t").uri = "u"  # type: ignore[misc]
