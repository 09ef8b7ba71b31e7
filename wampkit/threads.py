"""Blocking functions off the loop: where a handler written with plain `def` runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["Threads"]

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A pool of worker threads that sees the caller's context variables.

    Args:
        limit: How many blocking functions run at once; further ones wait their turn.
    """

    def __init__(self, limit: int) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="wampkit")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises. A cancelled wait leaves the thread running to its end."""
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _guard(call))

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
