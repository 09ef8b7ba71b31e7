"""Hooks: what an app does at its start and stop, for a client that comes or goes, after a failure, and on a clock."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .connection import Connection
from .errors import DeclarationError
from .fatal import is_fatal
from .logs import logger
from .threads import Threads

__all__ = ["Hooks", "Lifespan"]

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[[Any], contextlib.AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class _Periodic:
    seconds: float
    function: Callable[[], Any]


class Hooks:
    """The hooks of one app, run in the order in which they were added (the closing ones in reverse)."""

    def __init__(self) -> None:
        self._startup: list[Callable[..., Any]] = []
        self._shutdown: list[Callable[..., Any]] = []
        self._connect: list[Callable[..., Any]] = []
        self._disconnect: list[Callable[..., Any]] = []
        self._error: list[Callable[..., Any]] = []
        self._periodic: list[_Periodic] = []

    # ---- adding

    def on_startup(self, hook: F) -> F:
        """Run `hook()` when the app starts, before the first client."""
        return _add(self._startup, hook, 0, "on_startup")

    def on_shutdown(self, hook: F) -> F:
        """Run `hook()` when the app has stopped and its last client is gone."""
        return _add(self._shutdown, hook, 0, "on_shutdown")

    def on_connect(self, hook: F) -> F:
        """Run `hook(connection)` when a client has been welcomed, before its first message is taken.

        What it raises closes the connection: with 1008 and its description for a `WampError`, else with 1011.
        """
        return _add(self._connect, hook, 1, "on_connect")

    def on_disconnect(self, hook: F) -> F:
        """Run `hook(connection)` when a client has gone and left its topics.

        `connection.close_code` and `connection.close_reason` say why it went.
        """
        return _add(self._disconnect, hook, 1, "on_disconnect")

    def on_error(self, hook: F) -> F:
        """Run `hook(error, connection)` for each exception that nobody expected: to report it elsewhere."""
        return _add(self._error, hook, 2, "on_error")

    def every(self, seconds: float) -> Callable[[F], F]:
        """Run the decorated function again and again, `seconds` after it last ended, while the app runs.

        What it raises is logged, and it runs again.
        """
        if not seconds > 0:
            raise DeclarationError(f"every: seconds must be above 0, not {seconds!r}")

        def register(function: F) -> F:
            _check(function, 0, "every")
            self._periodic.append(_Periodic(seconds, function))
            return function

        return register

    def remove_error_hook(self, hook: Callable[..., Any]) -> None:
        """Take back what `on_error` added."""
        self._error.remove(hook)

    # ---- running

    async def started(self, threads: Threads) -> None:
        """Run the start-up hooks; what one raises stops the start."""
        for hook in self._startup:
            await _run(threads, None, hook)

    async def stopped(self, threads: Threads) -> None:
        """Run the shutdown hooks in reverse; one that fails is logged and the others run."""
        for hook in reversed(self._shutdown):
            await _run_logged(threads, None, "on_shutdown", hook)

    @property
    def greet(self) -> bool:
        """Whether there are connect hooks."""
        return bool(self._connect)

    async def connected(self, threads: Threads, connection: Connection) -> None:
        """Run the connect hooks; what one raises refuses the client."""
        for hook in self._connect:
            await _run(threads, connection, hook, connection)

    async def disconnected(self, threads: Threads, connection: Connection) -> None:
        """Run the disconnect hooks; one that fails is reported and the others run."""
        for hook in self._disconnect:
            try:
                await _run(threads, connection, hook, connection)
            except BaseException as error:
                if is_fatal(error):
                    raise
                logger.exception("on_disconnect hook %s failed", _name(hook))
                await self.failed(threads, error, connection)

    async def failed(self, threads: Threads, error: BaseException, connection: Connection) -> None:
        """Run the error hooks; one that fails itself is logged."""
        for hook in self._error:
            await _run_logged(threads, connection, "on_error", hook, error, connection)

    def start_periodic(self, threads: Threads) -> list[asyncio.Task[None]]:
        """One task for each `every`."""
        return [asyncio.create_task(_repeat(threads, each)) for each in self._periodic]


def _add(hooks: list[Callable[..., Any]], hook: F, count: int, name: str) -> F:
    _check(hook, count, name)
    hooks.append(hook)
    return hook


def _check(hook: Callable[..., Any], count: int, name: str) -> None:
    takes = ("no argument", "one argument (connection)", "two arguments (error, connection)")[count]
    try:
        inspect.signature(hook).bind(*[None] * count)
    except TypeError:
        raise DeclarationError(f"{name}: {_name(hook)} must take {takes}") from None


def _name(hook: Callable[..., Any]) -> str:
    return str(getattr(hook, "__qualname__", hook))


async def _run(threads: Threads, owner: Connection | None, hook: Callable[..., Any], *args: Any) -> None:
    if inspect.iscoroutinefunction(hook):
        await hook(*args)
    else:
        result = await (threads.run(hook, *args) if owner is None else threads.run_for(owner, hook, *args))
        if isinstance(result, Awaitable):
            await result


async def _run_logged(
    threads: Threads, owner: Connection | None, kind: str, hook: Callable[..., Any], *args: Any
) -> None:
    try:
        await _run(threads, owner, hook, *args)
    except BaseException as error:
        if is_fatal(error):
            raise
        logger.exception("%s hook %s failed", kind, _name(hook))


async def _repeat(threads: Threads, periodic: _Periodic) -> None:
    while True:
        await asyncio.sleep(periodic.seconds)
        await _run_logged(threads, None, "every", periodic.function)
