"""Where one measurement takes place: a server started for it alone, and the generator pointed at it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from . import generator
from .catalogue import Server
from .generator import Failure, Fault
from .processes import Process, started

__all__ = ["Figures", "Lab", "Load", "Running", "free_port"]

Figures: TypeAlias = dict[str, float]

PATIENCE = 60.0
"""Seconds that the generator has, besides those that it measures: for connecting, and for what is still under way."""


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        server: Which one.
        port: Where.
        pid: Its process id.
    """

    server: Server
    port: int
    pid: int

    def resident(self) -> float:
        """Its resident memory, in kB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return float(line.split()[1])
        raise Failure("the server has ended")

    def files(self) -> int:
        """How many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@dataclass(frozen=True)
class Load:
    """A generator at work."""

    process: Process
    seconds: float

    def figures(self) -> Figures:
        """Its figures, once it has ended.

        Raises:
            Fault: It found one.
            Failure: It does not end.
        """
        try:
            return generator.figures(self.process.output(self.seconds + PATIENCE))
        except subprocess.TimeoutExpired:
            raise Failure("the generator did not come to an end") from None


@dataclass(frozen=True)
class Lab:
    """How measurements are made.

    Attributes:
        seconds: How long one lasts.
        cores: The server's core and the generator's.
    """

    seconds: float
    cores: tuple[int | None, int | None]

    @property
    def warmup(self) -> float:
        """Seconds of load before each measurement."""
        return min(0.5, self.seconds)

    @contextmanager
    def running(self, server: Server, *, probe: bool = True) -> Iterator[Running]:
        """A server in a process of its own, which has served one connection already unless told otherwise.

        Raises:
            Failure: It does not start, or cannot answer a call.
        """
        port = free_port()
        with started([word.replace("PORT", str(port)) for word in server.command], self.cores[0]) as process:
            if not process.stdout.readline():
                raise Failure(f"the server did not start: {process.last_words()}")
            running = Running(server, port, process.pid)
            try:
                if probe:
                    self.load(running, server.dialect.call, {"conns": 1}, warmup=0, seconds=0.05)
                yield running
            except Fault as fault:
                last = process.last_words()
                raise Failure(f"{fault} (the server said: {last})" if last else str(fault)) from None

    def load(
        self,
        running: Running,
        arguments: Sequence[str],
        options: Mapping[str, float],
        *,
        warmup: float | None = None,
        seconds: float | None = None,
    ) -> Figures:
        """Run the generator, and return its figures; see `loading`."""
        with self.loading(running, arguments, options, warmup=warmup, seconds=seconds) as load:
            return load.figures()

    @contextmanager
    def loading(
        self,
        running: Running,
        arguments: Sequence[str],
        options: Mapping[str, float],
        *,
        warmup: float | None = None,
        seconds: float | None = None,
    ) -> Iterator[Load]:
        """Run the generator beside something else.

        Args:
            running: The server.
            arguments: What it shall say and hear, apart from the greeting.
            options: Its options with a number.
            warmup: Seconds that do not count; by default those of the lab.
            seconds: Seconds that count; by default those of the lab.
        """
        warmup = self.warmup if warmup is None else warmup
        seconds = self.seconds if seconds is None else seconds
        timing = {"warmup": warmup, "duration": seconds, "pid": running.pid}
        words = [*running.server.dialect.greeting, *arguments]
        with started(generator.command(running.port, words, {**options, **timing}), self.cores[1]) as process:
            yield Load(process, warmup + seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
