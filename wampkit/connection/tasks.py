"""The tasks of one connection: calls run concurrently, topic messages in the order received."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Protocol

from ..concurrency.eager import EagerTasks
from ..limits import Limits

__all__ = ["ConnectionTasks"]

Job = tuple[Callable[..., Coroutine[Any, Any, None]], tuple[Any, ...], bool, int]
"""A function, its arguments, whether to run it even after the connection has closed, and its size by `memory_of`."""

SHORT = 256
"""Messages of up to this size in bytes count with their length: `Limits.calls` bounds the memory of those."""

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[{,:"))

JOBS_A_TURN = 64
"""Queued topic messages that are run before other callbacks of the loop have their turn."""


class Pausable(Protocol):
    """A connection whose reading can be paused."""

    def pause_reading(self) -> None:
        """Stop reading: the limits on running and waiting messages are reached."""

    def resume_reading(self) -> None:
        """Read on."""


class ConnectionTasks:
    """Runs the calls and the queue of topic messages of one connection.

    Args:
        eager: Starts the coroutines.
        limits: The number and size of calls and queued messages at which it is `full`.
        owner: The connection, whose reading is paused while it is `full`.

    Attributes:
        full: Whether the limits are reached.
    """

    __slots__ = (
        "_bytes",
        "_calls",
        "_context",
        "_eager",
        "_finish_running",
        "_limits",
        "_owner",
        "_queue",
        "_running",
        "_running_size",
        "full",
    )

    def __init__(self, eager: EagerTasks, limits: Limits, owner: Pausable) -> None:
        self._eager = eager
        self._limits = limits
        self._owner: Pausable | None = owner
        self._bytes = 0
        self._calls: dict[asyncio.Task[None], int] = {}
        self._queue: deque[Job] | None = None
        self._running: asyncio.Task[None] | None = None  # the job at the head of the queue
        self._running_size = 0
        self._finish_running = False
        self._context = copy_context()
        self.full: bool = False

    def enter_context(self) -> None:
        """Run calls and jobs that start from now on with the context variables of this moment."""
        self._context = copy_context()

    def run_call(self, call: Coroutine[Any, Any, None], text: bytes = b"") -> None:
        """Run a call concurrently with the others; it is cancelled when the connection ends.

        Args:
            call: The function to run.
            text: The message that it came in, whose size counts while it runs.
        """
        task = self._eager.start(call, self._context.copy())
        if task is not None:
            size = memory_of(text)
            self._calls[task] = size
            task.add_done_callback(self._call_ended)
            self._count(size)

    def run_in_order(
        self,
        function: Callable[..., Coroutine[Any, Any, None]],
        *args: Any,
        finish_after_close: bool,
        text: bytes = b"",
    ) -> None:
        """Run a job after all earlier ones have ended.

        Args:
            function: The function to run.
            args: Its arguments.
            finish_after_close: Run it even if the connection closes first: a received PUBLISH still counts.
            text: The message that it came in, whose size counts while it waits or runs.
        """
        if self._running is None and not self._queue:
            if self._start_job(function, args, finish_after_close):
                self._running_size = memory_of(text)
                self._count(self._running_size)
            return
        if self._queue is None:
            self._queue = deque()
        size = memory_of(text)
        self._queue.append((function, args, finish_after_close, size))
        self._count(size)

    def _start_job(
        self, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...], finish_after_close: bool
    ) -> bool:
        """Start the next job. True if it goes on as a task, False if it is done."""
        self._finish_running = finish_after_close
        task = self._eager.start(function(*args), self._context.copy())
        if task is None:
            return False
        self._running = task
        task.add_done_callback(self._job_ended)
        return True

    def _job_ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        size, self._running_size = self._running_size, 0
        self._count(-size)
        self._run_queue()

    def _run_queue(self) -> None:
        queue = self._queue
        for _ in range(JOBS_A_TURN):
            if not queue or self._running is not None:
                break
            function, args, finish_after_close, size = queue.popleft()
            goes_on = self._start_job(function, args, finish_after_close)
            self._running_size = size if goes_on else 0
            self._count(0 if goes_on else -size)
        if queue and self._running is None:
            asyncio.get_running_loop().call_soon(self._run_queue)

    def _call_ended(self, task: asyncio.Task[None]) -> None:
        self._count(-self._calls.pop(task))

    def _count(self, more: int) -> None:
        self._bytes += more
        count = len(self._calls) + (len(self._queue) if self._queue else 0)
        full = count >= self._limits.calls or self._bytes >= self._limits.calls_size
        if full is not self.full:
            self.full = full
            if self._owner is None:
                return
            if full:
                self._owner.pause_reading()
            else:
                self._owner.resume_reading()

    async def wait_for_queued(self) -> None:
        """Wait until the jobs given so far have run."""
        if self._running is None and not self._queue:
            return
        reached = asyncio.get_running_loop().create_future()

        async def mark() -> None:
            if not reached.done():
                reached.set_result(None)

        self.run_in_order(mark, finish_after_close=True)
        await reached

    @property
    def busy(self) -> bool:
        """Whether a call or a job is running or waiting."""
        return bool(self._calls) or self._running is not None or bool(self._queue)

    async def finish(self) -> None:
        """Wait for all calls and jobs."""
        while self.busy:
            if self._calls:
                await asyncio.wait(set(self._calls))
            await self.wait_for_queued()

    async def end(self, pending_timeout: float, cancel_timeout: float) -> int:
        """Cancel the calls, and finish the jobs that must run even after the connection has closed.

        Args:
            pending_timeout: Seconds for the jobs that finish after the close; then they are cancelled too.
            cancel_timeout: Seconds for cancelled handlers to end.

        Returns:
            The number of handlers that did not end when they were cancelled.
        """
        if not self.busy:
            return 0
        if self._queue:
            self._queue = deque(job for job in self._queue if job[2])
        cancelled = set(self._calls) if self._finish_running else self._all()
        stuck = await _cancel(cancelled, cancel_timeout)
        if pending_timeout > 0 and self._running not in cancelled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pending_timeout):
                    await self.wait_for_queued()
        if self._queue:
            self._queue.clear()
        return stuck + await _cancel(self._all() - cancelled, cancel_timeout)

    def _all(self) -> set[asyncio.Task[None]]:
        return {*self._calls} if self._running is None else {*self._calls, self._running}

    def forget(self) -> None:
        """Drop the reference to the connection, which would be a cycle for the garbage collector."""
        self._owner = None


def memory_of(message: bytes) -> int:
    """Estimated bytes of memory of a message's decoded values: rarely more than this, often half."""
    size = len(message)
    if size <= SHORT:
        return size
    structure = message.translate(None, _NOT_STRUCTURE)
    lists, objects, commas = structure.count(b"["), structure.count(b"{"), structure.count(b",")
    keys = len(structure) - lists - objects - commas
    # One character beyond Latin-1 can make each of its text take four bytes.
    text = size if message.isascii() and rb"\u" not in message else 4 * size
    return text + 88 * lists + 104 * objects + 64 * commas + 80 * keys


async def _cancel(tasks: set[asyncio.Task[None]], timeout: float) -> int:
    """Cancel tasks and wait for their end. Returns the number of those that have not ended in time."""
    tasks = {task for task in tasks if task.cancel()}
    if not tasks:
        return 0
    _, stuck = await asyncio.wait(tasks, timeout=timeout)
    return len(stuck)
