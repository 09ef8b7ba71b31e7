"""A thread that logs when the event loop is blocked, and which function blocks it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import aiohttp

from ..telemetry.http_logs import log_accept_error
from ..telemetry.logs import LogThrottle, logger_of
from ..telemetry.source_files import PACKAGE, folder_of

__all__ = ["BLOCKED", "BLOCKED_IN_DEVELOPMENT", "Watchdog"]

logger: logging.Logger = logger_of(__name__)

BLOCKED = 1.0
"""Seconds for which a loop must have been blocked to be logged."""

BLOCKED_IN_DEVELOPMENT = 0.1
"""The same under `--debug` and `--reload`."""


class Watchdog:
    """Asks the loop for a sign of life twice in each `timeout`, and logs the function that kept it from answering.

    It costs the loop a callback each time, and nothing for a message. A block is found if it lasts one and a half times
    as long as `timeout`, and never if it is shorter than `timeout`.

    Args:
        loop: The running loop; the caller must be in its thread.
        timeout: Seconds for which it may be blocked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._thread = threading.get_ident()
        self._alive = threading.Event()
        self._over = threading.Event()
        self._throttle = LogThrottle(logger)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the thread; does not wait for it."""
        self._over.set()
        self._alive.set()

    def _watch(self) -> None:
        while not self._over.wait(self._timeout / 2):
            self._alive.clear()
            try:
                self._loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:  # it has been closed
                return
            if not self._alive.wait(self._timeout):
                self._log()
                self._alive.wait()
            _check_descriptors()

    def _log(self) -> None:
        frame = sys._current_frames().get(self._thread)
        culprit = None if frame is None else _culprit(frame)
        if culprit is not None:
            code, line = culprit.f_code, culprit.f_lineno
            where = f"{getattr(code, 'co_qualname', code.co_name)} ({Path(code.co_filename).name}:{line})"
            self._throttle.add(
                code,
                f"{where} has held up the event loop for over {self._timeout:g} s, and all clients with it: "
                "await what takes time, or write the handler with a plain def",
            )


_LOOP = (folder_of(asyncio), str(Path(__file__).with_name("process.py")))

_LIBRARIES = (*_LOOP, PACKAGE, folder_of(aiohttp))


def _culprit(innermost: FrameType) -> FrameType | None:
    """The app's function that the loop runs, else the innermost function of all; None if the loop only waits."""
    inner: list[FrameType] = []
    frame: FrameType | None = innermost
    while frame is not None and not _runs_the_loop(frame):
        inner.append(frame)
        frame = frame.f_back
    if not inner or inner[0].f_code.co_filename.endswith("selectors.py"):
        return None
    for each in reversed(inner):
        if not each.f_code.co_filename.startswith(_LIBRARIES):
            return each
    return inner[0]


def _runs_the_loop(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in ("_run_once", "run_loop", "_run") and code.co_filename.startswith(_LOOP)


def _check_descriptors() -> None:
    """Log when the process can open no more files: uvloop then turns clients away silently."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            log_accept_error(error)
