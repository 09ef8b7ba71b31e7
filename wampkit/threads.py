"""Blocking functions off the loop: where a handler written with plain `def` runs, and its way back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["Threads", "run_on_loop"]

P = ParamSpec("P")
T = TypeVar("T")

_home: contextvars.ContextVar[asyncio.AbstractEventLoop] = contextvars.ContextVar("wampkit_loop")


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the app's loop from a `def` handler, and wait for it: `run_on_loop(topic.publish(event))`.

    Returns what the coroutine returns and raises what it raises.

    Raises:
        RuntimeError: The caller is not a `def` handler, hook or dependency of a running app.
    """
    loop = _home.get(None)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if loop is not None:
            return asyncio.run_coroutine_threadsafe(work, loop).result()
    work.close()
    raise RuntimeError("run_on_loop is for def handlers; in async def, use await")


class Threads:
    """A pool of worker threads that sees the caller's context variables.

    Args:
        limit: How many blocking functions run at once; further ones wait their turn.
    """

    def __init__(self, limit: int) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="wampkit")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises. A cancelled wait leaves the thread running to its end."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(_home.set, loop)
        call = functools.partial(context.run, function, *args, **kwargs)
        return await loop.run_in_executor(self._pool, _guard(call))

    def close(self) -> None:
        """Begin nothing more; what runs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _guard(call: Callable[[], Any]) -> Callable[[], Any]:
    """StopIteration cannot travel through a future: it would leave the caller waiting for ever."""

    def guarded() -> Any:
        try:
            return call()
        except StopIteration as error:
            raise RuntimeError("the function raised StopIteration") from error

    return guarded
