"""What the URI of a message means, as long as it is not too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .counters import Counters
from .errors import LimitExceeded
from .router import Table

__all__ = ["Names"]

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
