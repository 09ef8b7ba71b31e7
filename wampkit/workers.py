"""Several processes behind one port: a supervisor that starts them, replaces those that die, and ends them all.

A child is the same command again, tied to its supervisor by a pair of sockets: it tells over them that it serves,
and ends when their other end closes, so that no child outlives a supervisor however that died.
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
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, replace
from typing import Any

from .process import Signals, set_up_logging
from .server import Settings, Started, bind

__all__ = ["Child", "Tie", "first_of", "reserve", "run"]

logger = logging.getLogger("wampkit")

_VARIABLE = "_WAMPKIT_TIE"

STOP_PATIENCE = 10.0
"""Seconds that a child is given, beyond the drain, before it is killed."""

STARTS_IN_VAIN = 5
"""After so many workers in a row that ended before they served, the supervisor gives up."""

STEADY = 10.0
"""A worker that lived for so many seconds is replaced without much delay."""


# ---- the child's side


class Tie:
    """What ties a child to its supervisor.

    Args:
        descriptor: The file descriptor of the child's socket.
        port: The port that the supervisor has reserved.
        drain: The longest drain that it allows, in seconds.
    """

    def __init__(self, descriptor: int, port: int, drain: float) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._port = port
        self._drain = drain

    @classmethod
    def find(cls) -> Tie | None:
        """The tie of this process, or None if no supervisor has started it."""
        text = os.environ.pop(_VARIABLE, None)
        return cls(**json.loads(text)) if text is not None else None

    def settings(self, settings: Settings) -> Settings:
        """What this child shall do of what the command line says."""
        return replace(settings, port=self._port, shared=True, drain=min(self._drain, settings.drain))

    def hold(self) -> None:
        """End this process when the supervisor is gone; SIGINT is the supervisor's business from now on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def announce(self, started: Started) -> None:
        """Tell the supervisor that this process serves."""
        with contextlib.suppress(OSError):  # it has died; `_watch` sees to that
            self._socket.sendall(json.dumps(asdict(started)).encode() + b"\n")

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
        self.started: Started | None = None
        self._process = process
        self._reader = reader
        self._end = end

    @classmethod
    async def start(cls, port: int, drain: float) -> Child:
        """Start one.

        Args:
            port: The port that it shall serve.
            drain: The longest drain that it may take, in seconds.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            tie = json.dumps({"descriptor": theirs.fileno(), "port": port, "drain": drain})
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
        if line.done() and line.result():
            self.started = Started(**json.loads(line.result()))

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._process.wait()
        self._end.close()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

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
    """Wait until one of them is done, and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def reserve(settings: Settings) -> list[socket.socket]:
    """Take the port for the children: bound, so that it stays ours while none of them listens.

    Raises:
        Mistake: The port cannot be had.
    """
    # Without SO_REUSEPORT first: with it, another server that shares its port would go unnoticed.
    alone = bind(settings.host, settings.port)
    port = alone[0].getsockname()[1]
    for each in alone:
        each.close()
    return bind(settings.host, port, shared=True)


# ---- many


def run(settings: Settings, announce: Callable[[Started], None]) -> int:
    """Serve an app in `settings.workers` processes until a signal ends them.

    Args:
        settings: What to serve, and where.
        announce: Called once when all of them serve.

    Returns:
        The exit code.

    Raises:
        Mistake: The port cannot be had.
    """
    workers = _Workers(settings, announce)
    try:
        return asyncio.run(workers.supervise(Signals(workers.kill)))
    except KeyboardInterrupt:
        return 0


class _Workers:
    def __init__(self, settings: Settings, announce: Callable[[Started], None]) -> None:
        set_up_logging(settings.log_level)
        self._settings = settings
        self._announce = announce
        self._reserved = reserve(settings)
        self._children: set[Child] = set()
        self._in_vain = 0
        self._serving = 0

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.signal(signal.SIGKILL)

    async def supervise(self, signals: Signals) -> int:
        stop = signals.attach()
        # One goes ahead, so that what is wrong with the app is said once.
        first = await self._start()
        await first_of(stop.wait(), first.ready())
        if not stop.is_set() and first.started is None:
            return first.exit_code or 1
        keepers = [asyncio.create_task(self._keep(first))]
        if not stop.is_set():
            keepers += [asyncio.create_task(self._keep()) for _ in range(self._settings.workers - 1)]
        await first_of(stop.wait(), *keepers)
        for keeper in keepers:
            keeper.cancel()
        if stop.is_set():
            logger.info("%s: stopping; a second signal stops at once", signals.name)
        else:
            logger.error("%d workers in a row ended before they served; giving up", self._in_vain)
        await self._stop()
        return 0 if stop.is_set() else 1

    async def _start(self) -> Child:
        port = self._reserved[0].getsockname()[1]
        child = await Child.start(port, self._settings.drain)
        self._children.add(child)
        return child

    async def _keep(self, child: Child | None = None) -> None:
        """Keep one worker alive; returns when too many have ended before they served."""
        delay = 0.0
        while True:
            began = time.monotonic()
            if child is None:
                child = await self._start()
                await child.ready()
            if child.started is not None:
                self._serves(child.started)
                await child.ended()
            else:
                self._in_vain += 1
            self._children.discard(child)
            if self._in_vain >= STARTS_IN_VAIN:
                return
            delay = 0.1 if time.monotonic() - began > STEADY else min(2 * delay + 0.1, 5.0)
            logger.warning("worker %d ended (%s); starting another", child.pid, child.how_it_ended())
            await asyncio.sleep(delay)
            child = None

    def _serves(self, started: Started) -> None:
        self._in_vain = 0
        self._serving += 1
        if self._serving == self._settings.workers:
            self._announce(started)

    async def _stop(self) -> None:
        stopping = [child.stop(self._settings.drain + STOP_PATIENCE) for child in self._children]
        await asyncio.gather(*stopping)
