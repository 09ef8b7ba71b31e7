"""A handler's signature compiled to a plan: what arrives over the wire, what is injected, and how each is converted.

All of it is decided when the app starts, so that a mistake shows before the first client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from ..concurrency.threads import Threads, is_async
from ..errors import DeclarationError, InvalidArgument
from .arguments import Arguments, problem_of
from .depends import Depends, Scope
from .signatures import check_convertible, is_method, location, parameters_of
from .transaction import Transaction

__all__ = ["Injectables", "Plan", "compile_handler", "fits"]

Injectables = Mapping[Any, Callable[[Scope], Any] | str]
"""What an annotation provides: a function of the scope, or the reason why it cannot be had here."""

Resolver = Callable[[Scope], Any]

_EMPTY = inspect.Parameter.empty

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_INJECTED_NAMES = {
    "conn": "Connection",
    "connection": "Connection",
    "topic": "Topic",
    "publish": "Publish",
    "session": "Session",
}
"""What parameters of these names are meant to be, if this can be had where they stand."""


class Plan:
    """How to call one handler.

    Attributes:
        name: What errors call it: the URI it is declared under, or the function's name.
        function: The handler itself.
        is_async: Whether it runs on the loop; otherwise it runs in a worker thread.
        wire: The parameters that a message fills.
        injected: Whether any parameter is provided rather than sent.
        transactional: Whether a generator is among its dependencies and theirs: see `transaction.py`.
        variables: What the variables of the URI are converted to, by name, where the handler says it.
    """

    __slots__ = (
        "_keywords",
        "_slots",
        "function",
        "injected",
        "is_async",
        "name",
        "transactional",
        "variables",
        "wire",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.is_async = is_async(function)
        self.wire = Arguments(name)
        # One slot a positional parameter, in order: None takes the next value from the wire.
        self._slots: list[Resolver | Dependency | None] = []
        self._keywords: list[tuple[str, Resolver | Dependency]] = []
        self.injected = False
        self.transactional = False
        self.variables: dict[str, Any] = {}

    @property
    def plain(self) -> bool:
        """Whether the handler is called with the wire's values and nothing else, on the loop."""
        return self.is_async and not self.injected

    @property
    def bind(self) -> Callable[[list[Any]], Sequence[Any]]:
        """Converts the wire's arguments to what the handler declares. Raises InvalidArgument if they do not fit."""
        return self.wire.bind

    async def arguments(self, values: Sequence[Any], scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments: the wire's values with what is injected between them."""
        position = 0
        positional: list[Any] = []
        for slot in self._slots:
            if slot is None:
                positional.append(values[position])
                position += 1
            else:
                positional.append(await _resolve(slot, scope))
        positional.extend(values[position:])
        keywords = {name: await _resolve(slot, scope) for name, slot in self._keywords}
        return positional, keywords

    async def run(self, values: Sequence[Any], scope: Scope) -> Any:
        """Call the handler with `bind`'s values; what must be injected comes from `scope`."""
        async with scope:
            try:
                positional, keywords = await self.arguments(values, scope)
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
        """The same; what is published meanwhile leaves when all dependencies have ended well, or not at all."""
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


# ---- injected parameters


class Dependency:
    """A dependency function compiled once: a `depends.Provider`."""

    __slots__ = ("key", "managed", "name", "plan")

    def __init__(self, plan: Plan, function: Callable[..., Any]) -> None:
        self.name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
        self.plan = plan
        self.key = function
        self.managed = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)

    async def provide(self, scope: Scope) -> Any:
        """The value, or for a generator the context manager around it."""
        positional, keywords = await self.plan.arguments([], scope)
        function = self.plan.function
        if inspect.isasyncgenfunction(function):
            return contextlib.asynccontextmanager(function)(*positional, **keywords)
        if inspect.isgeneratorfunction(function):
            return _InThread(contextlib.contextmanager(function)(*positional, **keywords), scope)
        if self.plan.is_async:
            return await function(*positional, **keywords)
        return await scope.threads.run_for(scope.connection, function, *positional, **keywords)


class _InThread(contextlib.AbstractAsyncContextManager[Any]):
    """A blocking context manager, entered and left in a worker thread."""

    def __init__(self, manager: contextlib.AbstractContextManager[Any], scope: Scope) -> None:
        self._manager = manager
        self._threads = scope.threads
        self._connection = scope.connection
        self._lock = threading.Lock()
        self._entered = self._given_up = False

    async def __aenter__(self) -> Any:
        try:
            return await self._threads.run_for(self._connection, self._enter)
        except asyncio.CancelledError as error:
            with self._lock:
                self._given_up, entered = True, self._entered
            if entered:  # and the news were on their way
                await self.__aexit__(type(error), error, None)
            raise

    def _enter(self) -> Any:
        value = self._manager.__enter__()
        with self._lock:
            self._entered, given_up = True, self._given_up
        if given_up:
            # Nothing waits for it any more, so this thread must clean up.
            with contextlib.suppress(asyncio.CancelledError):
                self._manager.__exit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        return value

    async def __aexit__(self, *error: Any) -> None:
        await self._threads.clean_up_for(self._connection, self._manager.__exit__, *error)


async def _resolve(slot: Resolver | Dependency, scope: Scope) -> Any:
    return await scope.get(slot) if isinstance(slot, Dependency) else slot(scope)


# ---- compiling


def compile_handler(
    name: str,
    function: Callable[..., Any],
    injectables: Injectables,
    *,
    variables: Sequence[str] = (),
    all_variables: bool = False,
    most: int | None = None,
) -> Plan:
    """Read a handler's signature once.

    Args:
        name: What errors call the handler.
        function: The handler.
        injectables: What each annotation provides here, or why it cannot.
        variables: The URI pattern's variables, which arrive under their names.
        all_variables: Whether each variable needs its parameter.
        most: How many parameters a message can fill; None for any number.

    Raises:
        DeclarationError: The signature cannot work; names the handler, the parameter and the fix.
    """
    parameters = parameters_of(function, f"{name} ({location(function)})")
    for variable in variables:
        if all_variables and variable not in parameters:
            raise DeclarationError(
                f"{name} ({location(function)}): the URI's {{{variable}}} needs a parameter {variable!r}; add it"
            )
    return _Compiler(name, function, injectables, most).compile(function, variables)


class _Compiler:
    def __init__(self, name: str, handler: Callable[..., Any], injectables: Injectables, most: int | None) -> None:
        self._name = name
        self._handler = handler
        self._injectables = injectables
        self._most = most
        self._under_way: list[Callable[..., Any]] = []

    def compile(self, function: Callable[..., Any], variables: Sequence[str]) -> Plan:
        plan = Plan(self._name, function)
        # Outermost the handler, then the dependencies that led here.
        where = " needs ".join([f"{self._name} ({location(self._handler)})", *map(location, self._under_way)])
        rest: Any = None
        for parameter, annotation in parameters_of(function, where).values():
            rest = self._add(plan, parameter, annotation, variables, where) or rest
        self._check_count(plan, where)
        try:
            plan.wire.seal(rest)
        except TypeError as error:
            raise DeclarationError(f"{where}: {error}") from None
        return plan

    def _add(
        self, plan: Plan, parameter: inspect.Parameter, annotation: Any, variables: Sequence[str], where: str
    ) -> Any:
        name = parameter.name
        label = f"{where}: parameter {name!r}"
        _refuse_misplaced_depends(parameter, annotation, label)
        slot = self._injected(annotation, label) or self._variable(plan, parameter, annotation, variables, label)
        if slot is None:
            self._refuse_unannotated(parameter, annotation, label)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise DeclarationError(f"{label}: WAMP arguments have no names; take one parameter of type dict instead")
        if slot is not None:
            plan.injected = True
            if isinstance(slot, Dependency):
                plan.transactional |= slot.managed or slot.plan.transactional
            if parameter.kind in _POSITIONAL:
                plan._slots.append(slot)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                plan._keywords.append((name, slot))
            else:
                raise DeclarationError(f"{label}: *{name} cannot be injected; drop the star")
            return None
        if self._under_way:
            if parameter.default is not _EMPTY or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return None
            raise DeclarationError(
                f"{label}: a dependency is given no arguments; annotate it as something injected, or give it a default"
            )
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is _EMPTY:
                raise DeclarationError(f"{label}: WAMP arguments are positional; drop the * before it")
            return None
        annotation = Any if annotation is _EMPTY else annotation
        check_convertible(annotation, label)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            plan.wire.variadic = name
            return annotation
        plan.wire.add(name, annotation, parameter.default)
        plan._slots.append(None)
        return None

    def _injected(self, annotation: Any, label: str) -> Resolver | Dependency | None:
        if typing.get_origin(annotation) is Annotated:
            for extra in annotation.__metadata__:
                if isinstance(extra, Depends):
                    return self._dependency(extra.function, label)
                if extra is Depends:
                    raise DeclarationError(f"{label}: write Depends(function), not Depends alone")
            annotation = annotation.__origin__
        try:
            provided = self._injectables.get(annotation)
        except TypeError:  # an unhashable annotation is nothing that is injected
            return None
        if isinstance(provided, str):
            raise DeclarationError(f"{label}: {provided}")
        return provided

    def _dependency(self, function: Callable[..., Any], label: str) -> Dependency:
        if is_method(function):
            raise DeclarationError(
                f"{label}: Depends({function.__qualname__}) is a method without its object; write "
                f"Depends(service.{function.__name__})"
            )
        if function in self._under_way:
            raise DeclarationError(f"{label}: {location(function)} depends on itself")
        self._under_way.append(function)
        try:
            return Dependency(self.compile(function, ()), function)
        finally:
            self._under_way.pop()

    def _refuse_unannotated(self, parameter: inspect.Parameter, annotation: Any, label: str) -> None:
        """Refuse a parameter that is called as what is injected here and would be taken from the wire."""
        wanted = _INJECTED_NAMES.get(parameter.name)
        if wanted is None or annotation is not _EMPTY:
            return
        if any(callable(provided) and kind.__name__ == wanted for kind, provided in self._injectables.items()):
            raise DeclarationError(
                f"{label} has no annotation, so that clients would have to send it; write {parameter.name}: {wanted}, "
                f"or {parameter.name}: Any if they do send it"
            )

    def _variable(
        self, plan: Plan, parameter: inspect.Parameter, annotation: Any, variables: Sequence[str], label: str
    ) -> Resolver | None:
        name = parameter.name
        if name not in variables:
            return None
        if annotation in (_EMPTY, Any, str):
            return lambda scope: scope.variables[name]
        check_convertible(annotation, label)
        plan.variables[name] = annotation
        return functools.partial(_convert_variable, self._name, name, annotation)

    def _check_count(self, plan: Plan, where: str) -> None:
        wire = plan.wire
        if self._most is None or self._under_way:
            return
        names = [*wire.names, *([wire.variadic] if wire.variadic else [])]
        if len(names) > self._most:
            extra = names[self._most]
            raise DeclarationError(
                f"{where}: parameter {extra!r} is nothing that this handler can be given; annotate it as something "
                f"injected (Connection, Topic, Depends), name it after a variable of the URI, or remove it"
            )


def _refuse_misplaced_depends(parameter: inspect.Parameter, annotation: Any, label: str) -> None:
    """Refuse a dependency as a default, as FastAPI takes it, and in the place of the type."""
    for given in (parameter.default, annotation):
        if isinstance(given, Depends):
            raise DeclarationError(
                f"{label}: {given!r} belongs to the annotation; write {parameter.name}: Annotated[Any, {given!r}], "
                "with the type of what it gives in place of Any"
            )


def _convert_variable(owner: str, name: str, annotation: Any, scope: Scope) -> Any:
    text = scope.variables[name]
    try:
        return msgspec.convert(text, annotation, strict=False)
    except msgspec.ValidationError as error:
        problem = problem_of(error)
        raise InvalidArgument(f"{owner}: {{{name}}} in the URI: {problem}") from None


def fits(plans: Iterable[Plan]) -> Callable[[Mapping[str, str]], bool] | None:
    """Whether the values of a URI's variables are such as handlers take; None if they take any.

    A URI whose variable is of another form names nothing: `book/abc` is no procedure where `{number}` is an int.
    """
    wanted = [(name, annotation) for plan in plans for name, annotation in plan.variables.items()]
    if not wanted:
        return None

    def check(values: Mapping[str, str]) -> bool:
        try:
            for name, annotation in wanted:
                msgspec.convert(values[name], annotation, strict=False)
        except msgspec.ValidationError:
            return False
        return True

    return check
