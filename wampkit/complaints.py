"""Log lines about what a peer keeps doing wrong: the first in full, the rest as a count.

A client can repeat a mistake thousands of times a second; a log that repeats it with the client is an attack of
its own. Each kind of complaint is written at its first, tenth, hundredth … time and once more at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

__all__ = ["Complaints"]

logger = logging.getLogger("wampkit")

_MAX_KINDS = 32


class Complaints:
    """The complaints about one connection, or about everybody at the door.

    Args:
        subject: What each line begins with, fit for a log.
    """

    __slots__ = ("_counts", "_subject")

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._counts: dict[Hashable, int] = {}

    def add(
        self, kind: Hashable, text: str, *, level: int = logging.WARNING, error: BaseException | None = None
    ) -> None:
        """Write a complaint, or count it if its kind has been written.

        Args:
            kind: What makes two complaints the same.
            text: The line, with whatever a peer sent already quoted.
            level: The logging level.
            error: An exception whose traceback belongs to the line.
        """
        if kind not in self._counts and len(self._counts) >= _MAX_KINDS:
            kind = None
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count == 1:
            trace: Any = (type(error), error, error.__traceback__) if error is not None else None
            logger.log(level, "%s: %s", self._subject, text, exc_info=trace)
        elif _is_power_of_ten(count):
            logger.log(level, "%s: %s (%d times)", self._subject, text, count)

    def close(self) -> None:
        """Write how often complaints came that were not written."""
        hidden = sum(count - _written(count) for count in self._counts.values())
        if hidden:
            logger.warning("%s: %d further complaints of the same kinds", self._subject, hidden)
        self._counts.clear()


def _is_power_of_ten(count: int) -> bool:
    return str(count).rstrip("0") == "1"


def _written(count: int) -> int:
    """How many of `count` complaints got a line of their own."""
    return len(str(count))
