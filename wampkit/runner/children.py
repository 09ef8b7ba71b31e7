"""Processes that serve for a supervisor, seen from both sides.

A child is the same command again, tied to its supervisor by a pair of sockets: it tells over them that it serves, and
then again and again that its event loop is alive. It ends when their other end closes, so that no child outlives a
supervisor however that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, replace
from typing import Any

from ..telemetry.logs import logger_of
from .serve import RunOptions, ServerInfo, bind

__all__ = ["STOP_PATIENCE", "Child", "ParentLink", "first_of", "reserve"]

logger = logger_of(__name__)

_VARIABLE = "_WAMPKIT_PARENT"

STOP_PATIENCE = 20.0
"""Seconds that a child is given, beyond the drain, before it is killed."""

SLICES = 4
"""Parts of the time for which a child may be silent."""


# ---- the child's side


class ParentLink:
    """What ties a child to its supervisor.

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
        """The tie of this process, or None if no supervisor has started it."""
        text = os.environ.pop(_VARIABLE, None)
        return cls(**json.loads(text)) if text is not None else None

    def settings(self, settings: RunOptions) -> RunOptions:
        """What this child shall do of what the command line says."""
        return replace(
            settings, port=self._port, shared=True, drain=min(self._drain, settings.drain), first=self._first
        )

    def hold(self) -> None:
        """End this process when the supervisor is gone; SIGINT is the supervisor's business from now on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # `Signals` takes it over
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def announce(self, started: ServerInfo) -> None:
        """Tell the supervisor that this process serves."""
        with contextlib.suppress(OSError):  # it has died; `_watch` sees to that
            self._socket.sendall(json.dumps(asdict(started)).encode() + b"\n")
        self._announced = True

    def beat(self) -> None:
        """Tell the supervisor that the event loop is alive; called in the loop, and does not wait."""
        if self._announced:
            with contextlib.suppress(OSError):  # it does not read at present, or has died
                self._socket.send(b".", socket.MSG_DONTWAIT)

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._drain + STOP_PATIENCE)
        os._exit(1)


# ---- the supervisor's side


class Child:
    """A process that runs this very command again, to serve.

    Attributes:
        started: What it serves, once `ready` has returned.
    """

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, end: Any) -> None:
        self.started: ServerInfo | None = None
        self._process = process
        self._reader = reader
        self._end = end

    @classmethod
    async def start(cls, port: int, drain: float, *, first: bool = True) -> Child:
        """Start one.

        Args:
            port: The port that it shall serve.
            drain: The longest drain that it may take, in seconds.
            first: Whether it is the first of several workers, or takes its place.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            tie = json.dumps({"descriptor": theirs.fileno(), "port": port, "drain": drain, "first": first})
            with _no_interrupt():
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *sys.orig_argv[1:],
                    env=os.environ | {_VARIABLE: tie},
                    pass_fds=(theirs.fileno(),),
                )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the signal's number if one killed it; None while it lives."""
        return self._process.returncode

    async def ready(self) -> None:
        """Wait until it serves, or has ended, which leaves `started` None."""
        line = asyncio.ensure_future(self._reader.readline())
        await first_of(line, self.ended())
        if not line.cancelled() and line.result().endswith(b"\n"):  # else it died while it told
            self.started = ServerInfo(**json.loads(line.result()))
        else:  # its end of the line closes a little before the process is gone, and has an exit code
            await self.ended()

    async def silent(self, patience: float) -> None:
        """Wait until the event loop of a child that serves has given no sign of life for `patience` seconds.

        The time is taken in slices, as a process that was stopped itself must not take what it missed for silence.
        """
        missed = 0
        while missed < SLICES:
            try:
                async with asyncio.timeout(patience / SLICES):
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
        self._end.close()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, patience: float) -> None:
        """Let it drain and end, and kill it if that takes longer than `patience` seconds."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), patience)
        except TimeoutError:
            logger.warning("process %d did not stop; killing it", self.pid)
            self.signal(signal.SIGKILL)
            await self.ended()

    def how_it_ended(self) -> str:
        """Its exit code or its signal, in words."""
        code = self.exit_code or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let children begin with SIGINT blocked: the terminal sends it to them too, while Python is still starting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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


def reserve(settings: RunOptions) -> list[socket.socket]:
    """Take the port for the children: bound, so that it stays ours while none of them listens.

    Raises:
        CommandError: The port cannot be had.
    """
    # Without SO_REUSEPORT first: with it, another server that shares its port would go unnoticed.
    alone = bind(settings.host, settings.port)
    port = alone[0].getsockname()[1]
    for each in alone:
        each.close()
    return bind(settings.host, port, shared=True)
