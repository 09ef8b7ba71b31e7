"""A log handler for stderr that writes in a thread of its own, so that a full pipe blocks nothing else."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from queue import SimpleQueue

__all__ = ["QueuedStderr", "is_writable"]

MAX_LINES = 5000
"""Log lines that wait to be written; further ones are dropped and counted."""

TIMEOUT = 0.5
"""Seconds to wait for stderr to be read, and for waiting lines to be written when the process ends."""


def is_writable() -> bool:
    """Whether a line can be written to stderr at once: it is no full pipe that is not read."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    try:
        return bool(select.select([], [sys.stderr], [], TIMEOUT)[1])
    except (AttributeError, OSError, ValueError):  # it is no file, or its number is too high for select
        return True


class QueuedStderr(logging.Handler):
    """Formats each record at once and writes it to stderr later, in order.

    A full pipe blocks its writer: a thread for which neither a log call nor the end of the process waits. When the pipe
    is read again, a line says how many records were dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        # Unlike queue.Queue it may be put to from a signal's handler.
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._dropped = 0
        self._writing = False
        # The descriptor, since Python's stream has a lock, which the end of the process would wait for.
        self._descriptor = sys.stderr.fileno()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as dropped if too many wait."""
        try:
            if self._lines.qsize() >= MAX_LINES:
                self._dropped += 1
            else:
                self._lines.put(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all queued lines have been written, `TIMEOUT` seconds at most."""
        end = time.monotonic() + TIMEOUT
        while (self._writing or not self._lines.empty()) and time.monotonic() < end:
            time.sleep(0.005)

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            self._writing = True
            self._write(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                self._write(f"{dropped} log lines were dropped, as stderr was not read\n")
            self._writing = not self._lines.empty()

    def _write(self, text: str) -> None:
        rest = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # it is closed, or its disk is full
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
