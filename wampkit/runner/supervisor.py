"""Supervisors of child processes: `--workers` keeps several alive, `--reload` replaces one at each change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ..telemetry.logs import logger_of, set_level
from .children import STOP_TIMEOUT, Child, Children
from .errors import USAGE, CommandError
from .process import Signals, first_of, set_up_logging
from .serve import RunOptions, ServerInfo

__all__ = ["supervise"]

logger: logging.Logger = logger_of(__name__)


def supervise(options: RunOptions, announce: Callable[[ServerInfo], None]) -> int:
    """Serve an app in child processes until a signal ends them; a second signal kills them.

    With `options.reload` there is one child, which is replaced whenever a Python file or `pyproject.toml` below the
    working directory changes; else `options.workers` children are kept alive.

    Args:
        options: The options of `wampkit run`.
        announce: Called when clients can connect: once when all workers serve, or each time after a change.

    Returns:
        The exit code.

    Raises:
        CommandError: watchfiles is needed and not installed, or the port cannot be had.
    """
    set_up_logging(options.log_level)
    supervisor = _Reloader(options, announce) if options.reload else _Workers(options, announce)
    try:
        return asyncio.run(supervisor.run(Signals(supervisor.children.kill)))
    except KeyboardInterrupt:
        return 0


# ---- --workers

MAX_FAILED_STARTS = 4
"""After this number of workers in a row that ended before they served, the supervisor gives up."""

STEADY = 10.0
"""Seconds after which a worker that ends is replaced with the shortest delay again."""

FIRST_DELAY = 0.1

MAX_DELAY = 5.0
"""Seconds between the end of a worker and the start of the next; each failure doubles the delay up to this."""


class _Workers:
    def __init__(self, options: RunOptions, announce: Callable[[ServerInfo], None]) -> None:
        self.children = Children(options, options.drain)
        self._options = options
        self._announce = announce
        self._failed_starts = 0
        self._announced = False
        self._keys: str | None = None

    async def run(self, signals: Signals) -> int:
        """Keep the workers alive until a signal comes; the exit code."""
        stop = signals.attach()
        try:
            # One goes ahead, so that what is wrong with the app is said once.
            first = await self.children.start(first=True)
            await first_of(stop.wait(), first.ready())
            if not stop.is_set() and first.server is None:
                return max(first.exit_code or 1, 1)
            if not stop.is_set():
                others = [self._keep(stop) for _ in range(self._options.workers - 1)]
                await first_of(stop.wait(), self._keep(stop, first), *others)
            if stop.is_set():
                logger.info("%s: stopping; a second signal stops at once", signals.name)
            else:
                logger.error("%d workers in a row ended before they served; giving up", self._failed_starts)
            await self.children.stop(self._options.drain + STOP_TIMEOUT)
        finally:
            self.children.kill()
        return 0 if stop.is_set() else 1

    async def _keep(self, stop: asyncio.Event, child: Child | None = None) -> None:
        """Keep one worker alive; returns when too many have ended before they served."""
        delay = 0.0
        is_first = child is not None  # and so is each that takes its place
        while True:
            began = time.monotonic()
            if child is None:
                try:
                    child = await self.children.start(first=is_first)
                except OSError as error:
                    delay = _longer(delay)
                    logger.error("no worker could be started: %s; trying again", error)
                    await asyncio.sleep(delay)
                    continue
                await child.ready()
            if child.server is not None:
                self._serves(child.server)
                await self._until_it_ends(child)
            else:
                self._failed_starts += 1
            self.children.forget(child)
            if self._failed_starts >= MAX_FAILED_STARTS:
                return
            delay = FIRST_DELAY if time.monotonic() - began > STEADY else _longer(delay)
            await asyncio.sleep(delay)
            if stop.is_set():  # a signal that was sent to all of them has ended it
                return
            logger.warning("worker %d ended (%s); starting another", child.pid, child.how_it_ended())
            child = None

    async def _until_it_ends(self, child: Child) -> None:
        """Wait until a worker has ended; one whose event loop stands still is killed."""
        timeout = self._options.worker_timeout
        if timeout:
            await first_of(child.ended(), child.silent(timeout))
            if child.exit_code is None:
                logger.error("worker %d: its event loop has stood still for %g s; killing it", child.pid, timeout)
                child.kill()
        await child.ended()

    def _serves(self, server: ServerInfo) -> None:
        self._failed_starts = 0
        if self._keys is not None and self._keys != server.keys:
            logger.error(
                "--workers %d: the workers have different keys for sessions or tickets, so that one cannot read what "
                "another has written; take the keys from the environment, and draw none at the start",
                self._options.workers,
            )
        self._keys = server.keys
        if not self._announced and self.children.count_serving() == self._options.workers:
            self._announced = True
            self._announce(server)


def _longer(delay: float) -> float:
    return min(2 * delay + FIRST_DELAY, MAX_DELAY)


# ---- --reload

DRAIN = 0.5
"""Seconds for running calls to end: a developer does not want to wait for them."""

RELOAD_TIMEOUT = 3.0
"""Seconds after which a child that does not stop is killed."""


class _Reloader:
    def __init__(self, options: RunOptions, announce: Callable[[ServerInfo], None]) -> None:
        self._watch = _source_watcher()
        self.children = Children(options, DRAIN)
        self._announce = announce

    async def run(self, signals: Signals) -> int:
        """Replace the child at each change until a signal comes; the exit code."""
        stop, changed = signals.attach(), asyncio.Event()
        watching = asyncio.create_task(self._watch(changed))
        try:
            while not stop.is_set():
                changed.clear()
                try:
                    await first_of(self._serve(), stop.wait(), changed.wait(), asyncio.shield(watching))
                finally:
                    await self.children.stop(RELOAD_TIMEOUT)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        logger.info("%s: stopped", signals.name)
        return 0

    async def _serve(self) -> None:
        """Run a child; once it has ended, wait to be cancelled, as only the next save can help."""
        child = await self.children.start()
        await child.ready()
        if child.server is not None:
            self._announce(child.server)
            await child.ended()
        elif child.exit_code == USAGE:
            raise CommandError("", USAGE)  # the child has said what is wrong with the command
        logger.warning("the app ended (%s); waiting for a change", child.how_it_ended())
        await asyncio.Event().wait()


def _source_watcher() -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    """A coroutine function that sets an event at each change of a source file.

    Raises:
        CommandError: watchfiles is not installed; the coroutine raises it where files cannot be watched.
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

    # It says at level info how many files changed, in a second line beside ours, which names them.
    set_level("watchfiles", "WARNING")
    return watch
