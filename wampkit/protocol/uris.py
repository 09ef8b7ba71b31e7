"""URIs: expanding CURIEs, matching patterns, and checking what an app declares.

Expanding and matching take time linear in the length of a client's URI: a pattern is split into literals once, and
matching searches for each literal from left to right, without backtracking.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import DeclarationError
from .extensions import RESERVED

__all__ = ["Pattern", "check_prefixes", "check_uri", "expand", "is_pattern", "prefix_problem"]

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

_VARIABLE = re.compile(r"\{([^{}]*)\}")


def expand(name: str, prefixes: Mapping[str, str]) -> str:
    """Expand a CURIE to its URI; a name that is no CURIE of `prefixes` stays unchanged.

    The prefix ends at the first colon; it is expanded once, and no separator is added. A name whose reference begins
    with `//` is a URL and never a CURIE, and an empty prefix is no prefix.
    """
    if ":" not in name:
        return name
    prefix, _, reference = name.partition(":")
    if not prefix or reference.startswith("//"):
        return name
    uri = prefixes.get(prefix)
    return name if uri is None else uri + reference


def check_prefixes(prefixes: object) -> dict[str, str]:
    """Check declared prefixes: each stands for a URI, or for the beginning of a name such as `room/`.

    Raises:
        DeclarationError: One does not, or a prefix is no word or is reserved.
    """
    if not isinstance(prefixes, Mapping):
        example = '{"chat": "http://example.com/chat/"}'
        raise DeclarationError(f"prefixes is a dict of prefix to URI, such as {example}, not {prefixes!r}")
    for prefix, uri in prefixes.items():
        if not isinstance(prefix, str) or not prefix or ":" in prefix or _has_space(prefix):
            raise DeclarationError(f"prefixes: {prefix!r} is no prefix; it is a word without a colon, such as 'chat'")
        if f"{prefix}:" == RESERVED:
            raise DeclarationError("prefixes: 'wampkit' is wampkit's own; choose another prefix")
        check_uri(uri, f"prefixes: what {prefix!r} stands for")
        if not _ABSOLUTE.match(uri) and uri[-1] not in "/#.:":
            raise DeclarationError(
                f"prefixes: {prefix!r} stands for {uri!r}, which is no URI; write a whole one, such as "
                f"'http://example.com/{prefix}#'"
            )
    return dict(prefixes)


_PREFIX = re.compile(r"[A-Za-z_][\w.+-]*")

_SCHEMES = {
    "urn": ":",
    "tag": ":",
    "did": ":",
    "mailto": "@",
    "acct": "@",
    "sip": "@",
    "xmpp": "@",
    "info": "/",
    "tel": "+",
}
"""Schemes of URIs without `//` that are used as names, and a sign that such a URI has after its first colon."""


def prefix_problem(name: str, prefixes: Mapping[str, str]) -> str | None:
    """The problem of a name that looks like a CURIE of an undeclared prefix, as the end of an error; else None.

    URLs have `//` after their scheme. Other URIs, such as `urn:example:door`, are recognised by their scheme.
    """
    prefix, colon, reference = name.partition(":")
    if not colon or prefix in prefixes or reference.startswith("//") or not _PREFIX.fullmatch(prefix):
        return None
    sign = _SCHEMES.get(prefix.lower())
    if sign is not None and sign in reference:
        return None
    return (
        f"the prefix {prefix!r} is declared nowhere; declare it, App(prefixes={{{prefix!r}: "
        f"'http://example.com/{prefix}#'}}), or write the full URI; {{{prefix!r}: '{prefix}:'}} keeps the name as it is"
    )


def check_uri(uri: object, what: str) -> None:
    """Refuse a declared value that can be no URI or CURIE; errors call it `what`.

    Raises:
        DeclarationError: It is no text, or is empty, holds a space or a control character, or two `#`.
    """
    if not isinstance(uri, str) or not uri:
        raise DeclarationError(f"{what} is a URI, not {uri!r}")
    if _has_space(uri):
        raise DeclarationError(f"{what}, {uri!r}, holds a space or a control character, which no URI does")
    if uri.count("#") > 1:
        raise DeclarationError(f"{what}, {uri!r}, has two '#'; a URI has one at most, which begins its fragment")


def _has_space(text: str) -> bool:
    return any(each.isspace() or not each.isprintable() for each in text)


def is_pattern(uri: str) -> bool:
    """Whether a declared URI holds a variable, also a malformed one."""
    return "{" in uri or "}" in uri


class Pattern:
    """A URI with variables, such as `http://example.com/chat/{room}`.

    A variable matches one or more characters up to the next `/`; `{name:path}` matches slashes too. Two
    variables need a literal between them.

    Args:
        uri: The pattern as declared, prefixes expanded.

    Raises:
        DeclarationError: The braces do not pair, a name is no identifier or occurs twice, or nothing separates
            two variables.

    Attributes:
        names: The variables, in order.
        shape: The pattern without the names: patterns of one shape match the same URIs.
    """

    __slots__ = ("_first", "_paths", "_tail", "names", "shape", "uri")

    def __init__(self, uri: str) -> None:
        pieces = _VARIABLE.split(uri)
        literals, names = pieces[::2], pieces[1::2]
        self._paths = [name.endswith(":path") for name in names]
        names = [name.removesuffix(":path") for name in names]
        _check_pattern(uri, literals, names)
        self.uri: str = uri
        self.names: tuple[str, ...] = tuple(names)
        self.shape: str = "".join(
            literal + marker
            for literal, marker in zip(literals, [*("{/}" if path else "{}" for path in self._paths), ""], strict=True)
        )
        self._first = literals[0]
        self._tail = literals[1:]

    def match(self, uri: str) -> dict[str, str] | None:
        """The values of the variables if `uri` matches, else None."""
        if not uri.startswith(self._first):
            return None
        values: dict[str, str] = {}
        start = len(self._first)
        last = len(self._tail) - 1
        for index, literal in enumerate(self._tail):
            if index == last:
                end = len(uri) - len(literal)
                if not uri.endswith(literal):
                    return None
            else:
                end = uri.find(literal, start + 1)
            if end <= start:
                return None
            value = uri[start:end]
            if not self._paths[index] and "/" in value:
                return None
            values[self.names[index]] = value
            start = end + len(literal)
        return values

    @property
    def specificity(self) -> tuple[int, int, int]:
        """A sort key: of two patterns that match one URI, the one with the greater key is the more specific."""
        literal = len(self._first) + sum(map(len, self._tail))
        return (len(self._first), literal, -sum(self._paths))


def _check_pattern(uri: str, literals: list[str], names: list[str]) -> None:
    if any("{" in literal or "}" in literal for literal in literals):
        raise DeclarationError(f"{uri!r}: the braces do not pair; write a variable as {{name}}")
    for name in names:
        variable, colon, kind = name.partition(":")
        if colon and variable.isidentifier():
            raise DeclarationError(
                f"{uri!r}: there is no {{{name}}}; write {{{variable}}} and annotate the parameter, "
                f"{variable}: {kind or 'int'}; {{{variable}:path}} matches slashes too"
            )
        if not name.isidentifier():
            raise DeclarationError(f"{uri!r}: {{{name}}} is no variable; its name must be a Python identifier")
    if len(set(names)) != len(names):
        raise DeclarationError(f"{uri!r}: a variable occurs twice; give each its own name")
    if any(not literal for literal in literals[1:-1]):
        raise DeclarationError(f"{uri!r}: two variables touch; put a literal such as '/' between them")
