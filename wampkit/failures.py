"""What becomes of an exception: the app's own handlers are asked, and whatever nobody expected is reported."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .connection import Connection
from .errors import WampError
from .fatal import is_fatal
from .messages import NotJson
from .threads import Threads

__all__ = ["ErrorHandlers", "Failures"]

ErrorHandlers = Mapping[type[BaseException], Callable[[Any], Any]]


class Failures:
    """Explains exceptions by the app's error handlers.

    Args:
        handlers: What makes a `WampError` of an exception, by its class.
        on_error: Told of every exception that nobody expected.
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

    async def explained(self, connection: Connection, error: BaseException, what: str) -> BaseException:
        """What the app makes of an error: its own handlers first; whatever is unexpected is reported."""
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
                if is_fatal(failure):
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
        connection.complaints.add(kind, text, level=logging.ERROR, error=error)
        await self._on_error(error, connection)

    def _handler_for(self, kind: type[BaseException]) -> Callable[[Any], Any] | None:
        """The handler of the nearest class in the exception's ancestry."""
        for ancestor in kind.__mro__:
            handler = self._handlers.get(ancestor)
            if handler is not None:
                return handler
        return None


def _place_of(error: BaseException) -> int:
    """What the places have in common from which an exception came the same way, be it for another URI."""
    return hash(tuple((frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)))
