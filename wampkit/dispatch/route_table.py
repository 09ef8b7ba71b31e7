"""What a URI means: the declared routes by URI and pattern."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from ..errors import LimitExceeded
from ..protocol.uris import Pattern
from ..telemetry.counters import Counters

__all__ = ["Names", "Table"]

_NO_VARIABLES: Mapping[str, str] = {}


class Names:
    """Finds what URIs mean.

    Args:
        longest: Bytes of the longest URI that is looked up; those that are declared may be longer.
        counters: Where refusals are counted.
    """

    def __init__(self, longest: int, counters: Counters) -> None:
        self._longest = longest
        self._counters = counters

    def find(self, table: Table[Any], uri: str) -> tuple[Any, Mapping[str, str]]:
        """The item that a URI means with the values of its variables, or None with no variables.

        Raises:
            LimitExceeded: The URI is too long.
        """
        found = table.exact(uri)
        if found is not None:
            return found
        # No character has more than four bytes.
        if len(uri) * 4 > self._longest and len(uri.encode()) > self._longest:
            self._counters.over_limit += 1
            raise LimitExceeded(f"the URI is longer than {self._longest} bytes")
        return table.match(uri) or (None, _NO_VARIABLES)


T = TypeVar("T")

Fits: TypeAlias = Callable[[Mapping[str, str]], bool]

REMEMBERED = 1024
"""URIs whose pattern a table remembers."""

LONGEST_REMEMBERED = 1024
"""Characters of those among them that come from an app, which may have made them of what a client sent."""


class Table(Generic[T]):
    """What a URI means, for one kind of thing: exact names first, then patterns, the most literal first."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[T, Mapping[str, str]]] = {}
        self._patterns: list[tuple[Pattern, T, Fits | None]] = []
        self.match = functools.lru_cache(REMEMBERED)(self._match)

    def add(self, uri: str, pattern: Pattern | None, item: T, fits: Fits | None = None) -> None:
        """Enter an item; call `sort` when all are in.

        Args:
            uri: Its full URI or URI pattern.
            pattern: The pattern, or None for a plain URI.
            item: The item.
            fits: Whether the values of the variables are such as the item takes; None for any.
        """
        if pattern is None:
            self._exact[uri] = (item, _NO_VARIABLES)
        else:
            self._patterns.append((pattern, item, fits))

    def sort(self) -> None:
        """Bring the patterns into the order in which they are tried."""
        self._patterns.sort(key=lambda entry: entry[0].specificity, reverse=True)

    def __iter__(self) -> Iterator[T]:
        yield from (item for item, _ in self._exact.values())
        yield from (item for _, item, _ in self._patterns)

    def find(self, uri: str) -> tuple[T, Mapping[str, str]] | None:
        """The item that `uri` means, with the variables' values; None if there is none."""
        return self._exact.get(uri) or (self.match(uri) if len(uri) <= LONGEST_REMEMBERED else self._match(uri))

    def exact(self, uri: str) -> tuple[T, Mapping[str, str]] | None:
        """The item of exactly this name, with no variables; None if there is none."""
        return self._exact.get(uri)

    def _match(self, uri: str) -> tuple[T, Mapping[str, str]] | None:
        for pattern, item, fits in self._patterns:
            values = pattern.match(uri)
            if values is not None and (fits is None or fits(values)):
                return item, values
        return None
