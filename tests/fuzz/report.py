"""What a run of the fuzzer found, and what it watches for besides wrong answers: errors in the log, and on the loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "Until", "watched"]


@dataclass
class Report:
    """Counts and findings.

    Attributes:
        connections: How many connections were made.
        messages: How many messages were sent to what is tested.
        answers: How many answers or errors it gave that are right.
        found: What must not happen, in words.
    """

    connections: int = 0
    messages: int = 0
    answers: int = 0
    found: list[str] = field(default_factory=list)
    _kinds: set[str] = field(default_factory=set, repr=False)

    def add(self, kind: str, details: str) -> None:
        """Note a finding; of each kind the first is enough."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.found.append(f"{kind}: {details[:500]}")

    def __str__(self) -> str:
        counts = f"{self.connections} connections, {self.messages} messages, {self.answers} answers"
        return "\n".join([f"{counts}, {len(self.found)} findings", *self.found])


class Until:
    """Numbers of connections to make, until the time is over or a lone one has been made.

    Args:
        seconds: How long.
        only: The number of the one connection to make, or None.
    """

    def __init__(self, seconds: float, only: int | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._only = only
        self._next = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self._only is not None:
            number, self._only, self._end = self._only, None, 0.0
            return number
        if time.monotonic() >= self._end:
            raise StopIteration
        self._next += 1
        return self._next


class _Listener(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._report.add(f"logged by {record.name} with {type(error).__name__}", f"{record.getMessage()}: {error!r}")


@contextmanager
def watched(report: Report) -> Iterator[None]:
    """Note each error that is logged, reaches the loop's handler, or is found when what is left is collected."""
    loop = asyncio.get_running_loop()

    def trouble(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        report.add(f"on the loop: {context.get('message')}", repr(context.get("exception")))

    listener = _Listener(report)
    loggers = [logging.getLogger(name) for name in ("wampkit", "aiohttp", "asyncio")]
    loop.set_exception_handler(trouble)
    for each in loggers:
        each.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            yield
            gc.collect()
        for warning in caught:
            report.add("a warning", str(warning.message))
    finally:
        loop.set_exception_handler(None)
        for each in loggers:
            each.removeHandler(listener)
