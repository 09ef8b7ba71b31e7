"""How many messages one client may send in a time: a token bucket."""

from __future__ import annotations

import time

__all__ = ["Allowance"]


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
