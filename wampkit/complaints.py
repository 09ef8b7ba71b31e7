"""Log lines about one peer, throttled by its address."""

from __future__ import annotations

import logging
from collections.abc import Hashable

from .logs import LogThrottle

__all__ = ["Complaints"]


class Complaints:
    """Writes what is told of one peer through the throttle that all of them share.

    Args:
        throttle: What decides how often a line is written.
        subject: What each line begins with.
        owner: For whose address the lines are counted, as `addresses.owner_of` has it.
    """

    __slots__ = ("_owner", "_subject", "_throttle")

    def __init__(self, throttle: LogThrottle, subject: str, owner: str | None) -> None:
        self._throttle = throttle
        self._subject = subject
        self._owner = owner

    def add(
        self, kind: Hashable, text: str, *, level: int = logging.WARNING, error: BaseException | None = None
    ) -> None:
        """Write a line, or count it; see `LogThrottle.add`."""
        self._throttle.add(kind, f"{self._subject}: {text}", owner=self._owner, level=level, error=error)
