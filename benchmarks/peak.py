"""The highest value of something while something else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

__all__ = ["Peak"]

INTERVAL = 0.02


class Peak:
    """Reads a value again and again, in a thread, while the block runs.

    Args:
        read: What reads it.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.first = self.highest = 0.0

    @property
    def growth(self) -> float:
        """How far the value rose above the first one."""
        return self.highest - self.first

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            try:
                self.highest = max(self.highest, self._read())
            except (OSError, ValueError):  # the process has ended, which whoever measures it learns in his own way
                return

    def __enter__(self) -> Self:
        self.first = self.highest = self._read()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
