"""Runs a coroutine's first step immediately and makes a task only if it suspends: Python 3.12's eager tasks for 3.11.

The first step runs with a spare task as the current one. Most handlers end in it, and the spare serves the next. One
that suspends keeps the spare: the task that it saw from its first line on drives it to its end. So
`asyncio.current_task()`, context variables, timeouts and cancellation mean in a handler what they mean in any task. A
call of 5 us would take 1 us more with a task of its own (Python 3.11).

All private names of asyncio stand here: a task whose first step is caught instead of scheduled, and the functions by
which a task becomes the current one, which asyncio provides for other task implementations.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _enter_task, _leave_task, _register_task, _unregister_task
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

__all__ = ["EagerTasks"]

DONE: Any = object()

if sys.version_info >= (3, 12):
    from asyncio import current_task as _current_task
else:
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]  # unknown to typeshed

    _current_task = _current_tasks.get  # in Python 3.11 the public function is written in Python


class EagerTasks:
    """Starts coroutines at once; one instance for all connections of a loop."""

    __slots__ = ("_loop", "_references", "_spare")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._references = 0
        self._spare = self._renew()

    def start(self, work: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None] | None:
        """Run a coroutine up to its first suspension.

        Args:
            work: The coroutine. An exception of its first step is raised here, except its own cancellation.
            context: A context that no other code uses.

        Returns:
            The task that continues it, or None if it has finished.
        """
        loop, spare = self._loop, self._spare
        outer = _current_task(loop)
        if outer is not None:
            if outer is spare:
                spare = self._renew()
            _leave_task(loop, outer)
        _enter_task(loop, spare)
        waits_for = DONE
        try:
            waits_for = context.run(work.send, None)
        except (StopIteration, asyncio.CancelledError):
            pass
        finally:
            _leave_task(loop, spare)
            if waits_for is not DONE:
                self._renew()
                spare.go_on(work, context, waits_for)
            elif spare.touched or getrefcount(spare) != self._references or getweakrefcount(spare):
                # Code that kept a reference to the spare, or changed it, would meet another handler in it.
                self._renew()
            if outer is not None:
                _enter_task(loop, outer)
        return None if waits_for is DONE else spare

    def _renew(self) -> _SpareTask:
        spare = self._spare = _made_spare(self._loop)
        self._references = getrefcount(spare)
        return spare


class _SpareTask(asyncio.Task[None]):
    """A task that gets its coroutine after the first step of that has run.

    Attributes:
        touched: Whether a handler changed it, so that it cannot pass for a fresh one any more.
    """

    __slots__ = ("_begun", "_first_step", "touched")

    def __init__(self, begun: _StartedCoroutine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(begun, loop=loop, name="wampkit handler")
        self._begun = begun
        self._first_step: Callable[[], object] | None = None
        self.touched = False
        # asyncio must not warn of the spare that is left at the end.
        self._log_destroy_pending = False
        _unregister_task(self)

    def catch(self, first_step: Callable[[], object]) -> None:
        """Keep the step that asyncio would run in the next turn of the loop."""
        self._first_step = first_step

    def go_on(self, work: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> None:
        """Become the task of a coroutine that has suspended."""
        self._begun.take(work, context, waits_for)
        self._log_destroy_pending = True
        _register_task(self)
        step, self._first_step = self._first_step, None
        assert step is not None
        step()

    def cancel(self, msg: Any = None) -> bool:
        self.touched = True
        return super().cancel(msg)

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        self.touched = True
        super().add_done_callback(fn, context=context)

    def set_name(self, value: object, /) -> None:
        self.touched = True
        super().set_name(value)


def _made_spare(loop: asyncio.AbstractEventLoop) -> _SpareTask:
    caught: list[Callable[[], object]] = []

    def call_soon(step: Callable[[], object], *, context: Context) -> None:
        caught.append(step)

    loop.call_soon = call_soon  # type: ignore[assignment,method-assign]  # for this one task
    try:
        spare = _SpareTask(_StartedCoroutine(), loop)
    finally:
        del loop.call_soon
    spare.catch(caught.pop())
    return spare


class _StartedCoroutine(Coroutine[Any, Any, None]):
    """The coroutine of a spare task: continues one whose first step has run elsewhere, in a context of its own."""

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self) -> None:
        self._coroutine: Any = None  # set by `take`, before any step
        self._context: Any = None
        self._waits_for: Any = DONE

    def take(self, coroutine: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> None:
        """Continue a coroutine that has suspended on `waits_for`."""
        self._coroutine, self._context, self._waits_for = coroutine, context, waits_for

    def send(self, value: Any) -> Any:
        if self._waits_for is not DONE:
            waits_for, self._waits_for = self._waits_for, DONE
            return waits_for
        return self._context.run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        self._waits_for = DONE
        return self._context.run(self._coroutine.throw, *error)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    @property
    def __name__(self) -> str:
        return str(getattr(self._coroutine, "__qualname__", "(spare)"))

    @property
    def cr_frame(self) -> Any:
        """Its frame, for the stack of its task."""
        return getattr(self._coroutine, "cr_frame", None)

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only its task runs this")
