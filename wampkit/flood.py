"""How much somebody may do in a time: token buckets."""

from __future__ import annotations

import time
from collections.abc import Hashable

__all__ = ["Allowance", "Allowances"]


class Allowance:
    """Lets so many messages pass a second, and so many at once.

    Args:
        rate: Messages a second in the long run.
        burst: Messages at once after a pause; None for as many as `rate` lets pass in one second, at least one.
    """

    __slots__ = ("_burst", "_filled", "_left", "_rate")

    def __init__(self, rate: float, burst: int | None) -> None:
        self._rate = rate
        self._burst = max(1.0, self._rate) if burst is None else float(burst)
        self._left = self._burst
        self._filled = time.monotonic()

    def take(self) -> bool:
        """Whether one more message may pass now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """What was taken does not count."""
        self._left = min(self._burst, self._left + 1.0)

    @property
    def spent(self) -> bool:
        """Whether nothing may pass now."""
        return self._left + (time.monotonic() - self._filled) * self._rate < 1.0


class Allowances:
    """An allowance for each name, of those names that came last.

    Args:
        rate: As in `Allowance`.
        burst: As in `Allowance`.
        most: How many names are remembered; then the one that came longest ago is forgotten.
    """

    def __init__(self, rate: float, burst: int, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._by_name: dict[Hashable, Allowance] = {}

    def take(self, name: Hashable) -> bool:
        """Whether one more of this name may pass now."""
        allowance = self._by_name.pop(name, None)
        if allowance is None:
            if len(self._by_name) >= self._most:
                del self._by_name[next(iter(self._by_name))]
            allowance = Allowance(self._rate, self._burst)
        self._by_name[name] = allowance
        return allowance.take()

    def give_back(self, name: Hashable) -> None:
        """What was taken for this name does not count."""
        allowance = self._by_name.get(name)
        if allowance is not None:
            allowance.give_back()

    def spent(self, name: Hashable) -> bool:
        """Whether none of this name may pass now."""
        allowance = self._by_name.get(name)
        return allowance is not None and allowance.spent

    def __len__(self) -> int:
        return len(self._by_name)
