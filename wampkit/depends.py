"""Dependencies: what a handler is given rather than sent, made once a message and cleaned up after it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from .fatal import is_fatal
from .logs import logger
from .threads import Threads

__all__ = ["Depends", "Provider", "Scope"]


class Depends:
    """Marks a parameter that a function provides: `db: Annotated[Database, Depends(open_database)]`.

    The function may be `async def` or `def` (which runs in a worker thread), may take injected parameters and
    dependencies of its own, and may be a generator, whose code behind `yield` runs after the message. It runs
    once a message, however many parameters ask for it.

    Args:
        function: What provides the value.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"Depends takes a function, not {function!r}")
        self.function = function

    def __repr__(self) -> str:
        return f"Depends({getattr(self.function, '__name__', self.function)})"


class Provider(Protocol):
    """A dependency as compiled at start: see `binding.py`."""

    @property
    def key(self) -> Any:
        """What the value is kept under for the rest of the message."""

    async def provide(self, scope: Scope) -> Any:
        """The value, or a context manager around it where `managed` is set."""

    @property
    def managed(self) -> bool:
        """Whether `provide` returns an async context manager."""


class Scope:
    """What one message can be given, and what must be cleaned up after it.

    Args:
        connection: The connection that the message came on.
        message: The message, as middlewares see it.
        topic: The topic it speaks of, for everything but calls.
        variables: The values of the URI pattern's variables.
        threads: Where blocking dependencies run.

    Attributes:
        values: What has been made for the message, by its provider's key.
        endings: What `at_end` added.
    """

    __slots__ = ("_entered", "connection", "endings", "message", "threads", "topic", "values", "variables")

    def __init__(
        self, connection: Any, message: Any, topic: Any, variables: Mapping[str, str], threads: Threads
    ) -> None:
        self.connection = connection
        self.message = message
        self.topic = topic
        self.variables = variables
        self.threads = threads
        self.values: dict[Any, Any] = {}
        self.endings: tuple[Callable[[BaseException | None], Awaitable[None]], ...] = ()
        self._entered: list[contextlib.AbstractAsyncContextManager[Any]] = []

    async def get(self, provider: Provider) -> Any:
        """The dependency's value, made on the first request and kept for the message."""
        if provider.key in self.values:
            return self.values[provider.key]
        value = await provider.provide(self)
        if provider.managed:
            manager: contextlib.AbstractAsyncContextManager[Any] = value
            value = await manager.__aenter__()
            self._entered.append(manager)
        self.values[provider.key] = value
        return value

    def at_end(self, ending: Callable[[BaseException | None], Awaitable[None]]) -> None:
        """Run `ending(error)` when the handler has ended, before its answer and before what is entered is left.

        Unlike a cleanup it may fail: what it raises is what the message ends with.
        """
        self.endings = (*self.endings, ending)

    async def end(self, error: BaseException | None) -> None:
        """The handler has returned, or raised `error`."""
        for ending in self.endings:
            await ending(error)

    async def __aenter__(self) -> Scope:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clean up in reverse. Each cleanup sees the handler's error; one that fails is logged, the others run."""
        fatal: BaseException | None = None
        while self._entered:
            manager = self._entered.pop()
            try:
                await manager.__aexit__(kind, error, traceback)
            except BaseException as failure:
                if is_fatal(failure) and failure is not error:
                    fatal = failure
                elif failure is not error:
                    logger.error("a dependency failed to clean up", exc_info=sys.exc_info())
        if fatal is not None:
            raise fatal
