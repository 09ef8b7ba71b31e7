"""The event loop in which a test's server lives.

An async test has its server in its own event loop, so that a handler may wait for an `asyncio.Event` which the test
sets. A sync test has no loop; its server runs in a thread with one. Everything else is the same for both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

__all__ = ["LoopThread", "TestLoop", "running_loop"]

T = TypeVar("T")


class TestLoop:
    """The event loop of an async test, in which fixtures run coroutines before and after the test.

    Args:
        loop: The loop, which must stay open for as long as this is used.
    """

    __test__ = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result; in the loop's own thread only while it does not run."""
        if running_loop() is self.loop:
            work.close()
            raise RuntimeError("this blocks the test's event loop: in an async test use wamp_client or wamp_connect")
        if self.loop.is_running():
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        return self.loop.run_until_complete(work)


class LoopThread:
    """A thread with an event loop, for a sync test; a context manager, at whose end the thread has ended."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run_until_stopped()), name="wampkit-test-server", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _run_until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
