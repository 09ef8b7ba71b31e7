"""Child processes that serve for a supervisor, seen from both sides.

A child is the same command again, connected to its supervisor by a pair of sockets: it reports over them that it
serves, and then periodically that its event loop is alive. It ends when the supervisor's end closes, so that no child
outlives its supervisor, even one that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

from ..telemetry.logs import logger_of
from .process import first_of
from .serve import RunOptions, ServerInfo, bind

__all__ = ["STOP_TIMEOUT", "Child", "Children", "ParentLink"]

logger: logging.Logger = logger_of(__name__)

_VARIABLE = "_WAMPKIT_PARENT"

STOP_TIMEOUT = 20.0
"""Seconds that a child is given, beyond the drain, before it is killed."""

SLICES = 4
"""Parts of the time for which a child may be silent."""


# ---- the child's side


class ParentLink:
    """A child's connection to its supervisor.

    Args:
        descriptor: The file descriptor of the child's socket.
        port: The port that the supervisor has reserved.
        drain: The longest drain that it allows, in seconds.
        first: Whether this is the first of several workers, or takes its place.
    """

    def __init__(self, descriptor: int, port: int, drain: float, first: bool) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._port = port
        self._drain = drain
        self._first = first
        self._announced = False

    @classmethod
    def find(cls) -> ParentLink | None:
        """The link of this process, or None if no supervisor has started it."""
        text = os.environ.pop(_VARIABLE, None)
        return cls(**json.loads(text)) if text is not None else None

    def restrict(self, options: RunOptions) -> RunOptions:
        """The options of the command line with what the supervisor decides."""
        return replace(options, port=self._port, shared=True, drain=min(self._drain, options.drain), first=self._first)

    def attach(self) -> None:
        """End this process when the supervisor is gone; SIGINT is the supervisor's business from now on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # `Signals` takes it over
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def announce(self, server: ServerInfo) -> None:
        """Report to the supervisor that this process serves."""
        with contextlib.suppress(OSError):  # it has died; `_watch` sees to that
            self._socket.sendall(json.dumps(asdict(server)).encode() + b"\n")
        self._announced = True

    def beat(self) -> None:
        """Report to the supervisor that the event loop is alive; called in the loop, and does not wait."""
        if self._announced:
            with contextlib.suppress(OSError):  # it does not read at present, or has died
                self._socket.send(b".", socket.MSG_DONTWAIT)

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._drain + STOP_TIMEOUT)
        os._exit(1)


# ---- the supervisor's side


class Child:
    """A process that runs this very command again, to serve; `Children.start` makes it.

    Attributes:
        server: Its addresses and routes, once `ready` has returned; None if it ended before.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server: ServerInfo | None = None
        self._process = process
        self._reader = reader
        self._writer = writer

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the signal's number if one killed it; None while it lives."""
        return self._process.returncode

    async def ready(self) -> None:
        """Wait until it serves, or has ended, which leaves `server` None."""
        line = asyncio.ensure_future(self._reader.readline())
        await first_of(line, self.ended())
        if not line.cancelled() and line.result().endswith(b"\n"):  # else it died while it reported
            self.server = ServerInfo(**json.loads(line.result()))
        else:  # its end of the connection closes a little before the process is gone, and has an exit code
            await self.ended()

    async def silent(self, timeout: float) -> None:
        """Wait until the event loop of a child that serves has given no sign of life for `timeout` seconds.

        The time is taken in slices, as a process that was stopped itself must not take what it missed for silence.
        """
        missed = 0
        while missed < SLICES:
            try:
                async with asyncio.timeout(timeout / SLICES):
                    heard = await self._reader.read(4096)
            except TimeoutError:
                missed += 1
                continue
            except OSError:
                heard = b""
            if not heard:  # it is ending
                await asyncio.Event().wait()
            missed = 0

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._process.wait()
        self._writer.close()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, timeout: float) -> None:
        """Let it drain and end; kill it after `timeout` seconds."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), timeout)
        except TimeoutError:
            logger.warning("process %d did not stop; killing it", self.pid)
            self.kill()
            await self.ended()

    def how_it_ended(self) -> str:
        """Its exit code or its signal, in words."""
        code = self.exit_code or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Children:
    """The children of one supervisor, on a port that stays reserved while none of them listens.

    Args:
        options: The host and the port to serve.
        drain: The longest drain that a child may take, in seconds.

    Raises:
        CommandError: The port cannot be had.
    """

    def __init__(self, options: RunOptions, drain: float) -> None:
        # Without SO_REUSEPORT first: with it, another server that shares its port would go unnoticed.
        alone = bind(options.host, options.port)
        self._port = alone[0].getsockname()[1]
        for each in alone:
            each.close()
        self._reserved = bind(options.host, self._port, shared=True)
        self._drain = drain
        self._children: set[Child] = set()

    async def start(self, *, first: bool = True) -> Child:
        """Start one more; `first` says whether it is the first of several workers, or takes its place."""
        ours, theirs = socket.socketpair()
        with theirs:
            link = {"descriptor": theirs.fileno(), "port": self._port, "drain": self._drain, "first": first}
            with _no_interrupt():
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *sys.orig_argv[1:],
                    env=os.environ | {_VARIABLE: json.dumps(link)},
                    pass_fds=(theirs.fileno(),),
                )
        child = Child(process, *await asyncio.open_connection(sock=ours))
        self._children.add(child)
        return child

    def forget(self, child: Child) -> None:
        """Remove one that has ended."""
        self._children.discard(child)

    def count_serving(self) -> int:
        """The number of children that serve."""
        return sum(child.server is not None and child.exit_code is None for child in self._children)

    def kill(self) -> None:
        """End all of them at once."""
        for child in self._children:
            child.kill()

    async def stop(self, timeout: float) -> None:
        """Let all of them drain and end; kill those that still run after `timeout` seconds."""
        await asyncio.gather(*(child.stop(timeout) for child in self._children))
        self._children.clear()


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let children begin with SIGINT blocked: the terminal sends it to them too, while Python is still starting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
