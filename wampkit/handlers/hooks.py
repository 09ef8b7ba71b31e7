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
from ..connection.server_connection import ServerConnection
from ..errors import DeclarationError, WampError
from ..limits import is_positive
from ..protocol.messages import NotJson
from ..telemetry.logs import LogThrottle, logger_of
from .signatures import is_method, location

__all__ = [
    "ErrorReporter",
    "HookRunner",
    "Hooks",
    "Lifespan",
    "add_hook",
    "check_lifespan",
    "lifespan_context",
]

logger: logging.Logger = logger_of(__name__)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class _Periodic:
    seconds: float
    function: Callable[[], Any]
    one_worker: bool | None


class Hooks:
    """The hooks of one app, in the order in which they were added, and its error handlers by class."""

    def __init__(self) -> None:
        self.startup_hooks: list[Callable[..., Any]] = []
        self.shutdown_hooks: list[Callable[..., Any]] = []
        self.connect_hooks: list[Callable[..., Any]] = []
        self.disconnect_hooks: list[Callable[..., Any]] = []
        self.error_hooks: list[Callable[..., Any]] = []
        self.periodic_functions: list[_Periodic] = []
        self.error_handlers: dict[type[BaseException], Callable[[Any], Any]] = {}

    def add_periodic(self, seconds: float, one_worker: bool | None) -> Callable[[F], F]:
        """Decorate a periodic function; see `App.every`."""
        if callable(seconds):
            raise DeclarationError(f"write @app.every(60), with the seconds, above {_name(seconds)}")
        if not is_positive(seconds):
            raise DeclarationError(f"every: seconds must be above 0, not {seconds!r}")

        def register(function: F) -> F:
            _check_hook(function, 0, "every(...)")
            self.periodic_functions.append(_Periodic(seconds, function, one_worker))
            return function

        return register

    def add_error_handler(self, kind: type[BaseException]) -> Callable[[F], F]:
        """Decorate an error handler; see `App.error_handler`."""
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise DeclarationError(
                f"error_handler takes an exception class, not {kind!r}; write @app.error_handler(ValueError) above a "
                "function"
            )

        def register(function: F) -> F:
            _check_hook(function, 1, f"error_handler({kind.__name__})", "the exception")
            first = self.error_handlers.setdefault(kind, function)
            if first is not function:
                raise DeclarationError(
                    f"error_handler({kind.__name__}): {location(function)}, is the second for this class, after "
                    f"{location(first)}; remove one of them"
                )
            return function

        return register

    def remove_error_hook(self, hook: Callable[..., Any]) -> None:
        """Remove a hook that `on_error` added."""
        self.error_hooks.remove(hook)

    def periodic(self, one_worker: bool | None) -> list[str]:
        """The names of the periodic functions that were declared with this `one_worker`."""
        return [_name(each.function) for each in self.periodic_functions if each.one_worker is one_worker]


_ARGUMENTS = ("", "connection", "error, connection")


def add_hook(hooks: list[Callable[..., Any]], hook: F, count: int, name: str) -> F:
    """Append a hook to a list and return it; raises DeclarationError if it cannot be called with `count` arguments.

    `name` is the decorator that adds it, for errors.
    """
    _check_hook(hook, count, name, _ARGUMENTS[count])
    hooks.append(hook)
    return hook


def _check_hook(hook: Any, count: int, name: str, arguments: str = "") -> None:
    """Refuse a hook that cannot be called with `count` arguments; `name` and `arguments` describe it in errors."""
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


class HookRunner:
    """Runs the hooks of a started app."""

    def __init__(self, hooks: Hooks, threads: Threads) -> None:
        self._hooks = hooks
        self._threads = threads

    async def started(self) -> None:
        """Run the start-up hooks; an exception stops the start."""
        for hook in self._hooks.startup_hooks:
            await self._run(None, hook)

    async def stopped(self) -> None:
        """Run the shutdown hooks in reverse; one that fails is reported and the others run."""
        await self._run_all("on_shutdown", self._hooks.shutdown_hooks[::-1], None)

    @property
    def has_connect(self) -> bool:
        """Whether there are connect hooks."""
        return bool(self._hooks.connect_hooks)

    async def connected(self, connection: Connection) -> None:
        """Run the connect hooks; an exception refuses the client."""
        for hook in self._hooks.connect_hooks:
            await self._run(connection, hook, connection)

    async def disconnected(self, connection: Connection) -> None:
        """Run the disconnect hooks; one that fails is reported and the others run."""
        await self._run_all("on_disconnect", self._hooks.disconnect_hooks, connection, connection)

    async def failed(self, error: BaseException, connection: Connection | None = None) -> None:
        """Run the error hooks; one that fails itself is logged."""
        await self._run_all("on_error", self._hooks.error_hooks, connection, error, connection)

    def start_periodic(self, *, first: bool = True) -> list[BackgroundTask]:
        """Start a task for each `every`.

        Args:
            first: Whether this process runs the functions with `one_worker=True`.
        """

        def task(each: _Periodic) -> BackgroundTask:
            return BackgroundTask(f"every: {_name(each.function)}", lambda: self._repeat(each), self.failed)

        tasks = [task(each) for each in self._hooks.periodic_functions if first or not each.one_worker]
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

    async def _run_all(self, kind: str, hooks: list[Callable[..., Any]], owner: Connection | None, *args: Any) -> None:
        for hook in hooks:
            try:
                await self._run(owner, hook, *args)
            except BaseException as error:
                if must_propagate(error):
                    raise
                logger.exception("%s hook %s failed", kind, _name(hook))
                if kind != "on_error":
                    await self.failed(error, owner)

    async def _run(self, owner: Connection | None, hook: Callable[..., Any], *args: Any) -> None:
        if inspect.iscoroutinefunction(hook):
            await hook(*args)
        else:
            threads = self._threads
            result = await (threads.run(hook, *args) if owner is None else threads.run_for(owner, hook, *args))
            if isinstance(result, Awaitable):
                await result


# ---- lifespans

Lifespan = Callable[[Any], contextlib.AbstractAsyncContextManager[Any]]

_MAKE_CONTEXT = "decorate an async generator function with @contextlib.asynccontextmanager"


def check_lifespan(lifespan: Any) -> Any:
    """Check a lifespan as it was declared, or None. Raises DeclarationError."""
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
    except ValueError:  # its signature cannot be read; the start will show whether it can be called
        pass
    return lifespan


def lifespan_context(lifespan: Lifespan, app: Any) -> contextlib.AbstractAsyncContextManager[Any]:
    """Make a lifespan's context manager for an app. Raises DeclarationError if the lifespan returns something else."""
    manager = lifespan(app)
    if not isinstance(manager, contextlib.AbstractAsyncContextManager):
        raise DeclarationError(
            f"lifespan {location(lifespan)}: it gave {manager!r}, which is no async context manager; {_MAKE_CONTEXT}"
        )
    return manager


# ---- exceptions

ErrorHandlers = Mapping[type[BaseException], Callable[[Any], Any]]


class ErrorReporter:
    """Turns exceptions into answers by the app's error handlers, and reports unexpected ones.

    Args:
        handlers: The app's error handlers by exception class.
        on_error: Called for each unexpected exception.
        threads: Run the handlers that are `def` functions.
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

    async def as_answer(self, connection: ServerConnection, error: BaseException, what: str) -> BaseException:
        """Turn an exception into a `WampError` by the app's error handlers; report and return it if none handles it."""
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

    async def report(self, connection: ServerConnection, error: BaseException, what: str) -> None:
        """Log an exception and run the app's `on_error` hooks."""
        reason = str(error) if isinstance(error, NotJson) else ""
        why = "; ".join(filter(None, (reason, *getattr(error, "__notes__", ()))))
        kind = ("failed", type(error), _place_of(error), reason)
        text = f"{what} failed: {why}" if why else f"{what} failed"
        connection.log.add(kind, text, level=logging.ERROR, error=error)
        await self._on_error(error, connection)

    def _handler_for(self, kind: type[BaseException]) -> Callable[[Any], Any] | None:
        """The handler of the nearest base class of an exception."""
        for ancestor in kind.__mro__:
            handler = self._handlers.get(ancestor)
            if handler is not None:
                return handler
        return None


def _place_of(error: BaseException) -> int:
    """A hash of the lines that an exception passed, so that the same failure for another URI is logged as one kind."""
    return hash(tuple((frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)))
