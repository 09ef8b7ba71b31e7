"""The plan of a handler's call, which `binding.py` compiles from its signature, and the dependencies in it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..concurrency.threads import Threads, is_async
from .arguments import Arguments
from .depends import Scope
from .transaction import Transaction

__all__ = ["Dependency", "Plan", "Resolver"]

Resolver = Callable[[Scope], Any]
"""Gives the value of an injected parameter."""


class Plan:
    """A handler and where each of its parameters comes from.

    Attributes:
        name: Its name in errors: the URI that it is declared under, or the function's name.
        function: The handler itself.
        is_async: Whether it runs on the loop; otherwise it runs in a worker thread.
        wire: The parameters that a message fills.
        slots: One entry a positional parameter, in order: what injects it, or None for the next value of the message.
        keywords: The injected keyword parameters by name.
        injected: Whether any parameter is injected.
        transactional: Whether a generator is among its dependencies and theirs: see `transaction.py`.
        variables: The types of the URI's variables by name, where the handler declares them.
    """

    __slots__ = (
        "function",
        "injected",
        "is_async",
        "keywords",
        "name",
        "slots",
        "transactional",
        "variables",
        "wire",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name: str = name
        self.function: Callable[..., Any] = function
        self.is_async: bool = is_async(function)
        self.wire: Arguments = Arguments(name)
        self.slots: list[Resolver | Dependency | None] = []
        self.keywords: dict[str, Resolver | Dependency] = {}
        self.injected: bool = False
        self.transactional: bool = False
        self.variables: dict[str, Any] = {}

    @property
    def plain(self) -> bool:
        """Whether the handler runs on the loop and takes the message's values alone."""
        return self.is_async and not self.injected

    async def resolve(self, values: Sequence[Any], scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments: the message's values with what is injected between them."""
        position = 0
        positional: list[Any] = []
        for slot in self.slots:
            if slot is None:
                positional.append(values[position])
                position += 1
            else:
                positional.append(await _resolve(slot, scope))
        positional.extend(values[position:])
        keywords = {name: await _resolve(slot, scope) for name, slot in self.keywords.items()}
        return positional, keywords

    async def run(self, values: Sequence[Any], scope: Scope) -> Any:
        """Call the handler with the message's values and what `scope` injects; end its dependencies."""
        async with scope:
            try:
                positional, keywords = await self.resolve(values, scope)
                scope.complete = True
                result = await self.call(scope.threads, scope.connection, positional, keywords)
            except BaseException as error:
                if scope.endings:
                    await scope.end(error)
                raise
            if scope.endings:
                await scope.end(None)
            return result

    async def run_in_transaction(self, values: Sequence[Any], scope: Scope) -> Any:
        """Do the same, publishing its events when all dependencies have ended without an error, or not at all."""
        transaction = Transaction()
        with transaction.entered():
            try:
                result = await self.run(values, scope)
            except BaseException as error:
                in_thread = not self.is_async or not scope.complete
                transaction.roll_back(given_up=in_thread and isinstance(error, asyncio.CancelledError))
                raise
            await transaction.commit()
            return result

    async def call(self, threads: Threads, connection: Any, positional: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Call the handler with exactly these arguments, for a connection."""
        if self.is_async:
            return await self.function(*positional, **keywords)
        result = await threads.run_for(connection, self.function, *positional, **keywords)
        # A plain function that wraps an async one, as many decorators make them.
        return await result if inspect.iscoroutine(result) else result


class Dependency:
    """A dependency function and how to call it.

    Attributes:
        key: The function; a message has one value of it.
        name: Its name in the log.
        plan: How to call it.
        managed: Whether it is a generator, so that `provide` gives a context manager around its value.
    """

    __slots__ = ("key", "managed", "name", "plan")

    def __init__(self, plan: Plan, function: Callable[..., Any]) -> None:
        self.name: str = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
        self.plan: Plan = plan
        self.key: Callable[..., Any] = function
        self.managed: bool = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)

    async def provide(self, scope: Scope) -> Any:
        """The value, or the async context manager around it where `managed` is set."""
        positional, keywords = await self.plan.resolve([], scope)
        function = self.plan.function
        if inspect.isasyncgenfunction(function):
            return contextlib.asynccontextmanager(function)(*positional, **keywords)
        if inspect.isgeneratorfunction(function):
            return _InThread(contextlib.contextmanager(function)(*positional, **keywords), scope)
        if self.plan.is_async:
            return await function(*positional, **keywords)
        return await scope.threads.run_for(scope.connection, function, *positional, **keywords)


async def _resolve(slot: Resolver | Dependency, scope: Scope) -> Any:
    return await scope.get(slot) if isinstance(slot, Dependency) else slot(scope)


class _InThread(contextlib.AbstractAsyncContextManager[Any]):
    """A blocking context manager, entered and left in a worker thread."""

    def __init__(self, manager: contextlib.AbstractContextManager[Any], scope: Scope) -> None:
        self._manager = manager
        self._threads = scope.threads
        self._connection = scope.connection
        self._lock = threading.Lock()
        self._entered = self._cancelled = False

    async def __aenter__(self) -> Any:
        try:
            return await self._threads.run_for(self._connection, self._enter)
        except asyncio.CancelledError as error:
            with self._lock:
                self._cancelled, entered = True, self._entered
            if entered:  # the thread had finished before the cancellation
                await self.__aexit__(type(error), error, None)
            raise

    def _enter(self) -> Any:
        value = self._manager.__enter__()
        with self._lock:
            self._entered, cancelled = True, self._cancelled
        if cancelled:
            # Nothing waits for it any more, so this thread must clean up.
            with contextlib.suppress(asyncio.CancelledError):
                self._manager.__exit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        return value

    async def __aexit__(self, *error: Any) -> None:
        await self._threads.clean_up_for(self._connection, self._manager.__exit__, *error)
