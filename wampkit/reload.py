"""`--reload`: a child serves the app, and is replaced by a fresh one whenever a source file is saved."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from .children import Child, first_of, reserve
from .loading import USAGE, Mistake
from .logs import logger, only_warnings
from .process import Signals, set_up_logging
from .server import Settings, Started

__all__ = ["run_reloading"]

DRAIN = 0.5
"""Seconds that calls under way are given: whoever edits does not want to wait for them."""

STOP_PATIENCE = 3.0
"""Seconds after which a child that does not stop is killed."""


def run_reloading(settings: Settings, announce: Callable[[Started], None]) -> int:
    """Serve an app, anew whenever a Python file or `pyproject.toml` below the working directory changes.

    Args:
        settings: What to serve, and where.
        announce: Called each time that clients can connect.

    Returns:
        The exit code.

    Raises:
        Mistake: watchfiles is not installed, or the port cannot be had.
    """
    try:
        import watchfiles
    except ImportError:
        raise Mistake("--reload needs watchfiles: pip install 'wampkit[reload]'", USAGE) from None

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
                raise Mistake(f"--reload cannot watch {Path.cwd()}: {error}") from error
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
    def __init__(self, settings: Settings, announce: Callable[[Started], None]) -> None:
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
            raise Mistake("", USAGE)  # the child has said what is wrong with the command
        logger.warning("the app ended (%s); waiting for a change", child.how_it_ended())
        await asyncio.Event().wait()

    async def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop(STOP_PATIENCE)
