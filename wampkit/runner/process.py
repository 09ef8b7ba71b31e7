"""The process of a server: its signals, its log, its event loop, and an end that does not wait for blocked threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NoReturn

from ..telemetry.http_logs import quiet_http_errors
from ..telemetry.logs import logger_of, make_safe, set_level
from .errors import CommandError
from .stderr import QueuedStderr

__all__ = ["Signals", "exit_process", "first_of", "loop_factory", "run_loop", "set_up_logging"]

logger: logging.Logger = logger_of(__name__)

AIOHTTP = ("aiohttp.access", "aiohttp.internal", "aiohttp.server", "aiohttp.web", "aiohttp.websocket")
"""The loggers of aiohttp's server, which write what a client sent."""

END_TIMEOUT = 0.5
"""Seconds that tasks and threads are given to end when the server has stopped."""


def set_up_logging(level: str) -> None:
    """Log to stderr from this level on, unless the app has set up logging of its own."""
    if not logging.getLogger().handlers:
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        try:
            handler: logging.Handler = QueuedStderr()
        except (AttributeError, OSError, ValueError):  # stderr is closed, or no file
            handler = logging.StreamHandler()
        logging.basicConfig(level=level.upper(), format=form, handlers=[handler])
    quiet_http_errors()
    make_safe("asyncio", *AIOHTTP)
    set_level("wampkit", level.upper())


class Signals:
    """SIGINT, SIGTERM and SIGHUP: the first one asks to stop, the second ends the process at once.

    They are taken in Python's own handlers, because those of an event loop wait for the loop, which a handler may
    have blocked. Until `attach`, the first one raises KeyboardInterrupt.

    Args:
        at_once: Called before the process ends at once.
        supervised: Whether a supervisor decides when to stop. SIGINT, which a terminal sends to both, then does
            nothing, and neither does a second signal, which may be the first one sent to both.
    """

    def __init__(self, at_once: Callable[[], object] = lambda: None, *, supervised: bool = False) -> None:
        self.name: str = ""
        self._supervised = supervised
        self._at_once = at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        signal.signal(signal.SIGINT, _ignore if supervised else self._take)
        signal.signal(signal.SIGTERM, self._take)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is under nohup
            signal.signal(signal.SIGHUP, self._take)

    def attach(self) -> asyncio.Event:
        """An event of the running loop that the first signal sets from now on."""
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self.name:  # it came, and the user's code swallowed the KeyboardInterrupt
            self._event.set()
        return self._event

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.name and self._supervised:
            return
        if self.name:
            self._at_once()
            logging.shutdown()
            os._exit(1)
        self.name = signal.Signals(number).name
        if self._loop is None or self._event is None:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._loop.call_soon_threadsafe(self._event.set)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Ignore the signal; unlike SIG_IGN this is not inherited by the processes that the app starts."""


# ---- the loop, and the end


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The function that makes the event loop: "asyncio", "uvloop", or "auto" for uvloop where it is installed.

    Raises:
        CommandError: uvloop is wanted and not installed.
    """
    if choice != "asyncio":
        try:
            import uvloop
        except ImportError:
            if choice == "uvloop":
                raise CommandError("--loop uvloop needs uvloop: pip install 'wampkit[speed]'") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def run_loop(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` as `asyncio.run` does, but without waiting for tasks and threads that may never end."""
    executor = ThreadPoolExecutor(thread_name_prefix="wampkit-loop")
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel_all(loop))
        executor.shutdown(wait=False, cancel_futures=True)
        loop.close()


_stuck: set[asyncio.Task[Any]] = set()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=END_TIMEOUT)
        _stuck.update(stuck)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(loop.shutdown_asyncgens(), END_TIMEOUT)


async def first_of(*works: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    """Wait until one of them is done, and cancel the others. Raises what one of them raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def exit_process(code: int) -> NoReturn:
    """End the process, even if blocking functions still run, or tasks that refused to be cancelled.

    Python would wait for the first and complain about the second.
    """
    end = time.monotonic() + END_TIMEOUT
    workers = [each for each in threading.enumerate() if each.name.startswith("wampkit")]
    for thread in workers:
        thread.join(max(0.0, end - time.monotonic()))
    blocked = sum(thread.is_alive() for thread in workers)
    if not blocked and not _stuck:
        sys.exit(code)
    logger.warning("ending without %d blocking functions and %d tasks that do not end", blocked, len(_stuck))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
