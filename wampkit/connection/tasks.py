"""What a connection has under way: calls run side by side, topic messages one after the other in their queue."""

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
"""A function, its arguments, whether it finish_after_close the connection, and the bytes that its message takes."""

SHORT = 256
"""Bytes of a message up to which it counts with its length: of those the number of calls is bound enough."""

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[{,:"))

JOBS_A_TURN = 64
"""Topic messages that waited for their turn and are taken before others have theirs."""


class Owner(Protocol):
    """Whose work it is: the connection."""

    def full(self) -> None:
        """There is as much under way as may be."""

    def relieved(self) -> None:
        """There is less again."""


class _Nobody:
    def full(self) -> None:
        pass

    def relieved(self) -> None:
        pass


NOBODY = _Nobody()


class ConnectionTasks:
    """The calls and the queue of one connection.

    Args:
        eager: What starts them.
        limits: How many calls and jobs there may be, and of what size, before it is `full`.
        owner: Who is told of that.

    Attributes:
        message: The text of the message that what is started next came from; b"" once it has been started.
        full: Whether there is as much under way as may be.
    """

    __slots__ = (
        "_bytes",
        "_calls",
        "_context",
        "_eager",
        "_limits",
        "_outlives",
        "_owner",
        "_queue",
        "_running",
        "_running_size",
        "full",
        "message",
    )

    def __init__(self, eager: EagerTasks, limits: Limits, owner: Owner) -> None:
        self._eager = eager
        self._limits = limits
        self._owner = owner
        self.message = b""
        self._bytes = 0
        self._calls: dict[asyncio.Task[None], int] = {}
        self._running_size = 0  # of the job that runs
        self._queue: deque[Job] | None = None
        self._running: asyncio.Task[None] | None = None
        self._outlives = False
        self._context = copy_context()
        self.full = False

    def enter_context(self) -> None:
        """Let what starts from now on see the context variables that are set now."""
        self._context = copy_context()

    def run_call(self, call: Coroutine[Any, Any, None]) -> None:
        """Run a call side by side with the others; it is cancelled when the connection ends."""
        task = self._eager.start(call, self._context.copy())
        if task is not None:
            size = memory_of(self.message)
            self._calls[task] = size
            task.add_done_callback(self._call_ended)
            self._count(size)

    def run_in_order(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, finish_after_close: bool
    ) -> None:
        """Run a job after those given before it.

        Args:
            function: What to run.
            args: Its arguments.
            finish_after_close: Whether it still counts when the connection has ended: what a client published before it
                left was published, but to subscribe it would be senseless.
        """
        if self._running is None and not self._queue:
            if self._start_job(function, args, finish_after_close):
                self._running_size = memory_of(self.message)
                self._count(self._running_size)
            return
        if self._queue is None:
            self._queue = deque()
        size = memory_of(self.message)
        self._queue.append((function, args, finish_after_close, size))
        self._count(size)

    def _start_job(
        self, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...], finish_after_close: bool
    ) -> bool:
        """Start the next job; whether it goes on as a task."""
        self._outlives = finish_after_close
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
        self._next_jobs()

    def _next_jobs(self) -> None:
        queue = self._queue
        for _ in range(JOBS_A_TURN):
            if not queue or self._running is not None:
                break
            function, args, finish_after_close, size = queue.popleft()
            going_on = self._start_job(function, args, finish_after_close)
            self._running_size = size if going_on else 0
            self._count(0 if going_on else -size)
        if queue and self._running is None:
            asyncio.get_running_loop().call_soon(self._next_jobs)

    def _call_ended(self, task: asyncio.Task[None]) -> None:
        self._count(-self._calls.pop(task))

    def _count(self, more: int) -> None:
        self._bytes += more
        count = len(self._calls) + (len(self._queue) if self._queue else 0)
        full = count >= self._limits.calls or self._bytes >= self._limits.calls_size
        if full is not self.full:
            self.full = full
            if full:
                self._owner.full()
            else:
                self._owner.relieved()

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
        """Whether calls or jobs are under way."""
        return bool(self._calls) or self._running is not None or bool(self._queue)

    async def finish(self) -> None:
        """Wait for the calls and jobs that are under way."""
        while self.busy:
            if self._calls:
                await asyncio.wait(set(self._calls))
            await self.wait_for_queued()

    async def end(self, last_words: float, patience: float) -> int:
        """Cancel what needs the connection and let the rest run out.

        Args:
            last_words: Seconds for the jobs that outlive the connection.
            patience: Seconds for the cleanup of what is cancelled.

        Returns:
            How many handlers did not end when they were cancelled.
        """
        if not self.busy:
            return 0
        if self._queue:
            self._queue = deque(each for each in self._queue if each[2])
        doomed = self._tasks(queue=not self._outlives)
        stuck = await _cancel(doomed, patience)
        if last_words > 0 and self._running not in doomed:
            await self._run_out(last_words)
        if self._queue:
            self._queue.clear()
        return stuck + await _cancel(self._tasks(queue=True) - doomed, patience)

    async def _run_out(self, patience: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.wait_for_queued()

    def forget(self) -> None:
        """Let go of the owner; nothing is started any more."""
        self._owner = NOBODY

    def _tasks(self, *, queue: bool) -> set[asyncio.Task[None]]:
        lane_task = self._running if queue else None
        return {*self._calls, lane_task} if lane_task is not None else set(self._calls)


def memory_of(message: bytes) -> int:
    """About how many bytes of memory the values of a message take: as good as never more than this, often half."""
    size = len(message)
    if size <= SHORT:
        return size
    structure = message.translate(None, _NOT_STRUCTURE)
    lists, objects, commas = structure.count(b"["), structure.count(b"{"), structure.count(b",")
    keys = len(structure) - lists - objects - commas
    # One character beyond Latin-1 can make each of its text take four bytes.
    text = size if message.isascii() and rb"\u" not in message else 4 * size
    return text + 88 * lists + 104 * objects + 64 * commas + 80 * keys


async def _cancel(tasks: set[asyncio.Task[None]], patience: float) -> int:
    tasks = {task for task in tasks if task.cancel()}
    if not tasks:
        return 0
    _, stuck = await asyncio.wait(tasks, timeout=patience)
    return len(stuck)
