"""Dependencies: what a handler is given rather than sent, made once a message and cleaned up after it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import Threads
from ..errors import WampError, quote

__all__ = ["Depends", "Provider", "Scope"]


class Depends:
    """Marks a parameter that a function provides: `db: Annotated[Database, Depends(open_database)]`.

    The function may be `async def` or `def` (which runs in a worker thread), may take injected parameters and
    dependencies of its own, and may be a generator, whose code behind `yield` runs when the handler has ended and
    before its answer is sent: what it raises there, such as a commit that fails, is the answer. Events that are
    published meanwhile leave when all generators have ended well, and are dropped otherwise; `publish(..., now=True)`
    does not wait. A dependency runs once a message, however many parameters ask for it.

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
    def name(self) -> str:
        """What the log calls it."""

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
        complete: Whether all of it has been made, so that the handler has begun.
        endings: What `at_end` added.
    """

    __slots__ = ("_entered", "complete", "connection", "endings", "message", "threads", "topic", "values", "variables")

    def __init__(
        self, connection: Any, message: Any, topic: Any, variables: Mapping[str, str], threads: Threads
    ) -> None:
        self.connection = connection
        self.message = message
        self.topic = topic
        self.variables = variables
        self.threads = threads
        self.values: dict[Any, Any] = {}
        self.complete = False
        self.endings: tuple[Callable[[BaseException | None], Awaitable[None]], ...] = ()
        self._entered: list[tuple[str, contextlib.AbstractAsyncContextManager[Any]]] = []

    async def get(self, provider: Provider) -> Any:
        """The dependency's value, made on the first request and kept for the message."""
        if provider.key in self.values:
            return self.values[provider.key]
        value = await provider.provide(self)
        if provider.managed:
            manager: contextlib.AbstractAsyncContextManager[Any] = value
            value = await manager.__aenter__()
            self._entered.append((provider.name, manager))
        self.values[provider.key] = value
        return value

    def at_end(self, ending: Callable[[BaseException | None], Awaitable[None]]) -> None:
        """Run `ending(error)` when the handler has ended, before its answer and before what is entered is left.

        What it raises is what the message ends with.
        """
        self.endings = (*self.endings, ending)

    async def end(self, error: BaseException | None) -> None:
        """The handler has returned, or raised `error`."""
        for ending in self.endings:
            await ending(error)

    async def __aenter__(self) -> None:
        """Nothing is entered yet: each dependency is when it is first asked for."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clean up in reverse: all dependencies end, even if one of them fails.

        Each sees what the message ends with so far. That is what the handler raised; where it raised nothing, what a
        dependency raised at its end; and a `WampError` of a dependency in place of any other exception.
        """
        outcome = error
        while self._entered:
            name, manager = self._entered.pop()
            try:
                await manager.__aexit__(*_details(outcome))
            except BaseException as failure:
                if failure is outcome:
                    continue
                if (
                    outcome is None
                    or must_propagate(failure)
                    or (isinstance(failure, WampError) and not must_propagate(outcome))
                ):
                    _note(failure, f"its dependency {name} failed at its end")
                    outcome = failure
                else:
                    self._complain(name, failure)
        if outcome is not error:
            assert outcome is not None
            try:
                raise outcome
            finally:
                del outcome, error  # its traceback refers back to it

    def _complain(self, name: str, failure: BaseException) -> None:
        """Log what a dependency raised when the message had failed already."""
        what = f"{type(self.message).__name__.upper()} {quote(self.message.uri)}"
        kind = ("cleanup", self.message.name, name, type(failure))
        text = f"{what} failed, and then its dependency {name} failed at its end"
        self.connection.log.add(kind, text, level=logging.ERROR, error=failure)


def _details(error: BaseException | None) -> tuple[type[BaseException] | None, BaseException | None, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _note(error: BaseException, note: str) -> None:
    """Say where an exception came from, once."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
