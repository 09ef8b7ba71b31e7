"""Child processes kept alive: `--workers` and `--reload`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ..telemetry.logs import logger_of, only_warnings
from .children import STOP_PATIENCE, Child, first_of, reserve
from .loading import USAGE, CommandError
from .process import Signals, set_up_logging
from .serve import RunOptions, ServerInfo

__all__ = ["run_reloading", "run_workers"]

logger = logger_of(__name__)

MOST_FAILED_STARTS = 4
"""After so many workers in a row that ended before they served, the supervisor gives up."""

STEADY = 10.0
"""A worker that lived for so many seconds is replaced without much delay."""


def run_workers(settings: RunOptions, announce: Callable[[ServerInfo], None]) -> int:
    """Serve an app in `settings.workers` processes until a signal ends them.

    Args:
        settings: What to serve, and where.
        announce: Called once when all of them serve.

    Returns:
        The exit code.

    Raises:
        CommandError: The port cannot be had.
    """
    workers = _Workers(settings, announce)
    try:
        return asyncio.run(workers.supervise(Signals(workers.kill)))
    except KeyboardInterrupt:
        return 0


class _Workers:
    def __init__(self, settings: RunOptions, announce: Callable[[ServerInfo], None]) -> None:
        set_up_logging(settings.log_level)
        self._settings = settings
        self._announce = announce
        self._reserved = reserve(settings)
        self._children: set[Child] = set()
        self._failed_starts = 0
        self._announced = False
        self._keys: str | None = None

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.signal(signal.SIGKILL)

    async def supervise(self, signals: Signals) -> int:
        """Keep the workers alive until a signal comes; the exit code."""
        stop = signals.attach()
        try:
            # One goes ahead, so that what is wrong with the app is said once.
            first = await self._start(first=True)
            await first_of(stop.wait(), first.ready())
            if not stop.is_set() and first.started is None:
                return max(first.exit_code or 1, 1)
            await self._keep_all(stop, first)
            await self._stop(signals)
        finally:
            self.kill()
        return 0 if stop.is_set() else 1

    async def _keep_all(self, stop: asyncio.Event, first: Child) -> None:
        others = [self._keep(stop) for _ in range(self._settings.workers - 1)] if not stop.is_set() else []
        await first_of(stop.wait(), self._keep(stop, first), *others)
        if not stop.is_set():
            logger.error("%d workers in a row ended before they served; giving up", self._failed_starts)

    async def _start(self, *, first: bool) -> Child:
        port = self._reserved[0].getsockname()[1]
        child = await Child.start(port, self._settings.drain, first=first)
        self._children.add(child)
        return child

    async def _keep(self, stop: asyncio.Event, child: Child | None = None) -> None:
        """Keep one worker alive; returns when too many have ended before they served."""
        delay = 0.0
        is_first = child is not None  # and so is each that takes its place
        while True:
            began = time.monotonic()
            if child is None:
                try:
                    child = await self._start(first=is_first)
                except OSError as error:
                    delay = min(2 * delay + 0.1, 5.0)
                    logger.error("no worker could be started: %s; trying again", error)
                    await asyncio.sleep(delay)
                    continue
                await child.ready()
            if child.started is not None:
                self._serves(child.started)
                await self._until_it_ends(child)
            else:
                self._failed_starts += 1
            self._children.discard(child)
            if self._failed_starts >= MOST_FAILED_STARTS:
                return
            delay = 0.1 if time.monotonic() - began > STEADY else min(2 * delay + 0.1, 5.0)
            await asyncio.sleep(delay)
            if stop.is_set():  # a signal that was sent to all of them has ended it
                return
            logger.warning("worker %d ended (%s); starting another", child.pid, child.how_it_ended())
            child = None

    async def _until_it_ends(self, child: Child) -> None:
        """Wait until a worker has ended; one whose event loop stands still is killed."""
        timeout = self._settings.worker_timeout
        if timeout:
            await first_of(child.ended(), child.silent(timeout))
            if child.exit_code is None:
                logger.error("worker %d: its event loop has stood still for %g s; killing it", child.pid, timeout)
                child.signal(signal.SIGKILL)
        await child.ended()

    def _serves(self, started: ServerInfo) -> None:
        self._failed_starts = 0
        if self._keys is None:
            self._keys = started.keys
        elif self._keys != started.keys:
            self._keys = started.keys
            logger.error(
                "--workers %d: the workers have different keys for sessions or tickets, so that one cannot read what "
                "another has written; take the keys from the environment, and draw none at the start",
                self._settings.workers,
            )
        serving = sum(child.started is not None and child.exit_code is None for child in self._children)
        if not self._announced and serving == self._settings.workers:
            self._announced = True
            self._announce(started)

    async def _stop(self, signals: Signals) -> None:
        if signals.name:
            logger.info("%s: stopping; a second signal stops at once", signals.name)
        patience = self._settings.drain + STOP_PATIENCE
        await asyncio.gather(*(child.stop(patience) for child in self._children))


DRAIN = 0.5
"""Seconds that calls under way are given: whoever edits does not want to wait for them."""

RELOAD_PATIENCE = 3.0
"""Seconds after which a child that does not stop is killed."""


def run_reloading(settings: RunOptions, announce: Callable[[ServerInfo], None]) -> int:
    """Serve an app, anew whenever a Python file or `pyproject.toml` below the working directory changes.

    Args:
        settings: What to serve, and where.
        announce: Called each time that clients can connect.

    Returns:
        The exit code.

    Raises:
        CommandError: watchfiles is not installed, or the port cannot be had.
    """
    try:
        import watchfiles
    except ImportError:
        raise CommandError("--reload needs watchfiles: pip install 'wampkit[reload]'", USAGE) from None

    class Sources(watchfiles.DefaultFilter):
        def __call__(self, change: watchfiles.Change, path: str) -> bool:
            return (path.endswith(".py") or Path(path).name == "pyproject.toml") and super().__call__(change, path)

    async def watch(changed: asyncio.Event) -> None:
        while True:
            try:
                async for batch in watchfiles.awatch(Path.cwd(), watch_filter=Sources(), raise_interrupt=False):
                    names = sorted({Path(path).name for _, path in batch})
                    logger.info("changed: %s", ", ".join(names[:3]) + (" ..." if len(names) > 3 else ""))
                    changed.set()
            except (OSError, RuntimeError) as error:
                raise CommandError(f"--reload cannot watch {Path.cwd()}: {error}") from error
            except Exception:
                logger.exception("watching the source files failed; starting it again")
            await asyncio.sleep(1.0)

    set_up_logging(settings.log_level)
    # It says at level info how many files changed, in a second line beside ours, which names them.
    only_warnings("watchfiles")
    reloader = _Reloader(settings, announce)
    try:
        return asyncio.run(reloader.supervise(Signals(reloader.kill), watch))
    except KeyboardInterrupt:
        return 0


class _Reloader:
    def __init__(self, settings: RunOptions, announce: Callable[[ServerInfo], None]) -> None:
        self._announce = announce
        self._reserved = reserve(settings)
        self._child: Child | None = None

    def kill(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def supervise(self, signals: Signals, watch: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
        """Replace the child at each change until a signal comes; the exit code."""
        stop, changed = signals.attach(), asyncio.Event()
        watcher = asyncio.create_task(watch(changed))
        try:
            while not stop.is_set():
                changed.clear()
                try:
                    await first_of(self._serve(), stop.wait(), changed.wait(), asyncio.shield(watcher))
                finally:
                    await self._stop()
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})
        logger.info("%s: stopped", signals.name)
        return 0

    async def _serve(self) -> None:
        """Run a child until it ends, and then wait: it is the next save that goes on."""
        self._child = child = await Child.start(self._reserved[0].getsockname()[1], DRAIN)
        await child.ready()
        if child.started is not None:
            self._announce(child.started)
            await child.ended()
        elif child.exit_code == USAGE:
            raise CommandError("", USAGE)  # the child has said what is wrong with the command
        logger.warning("the app ended (%s); waiting for a change", child.how_it_ended())
        await asyncio.Event().wait()

    async def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop(RELOAD_PATIENCE)
