"""Processes that are kept on one core and never outlive the benchmark: neither its end, nor an error, nor Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

__all__ = ["Process", "end_once", "started"]

ROOT = Path(__file__).parent.parent

ENDING = {signal.SIGINT, signal.SIGTERM}

GRACE = 5.0
"""Seconds that a process has to end when it is asked to."""


class Process:
    """A running process with pipes to and from it.

    Attributes:
        pid: Its process id.
        stdin: What it reads.
        stdout: What it prints.
    """

    def __init__(self, popen: subprocess.Popen[str], stderr: IO[str]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        self.pid = popen.pid
        self.stdin = popen.stdin
        self.stdout = popen.stdout
        self._popen = popen
        self._stderr = stderr

    def output(self, timeout: float) -> str:
        """All that it prints until it ends; raises `subprocess.TimeoutExpired`."""
        return self._popen.communicate(timeout=timeout)[0]

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._popen.poll() is not None

    def last_words(self) -> str:
        """The last line of its stderr."""
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        return lines[-1] if lines else ""

    def end(self) -> None:
        """Ask it to end, and kill it if it does not."""
        try:
            self._popen.terminate()
            self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also if a signal came in between
            self._popen.kill()
            self._popen.wait()
        self.stdin.close()
        self.stdout.close()


@contextmanager
def started(command: Sequence[str], core: int | None) -> Iterator[Process]:
    """A process on a core, which is ended afterwards."""

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if core is not None:
            os.sched_setaffinity(0, {core})

    with tempfile.TemporaryFile("w+") as stderr:
        # A signal that came while the process is being started would leave it to nobody.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends what it has started.
            popen = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                preexec_fn=prepare,
            )
            process = Process(popen, stderr)
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)
                yield process
            finally:
                process.end()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def end_once() -> None:
    """Let the first SIGINT or SIGTERM unwind this process, and no further one disturb it in ending what it started."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in ENDING:
        signal.signal(each, interrupt)
