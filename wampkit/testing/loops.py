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

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._serve, name="wampkit-test-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _serve(self) -> None:
        with self._runner:  # it cancels in the end what still runs
            self.loop.run_forever()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
