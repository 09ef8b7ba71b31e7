"""CURIEs and URI patterns."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wampkit.errors import DeclarationError
from wampkit.protocol.uris import Pattern, expand, is_pattern

from ..support.tables import rows

PREFIXES = {
    "calc": "http://example.com/calc#",
    "p": "a:",
    "a": "http://x/",
    "http": "http://evil/",
    "prä": "u:",
    "": "e",
}


@rows(
    ("name", "uri"),
    [
        ("calc:add", "http://example.com/calc#add"),
        ("calc:", "http://example.com/calc#"),
        ("calc:a:b", "http://example.com/calc#a:b"),
        ("calc", "calc"),
        ("Calc:add", "Calc:add"),
        ("nope:add", "nope:add"),
        ("p:x", "a:x"),
        ("prä:x", "u:x"),
        (":x", ":x"),
        ("", ""),
        (":", ":"),
        ("http://example.com/", "http://example.com/"),
        ("http:x", "http://evil/x"),
        ("calc://x", "calc://x"),
    ],
)
def test_a_curie_is_resolved_once_at_its_first_colon(name: str, uri: str) -> None:
    """Known prefix, first colon, one round, no separator; `//` behind the colon is a URL and no CURIE."""
    assert expand(name, PREFIXES) == uri


@rows(
    ("pattern", "uri", "values"),
    [
        ("chat/{room}", "chat/lobby", {"room": "lobby"}),
        ("chat/{room}", "chat/", None),
        ("chat/{room}", "chat", None),
        ("chat/{room}", "chat/a/b", None),
        ("chat/{room}", "chat/a#b?c:d", {"room": "a#b?c:d"}),
        ("chat/{room}", "xchat/a", None),
        ("chat/{room}/log", "chat/a/log", {"room": "a"}),
        ("chat/{room}/log", "chat//log", None),
        ("chat/{room}/log", "chat/a/logs", None),
        ("{a}/{b}", "x/y", {"a": "x", "b": "y"}),
        ("{a}/{b}", "x/y/z", None),
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("v{major}.{minor}", "v1.2", {"major": "1", "minor": "2"}),
        ("files/{path:path}", "files/a/b/c", {"path": "a/b/c"}),
        ("files/{path:path}", "files/", None),
        ("files/{path:path}.txt", "files/a/b.txt", {"path": "a/b"}),
        ("{a}x", "xx", {"a": "x"}),
        ("{a}aa", "aaa", {"a": "a"}),
        ("küche/{x}", "küche/☃", {"x": "☃"}),
    ],
)
def test_a_variable_matches_one_segment(pattern: str, uri: str, values: dict[str, str] | None) -> None:
    """A variable is one or more characters up to the next slash, with `:path` beyond it."""
    assert Pattern(pattern).match(uri) == values


@given(
    st.lists(st.sampled_from(["/", "-", "a", "ab", ":"]), min_size=1, max_size=3),
    st.text(alphabet="ab-/:", max_size=12),
)
def test_patterns_agree_with_regular_expressions(literals: list[str], uri: str) -> None:
    """Whatever a pattern of single-segment variables matches, the regular expression of it matches too, and no more."""
    text = "".join(f"{{v{index}}}{literal}" for index, literal in enumerate(literals))
    oracle = "".join(f"([^/]+?){re.escape(literal)}" for literal in literals)
    values = Pattern(text).match(uri)
    assert (values is not None) == (re.fullmatch(oracle, uri) is not None)
    if values is not None:
        assert text.format(**values) == uri


@rows(
    ("pattern", "problem"),
    [
        ("a/{b", "do not pair"),
        ("a/b}", "do not pair"),
        ("a/{{b}}", "do not pair"),
        ("a/{}", "identifier"),
        ("a/{1}", "identifier"),
        ("a/{b c}", "identifier"),
        ("a/{b:int}", "annotate the parameter, b: int"),
        ("a/{b}/{b}", "twice"),
        ("a/{b}{c}", "touch"),
    ],
)
def test_a_bad_pattern_says_what_is_wrong(pattern: str, problem: str) -> None:
    """A pattern that cannot work is refused with its text and the mistake."""
    with pytest.raises(DeclarationError, match=problem) as refused:
        Pattern(pattern)
    assert repr(pattern) in str(refused.value)
    assert is_pattern(pattern)


def test_names_do_not_count_for_the_shape() -> None:
    """Two patterns that differ in their variables' names match the same URIs."""
    assert Pattern("a/{b}").shape == Pattern("a/{c}").shape
    assert Pattern("a/{b}").shape != Pattern("a/{b:path}").shape
    assert Pattern("a/{b}").shape != Pattern("a/{b}/x").shape


@pytest.mark.parametrize(
    ("more", "less"),
    [("chat/vip-{x}", "chat/{x}"), ("chat/{x}/log", "chat/{x:path}"), ("a/{x}", "a/{x:path}"), ("ab/{x}", "{x}/b")],
)
def test_the_more_literal_of_two_patterns(more: str, less: str) -> None:
    """More literal text at the beginning wins, then more of it at all, then fewer `:path` variables."""
    assert Pattern(more).specificity > Pattern(less).specificity


def test_a_hostile_uri_costs_no_more_than_its_length() -> None:
    """A URI of a megabyte that almost matches again and again is refused in one pass."""
    pattern = Pattern("{a}ab/{b}ab/{c}ab/{d}x")
    assert pattern.match("ab/" * 350_000) is None
    assert pattern.match("a" * 1_000_000) is None
