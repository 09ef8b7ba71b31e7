"""Background tasks that last as long as the app; one that ends early is restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from ..telemetry.logs import LogThrottle, logger_of

__all__ = ["BackgroundTask", "Report"]

logger: logging.Logger = logger_of(__name__)

PAUSE = 1.0
"""Seconds until a task that has ended is restarted."""

STOP_TIMEOUT = 5.0
"""Seconds for a task to end after it was cancelled by `stop`."""

Report = Callable[[BaseException], Awaitable[None]]


class BackgroundTask:
    """A task that runs until it is stopped: `async with BackgroundTask("the clock", tick): ...`.

    If its coroutine raises, returns or is cancelled by other code, this is logged, with a throttle, and it is restarted
    a second later.

    Args:
        name: Its name in the log.
        work: Returns its coroutine, once for each start.
        report: Awaited with each exception that it raises, or None.
    """

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], report: Report | None = None) -> None:
        self._name = name
        self._work = work
        self._report = report
        self._reports: set[asyncio.Future[None]] = set()
        self._throttle = LogThrottle(logger)
        self._running = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the task."""
        self._running = True
        self._timer = None
        self._task = asyncio.create_task(self._work(), name=f"wampkit: {self._name}")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Cancel it and wait until it has ended, at most `STOP_TIMEOUT` seconds."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        tasks = {*self._reports, self._task} if self._task is not None else self._reports
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
            if stuck:
                logger.warning("%s did not end within %g s of being cancelled", self._name, STOP_TIMEOUT)
        self._throttle.close()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._running:
            # After the pause: a loop that is being closed cancels all tasks, and need not see this one restarted.
            self._timer = task.get_loop().call_later(PAUSE, self._again, task.cancelled(), error)

    def _again(self, cancelled: bool, error: BaseException | None) -> None:
        how = "was cancelled" if cancelled else "ended" if error is None else "failed"
        text = f"{self._name} {how}; starting it again"
        self._throttle.add(type(error).__name__, text, level=logging.ERROR, error=error)
        if error is not None and self._report is not None:
            report = asyncio.ensure_future(self._report(error))
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)
        self.start()
