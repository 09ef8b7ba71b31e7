"""How often a log line of one kind may be written: the first at once, then one now and then."""

from __future__ import annotations

from collections.abc import Hashable

from .flood import Allowance

__all__ = ["Paced"]

MOST_KINDS = 64


class Paced:
    """Lets one line of each kind pass in a time, and counts those that it holds back.

    Args:
        pause: Seconds between two lines of one kind.
    """

    def __init__(self, pause: float = 5.0) -> None:
        self._pause = pause
        self._kinds: dict[Hashable, _Kind] = {}

    def take(self, kind: Hashable) -> int | None:
        """How many lines of a kind were held back since the last one, or None if this one is held back too."""
        if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
            kind = None
        each = self._kinds.setdefault(kind, _Kind(self._pause))
        if not each.allowance.take():
            each.hidden += 1
            return None
        hidden, each.hidden = each.hidden, 0
        return hidden


class _Kind:
    __slots__ = ("allowance", "hidden")

    def __init__(self, pause: float) -> None:
        self.allowance = Allowance(1 / pause, 1)
        self.hidden = 0
