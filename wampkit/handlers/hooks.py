"""Life-cycle hooks, error handlers, and the report of unexpected exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..concurrency.background import BackgroundTask
from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import Threads, is_async
from ..connection.connection import Connection
from ..errors import DeclarationError, WampError
from ..protocol.messages import NotJson
from ..telemetry.logs import LogThrottle, logger_of
from .signatures import is_method, location, without_parentheses

__all__ = [
    "ErrorHandlers",
    "ErrorReporter",
    "HookRunner",
    "Hooks",
    "Lifespan",
    "check_hook",
    "check_lifespan",
    "entered",
]

logger = logger_of(__name__)

F = TypeVar("F", bound=Callable[..., Any])

Lifespan = Callable[[Any], contextlib.AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class _Periodic:
    seconds: float
    function: Callable[[], Any]
    one_worker: bool | None


_MAKE_CONTEXT = "decorate an async generator function with @contextlib.asynccontextmanager"


def check_lifespan(lifespan: Any) -> Any:
    """A lifespan as it was declared, or None. Raises DeclarationError if it can be none."""
    if lifespan is None:
        return None
    if not callable(lifespan):
        raise DeclarationError(f"lifespan is a function of the app, not {lifespan!r}; {_MAKE_CONTEXT}")
    if inspect.isgeneratorfunction(lifespan) or inspect.isasyncgenfunction(lifespan) or is_async(lifespan):
        raise DeclarationError(f"lifespan {location(lifespan)}: this makes no async context manager; {_MAKE_CONTEXT}")
    try:
        inspect.signature(lifespan).bind(None)
    except TypeError:
        raise DeclarationError(f"lifespan {location(lifespan)}: it must take one argument, the app") from None
    except ValueError:  # no signature to be read; calling it will tell
        pass
    return lifespan


def entered(lifespan: Lifespan, app: Any) -> contextlib.AbstractAsyncContextManager[Any]:
    """The context manager that a lifespan makes for an app. Raises DeclarationError if it makes something else."""
    manager = lifespan(app)
    if not isinstance(manager, contextlib.AbstractAsyncContextManager):
        raise DeclarationError(
            f"lifespan {location(lifespan)}: it gave {manager!r}, which is no async context manager; {_MAKE_CONTEXT}"
        )
    return manager


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

    @without_parentheses("app.on_startup")
    def on_startup(self, hook: F) -> F:
        """Run `hook()` when the app starts, before the first client."""
        return _add(self._startup, hook, 0, "on_startup")

    @without_parentheses("app.on_shutdown")
    def on_shutdown(self, hook: F) -> F:
        """Run `hook()` when the app has stopped and its last client is gone."""
        return _add(self._shutdown, hook, 0, "on_shutdown")

    @without_parentheses("app.on_connect")
    def on_connect(self, hook: F) -> F:
        """Run `hook(connection)` when a client has been welcomed, before its first message is taken.

        What it raises closes the connection: with 1008 and its description for a `WampError`, else with 1011.
        """
        return _add(self._connect, hook, 1, "on_connect")

    @without_parentheses("app.on_disconnect")
    def on_disconnect(self, hook: F) -> F:
        """Run `hook(connection)` when a client that was welcomed has gone and left its topics.

        `connection.close_code` and `connection.close_reason` say why it went; `app.connections` counts it no more.
        When the app stops, the hooks are waited for at most 5 seconds, then cancelled.
        """
        return _add(self._disconnect, hook, 1, "on_disconnect")

    @without_parentheses("app.on_error")
    def on_error(self, hook: F) -> F:
        """Run `hook(error, connection)` for each exception that was not expected: to report it elsewhere.

        The connection is None where the exception belongs to none: from a periodic or shutdown hook, or from a part of
        wampkit that serves all connections.
        """
        return _add(self._error, hook, 2, "on_error")

    def every(self, seconds: float, *, one_worker: bool | None = None) -> Callable[[F], F]:
        """Run the decorated function again and again, `seconds` after it last ended, while the app runs.

        What it raises is logged and given to `on_error`, and it runs again.

        Args:
            seconds: The pause.
            one_worker: Where several processes serve, each of them runs the function. True has it run in one of those
                of `wampkit run --workers` only (gunicorn with several workers is refused then, and processes that are
                started one by one do not know of each other). False ends the warning that each of them runs it.
        """
        if callable(seconds):
            raise DeclarationError(f"write @app.every(60), with the seconds, above {_name(seconds)}")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise DeclarationError(f"every: seconds must be above 0, not {seconds!r}")

        def register(function: F) -> F:
            check_hook(function, 0, "every(...)")
            self._periodic.append(_Periodic(seconds, function, one_worker))
            return function

        return register

    def remove_error_hook(self, hook: Callable[..., Any]) -> None:
        """Take back what `on_error` added."""
        self._error.remove(hook)

    def periodic(self, one_worker: bool | None) -> list[str]:
        """The names of the periodic functions that were declared with this `one_worker`."""
        return [_name(each.function) for each in self._periodic if each.one_worker is one_worker]


class HookRunner:
    """Runs the hooks of a started app.

    Args:
        hooks: The app's hooks.
        threads: Where the `def` functions among them run.
    """

    def __init__(self, hooks: Hooks, threads: Threads) -> None:
        self._hooks = hooks
        self._threads = threads

    async def started(self) -> None:
        """Run the start-up hooks; what one raises stops the start."""
        for hook in self._hooks._startup:
            await self._run(None, hook)

    async def stopped(self) -> None:
        """Run the shutdown hooks in reverse; one that fails is reported and the others run."""
        for hook in reversed(self._hooks._shutdown):
            try:
                await self._run(None, hook)
            except BaseException as error:
                if must_propagate(error):
                    raise
                logger.exception("on_shutdown hook %s failed", _name(hook))
                await self.failed(error)

    @property
    def has_connect(self) -> bool:
        """Whether there are connect hooks."""
        return bool(self._hooks._connect)

    async def connected(self, connection: Connection) -> None:
        """Run the connect hooks; what one raises refuses the client."""
        for hook in self._hooks._connect:
            await self._run(connection, hook, connection)

    async def disconnected(self, connection: Connection) -> None:
        """Run the disconnect hooks; one that fails is reported and the others run."""
        for hook in self._hooks._disconnect:
            try:
                await self._run(connection, hook, connection)
            except BaseException as error:
                if must_propagate(error):
                    raise
                logger.exception("on_disconnect hook %s failed", _name(hook))
                await self.failed(error, connection)

    async def failed(self, error: BaseException, connection: Connection | None = None) -> None:
        """Run the error hooks; one that fails itself is logged."""
        for hook in self._hooks._error:
            try:
                await self._run(connection, hook, error, connection)
            except BaseException as failure:
                if must_propagate(failure):
                    raise
                logger.exception("on_error hook %s failed", _name(hook))

    def start_periodic(self, *, first: bool = True) -> list[BackgroundTask]:
        """Start a task for each `every`.

        Args:
            first: Whether this process runs the functions for one process.
        """

        def task(each: _Periodic) -> BackgroundTask:
            return BackgroundTask(f"every: {_name(each.function)}", lambda: self._repeat(each), self.failed)

        tasks = [task(each) for each in self._hooks._periodic if first or not each.one_worker]
        for each in tasks:
            each.start()
        return tasks

    async def _repeat(self, periodic: _Periodic) -> None:
        throttle = LogThrottle(logger)
        try:
            while True:
                await asyncio.sleep(periodic.seconds)
                try:
                    await self._run(None, periodic.function)
                except BaseException as error:
                    if must_propagate(error):
                        raise
                    text = f"every: {_name(periodic.function)} failed"
                    throttle.add(type(error).__name__, text, level=logging.ERROR, error=error)
                    await self.failed(error)
        finally:
            throttle.close()

    async def _run(self, owner: Connection | None, hook: Callable[..., Any], *args: Any) -> None:
        if inspect.iscoroutinefunction(hook):
            await hook(*args)
        else:
            threads = self._threads
            result = await (threads.run(hook, *args) if owner is None else threads.run_for(owner, hook, *args))
            if isinstance(result, Awaitable):
                await result


_ARGUMENTS = ("", "connection", "error, connection")


def _add(hooks: list[Callable[..., Any]], hook: F, count: int, name: str) -> F:
    check_hook(hook, count, name, _ARGUMENTS[count])
    hooks.append(hook)
    return hook


def check_hook(hook: Any, count: int, name: str, arguments: str = "") -> None:
    """Refuse a hook that cannot be called.

    Args:
        hook: The function.
        count: How many arguments it is given.
        name: What adds it.
        arguments: What they are.
    """
    if not callable(hook):
        raise DeclarationError(f"{name}: {hook!r} is no function")
    if is_method(hook):
        bound = f"app.{name}(service.{hook.__name__})"
        raise DeclarationError(f"{name}: {_name(hook)} is a method without its object; register it bound: {bound}")
    takes = ("no argument", "one argument", "two arguments")[count] + (f" ({arguments})" if arguments else "")
    try:
        inspect.signature(hook).bind(*[None] * count)
    except TypeError:
        raise DeclarationError(f"{name}: {_name(hook)} must take {takes}") from None


def _name(hook: Callable[..., Any]) -> str:
    return str(getattr(hook, "__qualname__", hook))


ErrorHandlers = Mapping[type[BaseException], Callable[[Any], Any]]


class ErrorReporter:
    """Explains exceptions by the app's error handlers.

    Args:
        handlers: What makes a `WampError` of an exception, by its class.
        on_error: Called for each unexpected exception.
        threads: Where the handlers run that are plain functions.
    """

    def __init__(
        self,
        handlers: ErrorHandlers,
        on_error: Callable[[BaseException, Connection], Awaitable[None]],
        threads: Threads,
    ) -> None:
        self._threads = threads
        self._handlers = handlers
        self._on_error = on_error

    async def as_answer(self, connection: Connection, error: BaseException, what: str) -> BaseException:
        """Turn an error into an answer by the app's error handlers; an exception that none handles is reported."""
        if isinstance(error, WampError):
            return error
        handler = self._handler_for(type(error))
        if handler is not None:
            try:
                answer = await self._threads.ask_for(connection, handler, error)
                if isinstance(answer, WampError):
                    return answer
            except WampError as raised:
                return raised
            except BaseException as failure:
                if must_propagate(failure):
                    raise
                await self.report(connection, failure, f"the error handler for {type(error).__name__}")
                return failure
        await self.report(connection, error, what)
        return error

    async def report(self, connection: Connection, error: BaseException, what: str) -> None:
        """Log an exception and tell the app's hooks of it."""
        reason = str(error) if isinstance(error, NotJson) else ""
        why = "; ".join(filter(None, (reason, *getattr(error, "__notes__", ()))))
        kind = ("failed", type(error), _place_of(error), reason)
        text = f"{what} failed: {why}" if why else f"{what} failed"
        connection.log.add(kind, text, level=logging.ERROR, error=error)
        await self._on_error(error, connection)

    def _handler_for(self, kind: type[BaseException]) -> Callable[[Any], Any] | None:
        """The handler of the nearest class in the exception's ancestry."""
        for ancestor in kind.__mro__:
            handler = self._handlers.get(ancestor)
            if handler is not None:
                return handler
        return None


def _place_of(error: BaseException) -> int:
    """A hash of the lines in a traceback: equal for exceptions that were raised in the same way."""
    return hash(tuple((frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)))
