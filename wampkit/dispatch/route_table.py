"""Finds the procedure or topic that a URI means."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from ..errors import LimitExceeded
from ..protocol.uris import Pattern
from ..router import Route
from ..telemetry.counters import Counters

__all__ = ["RouteTable"]

T = TypeVar("T")

Fits: TypeAlias = Callable[[Mapping[str, str]], bool]

REMEMBERED = 1024
"""URIs whose pattern a table remembers."""

MAX_CACHED_LENGTH = 1024
"""Characters of the longest of them, where the app names it: it may be made of what a client sent."""

_NO_VARIABLES: Mapping[str, str] = {}

_NOT_FOUND = (None, _NO_VARIABLES)


class RouteTable(Generic[T]):
    """The compiled routes of one kind: exact URIs first, then patterns, the most specific first.

    Args:
        longest: Bytes of the longest URI that is compared with patterns; declared URIs may be longer.
        counters: Counts the longer ones in `over_limit`.
    """

    def __init__(self, longest: int, counters: Counters) -> None:
        self._longest = longest
        self._counters = counters
        self._exact: dict[str, tuple[T, Mapping[str, str]]] = {}
        self._patterns: list[tuple[Pattern, T, Fits | None]] = []
        self._match = functools.lru_cache(REMEMBERED)(self._first_match)

    def add(self, route: Route, compiled: T, fits: Fits | None) -> None:
        """Add a compiled route; call `sort` after the last one.

        `fits` tells whether the values of the URI's variables are of the declared types; None if any are.
        """
        if route.pattern is None:
            self._exact[route.uri] = (compiled, _NO_VARIABLES)
        else:
            self._patterns.append((route.pattern, compiled, fits))

    def sort(self) -> None:
        """Bring the patterns into the order in which they are tried."""
        self._patterns.sort(key=lambda entry: entry[0].specificity, reverse=True)

    def __iter__(self) -> Iterator[T]:
        yield from (compiled for compiled, _ in self._exact.values())
        yield from (compiled for _, compiled, _ in self._patterns)

    def find(self, uri: str) -> tuple[T | None, Mapping[str, str]]:
        """Look up the URI of a client's message.

        Returns:
            The compiled route and the values of its variables; None and no variables if there is no such route.

        Raises:
            LimitExceeded: The URI is longer than `Limits.uri_length` and is not a declared one.
        """
        found = self._exact.get(uri)
        if found is not None:
            return found
        # No character has more than four bytes.
        if len(uri) * 4 > self._longest and len(uri.encode()) > self._longest:
            self._counters.over_limit += 1
            raise LimitExceeded(f"the URI is longer than {self._longest} bytes")
        return self._match(uri) or _NOT_FOUND

    def has(self, uri: str) -> bool:
        """Whether there is a route for a URI that the app names, of any length."""
        match = self._match if len(uri) <= MAX_CACHED_LENGTH else self._first_match
        return uri in self._exact or match(uri) is not None

    def _first_match(self, uri: str) -> tuple[T, Mapping[str, str]] | None:
        for pattern, compiled, fits in self._patterns:
            values = pattern.match(uri)
            if values is not None and (fits is None or fits(values)):
                return compiled, values
        return None
