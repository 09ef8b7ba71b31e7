"""Dependency injection: `Depends`, and the scope of one message, which makes dependencies once and ends them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import Threads
from ..errors import WampError, quote

if TYPE_CHECKING:
    from .plan import Dependency

__all__ = ["Depends", "Scope"]


class Depends:
    """Marks a parameter that a function provides: `db: Annotated[Database, Depends(open_database)]`.

    The function may be `async def` or `def` (which runs in a worker thread), may take injected parameters and
    dependencies of its own, and may be a generator: the code after its `yield` runs when the handler has ended and
    before the answer is sent, so that an exception there, such as a commit that fails, is the answer. Events that are
    published meanwhile are sent when all generators have ended without an error, and dropped otherwise;
    `publish(..., now=True)` does not wait. The function runs once a message, however many parameters need its value.

    Args:
        function: Provides the value.

    Raises:
        TypeError: It cannot be called.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"Depends takes a function, not {function!r}")
        self.function: Callable[..., Any] = function

    def __repr__(self) -> str:
        return f"Depends({getattr(self.function, '__name__', self.function)})"


class Scope:
    """The sources that one message's parameters are injected from, and the dependencies that must end with it.

    Args:
        connection: The connection that sent the message.
        message: The message, as middlewares see it.
        topic: The topic of its URI; unused for a call.
        variables: The values of the URI's variables.
        threads: Runs blocking dependencies.

    Attributes:
        values: The values of the dependencies so far, by `Dependency.key`.
        complete: Whether all parameters have their values, so that the handler has begun.
        endings: The functions that `at_end` added.
    """

    __slots__ = ("_entered", "complete", "connection", "endings", "message", "threads", "topic", "values", "variables")

    def __init__(
        self, connection: Any, message: Any, topic: Any, variables: Mapping[str, str], threads: Threads
    ) -> None:
        self.connection: Any = connection
        self.message: Any = message
        self.topic: Any = topic
        self.variables: Mapping[str, str] = variables
        self.threads: Threads = threads
        self.values: dict[Any, Any] = {}
        self.complete: bool = False
        self.endings: tuple[Callable[[BaseException | None], Awaitable[None]], ...] = ()
        self._entered: list[tuple[str, contextlib.AbstractAsyncContextManager[Any]]] = []

    async def get(self, dependency: Dependency) -> Any:
        """The value of a dependency, made at the first request."""
        if dependency.key in self.values:
            return self.values[dependency.key]
        value = await dependency.provide(self)
        if dependency.managed:
            manager: contextlib.AbstractAsyncContextManager[Any] = value
            value = await manager.__aenter__()
            self._entered.append((dependency.name, manager))
        self.values[dependency.key] = value
        return value

    def at_end(self, ending: Callable[[BaseException | None], Awaitable[None]]) -> None:
        """Run `ending(error)` when the handler has ended, before its dependencies end and its answer is sent.

        An exception that it raises replaces the handler's outcome.
        """
        self.endings = (*self.endings, ending)

    async def end(self, error: BaseException | None) -> None:
        """Run the functions that `at_end` added; `error` is what the handler raised, or None."""
        for ending in self.endings:
            await ending(error)

    async def __aenter__(self) -> None:
        """Enter nothing yet: each dependency is entered at its first request."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the dependencies in reverse order, all of them even if one fails.

        Each is given the message's exception so far: the handler's, or else the first of a dependency. A `WampError`
        of a dependency replaces any other exception.
        """
        outcome = error
        while self._entered:
            name, manager = self._entered.pop()
            try:
                await manager.__aexit__(*_exc_info(outcome))
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
                    self._log(name, failure)
        if outcome is not error:
            assert outcome is not None
            try:
                raise outcome
            finally:
                del outcome, error  # its traceback refers back to it

    def _log(self, name: str, failure: BaseException) -> None:
        """Log the exception of a dependency of a message that had failed before."""
        what = f"{type(self.message).__name__.upper()} {quote(self.message.uri)}"
        kind = ("cleanup", self.message.name, name, type(failure))
        text = f"{what} failed, and then its dependency {name} failed at its end"
        self.connection.log.add(kind, text, level=logging.ERROR, error=failure)


def _exc_info(error: BaseException | None) -> tuple[type[BaseException] | None, BaseException | None, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _note(error: BaseException, note: str) -> None:
    """Add a note to an exception, once."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
