"""What a connection has under way: calls run side by side, topic messages one after the other in their lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from . import eager

__all__ = ["Work"]

Job = Callable[[], Awaitable[None]]


class Work:
    """The calls and the lane of one connection."""

    __slots__ = ("_calls", "_lane", "_lane_task", "_loop", "_outlives")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._lane: deque[tuple[Job, bool]] = deque()
        self._lane_task: asyncio.Task[None] | None = None
        self._outlives = False

    def start_call(self, call: Coroutine[Any, Any, None]) -> None:
        """Run a call side by side with the others; it is cancelled when the connection ends."""
        task = eager.start(call, self._loop)
        if not task.done():
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def in_order(self, job: Job, *, outlives: bool) -> None:
        """Run a job after those given before it.

        Args:
            job: What to run.
            outlives: Whether it still counts when the connection has ended: what a client published before it
                left was published, but to subscribe it would be senseless.
        """
        self._lane.append((job, outlives))
        if self._lane_task is None:
            self._start_lane()

    def _start_lane(self) -> None:
        self._outlives = self._lane[0][1]
        # Eager as calls are, or a call would overtake the SUBSCRIBE that came before it.
        task = eager.start(self._run_lane(), self._loop)
        if not task.done():
            self._lane_task = task

    async def _run_lane(self) -> None:
        try:
            while self._lane:
                job, self._outlives = self._lane.popleft()
                await job()
        finally:
            self._lane_task = None

    async def settled(self) -> None:
        """Wait until the jobs given so far have run."""
        if self._lane_task is None:
            return
        reached = self._loop.create_future()

        async def mark() -> None:
            if not reached.done():
                reached.set_result(None)

        self._lane.append((mark, True))
        await reached

    @property
    def busy(self) -> bool:
        """Whether calls or jobs are under way."""
        return bool(self._calls) or self._lane_task is not None

    async def finish(self) -> None:
        """Wait for the calls and jobs that are under way."""
        while under_way := {task for task in self._tasks(lane=True) if not task.done()}:
            await asyncio.wait(under_way)

    async def end(self, last_words: float, patience: float) -> int:
        """Cancel what needs the connection and let the rest run out.

        Args:
            last_words: Seconds for the jobs that outlive the connection.
            patience: Seconds for the cleanup of what is cancelled.

        Returns:
            How many handlers did not end when they were cancelled.
        """
        self._lane = deque(each for each in self._lane if each[1])
        doomed = self._tasks(lane=not self._outlives)
        stuck = await _cancel(doomed, patience)
        if self._lane and self._lane_task is None:
            self._start_lane()
        lane = self._tasks(lane=True) - self._calls - doomed
        if lane and last_words > 0:
            await asyncio.wait(lane, timeout=last_words)
        self._lane.clear()
        return stuck + await _cancel(lane, patience)

    def _tasks(self, *, lane: bool) -> set[asyncio.Task[None]]:
        lane_task = self._lane_task if lane else None
        return self._calls | {lane_task} if lane_task is not None else set(self._calls)


async def _cancel(tasks: set[asyncio.Task[None]], patience: float) -> int:
    tasks = {task for task in tasks if task.cancel()}
    if not tasks:
        return 0
    _, stuck = await asyncio.wait(tasks, timeout=patience)
    return len(stuck)
