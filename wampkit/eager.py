"""Tasks whose first step runs at once: a handler that never waits is done before the loop turns.

It is a task all the same: `asyncio.current_task()`, context variables, timeouts and cancellation mean in it what they
mean in any other. Python 3.12 has this built in. Python 3.11 has not, so there the step that a new task would put
into the loop's queue is caught and run, as the current task, in the task's own context.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

__all__ = ["start"]

Step = Callable[[], object]


if sys.version_info >= (3, 12):

    def start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """A task for `work` that has run as far as it gets without waiting."""
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    def start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """A task for `work` that has run as far as it gets without waiting."""
        caught: list[tuple[Step, Context]] = []

        def call_soon(step: Step, *, context: Context) -> None:
            caught.append((step, context))

        loop.call_soon = call_soon  # type: ignore[assignment,method-assign]  # for this one task
        try:
            task = asyncio.Task(work, loop=loop)
        finally:
            del loop.call_soon
        ((step, context),) = caught
        outer = asyncio.current_task(loop)
        if outer is None:
            context.run(step)
            return task
        _leave_task(loop, outer)
        try:
            context.run(step)
        finally:
            _enter_task(loop, outer)
        return task
