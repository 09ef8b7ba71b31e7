"""A handler's signature compiled to a plan: what arrives over the wire, what is injected, and how each is converted.

All of it is decided when the app starts. The wire's arguments become one msgspec struct whose fields are the
handler's annotations, so that binding, converting and validating is a single call into C; only when something
does not fit is time spent on saying what.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from .depends import Depends, Scope
from .errors import DeclarationError, InvalidArgument, quote
from .threads import Threads

__all__ = ["Injectables", "Plan", "compile_handler"]

Injectables = Mapping[Any, Callable[[Scope], Any] | str]
"""What an annotation provides: a function of the scope, or the reason why it cannot be had here."""

Resolver = Callable[[Scope], Any]

_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Wire:
    """The parameters that a message fills, as one struct type a number of arguments."""

    __slots__ = ("_named", "_rest", "_struct", "annotations", "defaults", "names", "required", "variadic")

    def __init__(self, owner: str) -> None:
        self.names: list[str] = []
        self.annotations: list[Any] = []
        self.defaults: list[Any] = []
        self.required = 0
        self.variadic: str | None = None
        self._struct: type[msgspec.Struct] | None = None
        self._named: type[msgspec.Struct] | None = None
        self._rest: type[msgspec.Struct] | None = None

    def add(self, name: str, annotation: Any, default: Any) -> None:
        self.names.append(name)
        self.annotations.append(annotation)
        self.defaults.append(default)
        if default is _EMPTY:
            self.required = len(self.names)

    def seal(self, rest: Any = None) -> None:
        """Build the struct types; `rest` is the annotation of `*args`."""
        fields = [(f"p{index}", annotation, None) for index, annotation in enumerate(self.annotations)]
        if fields:
            self._struct = msgspec.defstruct("Arguments", fields, array_like=True)
            named = [
                (field, annotation, msgspec.field(default=None, name=name))
                for (field, annotation, _), name in zip(fields, self.names, strict=True)
            ]
            self._named = msgspec.defstruct("NamedArguments", named)
        if self.variadic is not None and rest is not Any:
            self._rest = msgspec.defstruct("Rest", [("p0", list[rest])], array_like=True)

    def fits(self, count: int) -> bool:
        return self.required <= count and (self.variadic is not None or count <= len(self.names))

    def convert(self, args: list[Any]) -> list[Any]:
        """The handler's values. Raises msgspec.ValidationError; the count must fit."""
        named = len(self.names)
        values: list[Any] = []
        if self._struct is not None:
            head = args[:named] if len(args) > named else args
            values.extend(msgspec.structs.astuple(msgspec.convert(head, self._struct)))
            if len(head) < named:
                values[len(head) :] = self.defaults[len(head) :]
        if len(args) > named:
            rest = args[named:]
            values.extend(rest if self._rest is None else msgspec.convert([rest], self._rest).p0)  # type: ignore[attr-defined]  # defstruct's fields are not known to mypy
        return values

    def convert_named(self, named: dict[str, Any]) -> list[Any]:
        """The same from one object whose keys are parameter names."""
        assert self._named is not None
        values = msgspec.structs.astuple(msgspec.convert(named, self._named))
        return [
            value if name in named else default
            for name, value, default in zip(self.names, values, self.defaults, strict=True)
        ]


class Plan:
    """How to call one handler.

    Attributes:
        name: What errors call it: the URI it is declared under, or the function's name.
        function: The handler itself.
        is_async: Whether it runs on the loop; otherwise it runs in a worker thread.
        injected: Whether any parameter is provided rather than sent.
    """

    __slots__ = ("_keywords", "_slots", "_wire", "function", "injected", "is_async", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.is_async = _is_async(function)
        self._wire = _Wire(name)
        # One slot a positional parameter, in order: None takes the next value from the wire.
        self._slots: list[Resolver | Dependency | None] = []
        self._keywords: list[tuple[str, Resolver | Dependency]] = []
        self.injected = False

    @property
    def wire_names(self) -> Sequence[str]:
        """The names of the parameters that a message fills."""
        return self._wire.names

    def bind(self, args: list[Any]) -> list[Any]:
        """The wire's arguments converted to what the handler declares.

        Raises:
            InvalidArgument: They do not fit; says which, and what was expected.
        """
        wire = self._wire
        if not wire.fits(len(args)):
            if self._may_spread(args):
                return self._bind_spread(args[0])
            raise InvalidArgument(self._explain_count(len(args)))
        try:
            return wire.convert(args)
        except msgspec.ValidationError as error:
            if self._may_spread(args) and self._names_parameters(args[0]):
                return self._bind_spread(args[0])
            raise InvalidArgument(self._explain(error, args)) from None

    def _may_spread(self, args: list[Any]) -> bool:
        """Whether one array or object may stand for several named parameters, as Ratchet-family clients send them."""
        wire = self._wire
        return len(args) == 1 and len(wire.names) >= 2 and wire.variadic is None and type(args[0]) in (list, dict)

    def _names_parameters(self, only: Any) -> bool:
        wire = self._wire
        if type(only) is list:
            return wire.fits(len(only))
        return bool(only) and set(wire.names[: wire.required]) <= only.keys() <= set(wire.names)

    def _bind_spread(self, only: Any) -> list[Any]:
        wire = self._wire
        try:
            if type(only) is list:
                if not wire.fits(len(only)):
                    raise InvalidArgument(self._explain_count(len(only)))
                return wire.convert(only)
            self._check_names(only)
            return wire.convert_named(only)
        except msgspec.ValidationError as error:
            raise InvalidArgument(self._explain(error, only)) from None

    def _check_names(self, named: dict[str, Any]) -> None:
        wire = self._wire
        for index, name in enumerate(wire.names[: wire.required]):
            if name not in named:
                raise InvalidArgument(f'{self.name}: argument {index + 1} "{name}" is missing')
        for name in named:
            if name not in wire.names:
                raise InvalidArgument(f"{self.name}: there is no argument {quote(name)}")

    async def arguments(self, values: list[Any], scope: Scope) -> tuple[list[Any], dict[str, Any]]:
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

    async def run(self, values: list[Any], scope: Scope) -> Any:
        """Call the handler with `bind`'s values; what must be injected comes from `scope`."""
        async with scope:
            positional, keywords = await self.arguments(values, scope)
            return await self.call(scope.threads, positional, keywords)

    async def call(self, threads: Threads, positional: list[Any], keywords: dict[str, Any]) -> Any:
        """Call the handler with exactly these arguments."""
        if self.is_async:
            return await self.function(*positional, **keywords)
        result = await threads.run(self.function, *positional, **keywords)
        # A plain function that wraps an async one, as many decorators make them.
        return await result if inspect.iscoroutine(result) else result

    # ---- what did not fit

    def _explain_count(self, count: int) -> str:
        wire = self._wire
        if count < wire.required:
            missing = wire.names[count]
            return f'{self.name}: argument {count + 1} "{missing}" is missing'
        return f"{self.name}: takes at most {len(wire.names)} arguments, {count} were given"

    def _explain(self, error: msgspec.ValidationError, args: list[Any] | dict[str, Any]) -> str:
        text, key, rest = _read_path(str(error))
        names = self._wire.names
        if isinstance(args, dict):
            index = names.index(key) if key in names else 0
            given = args.get(key, msgspec.UNSET)
        else:
            index = int(key or 0)
            if self._wire.variadic is not None and index == 0 and _fits_all(self._wire, args):
                # The rest was converted as one list, so the path begins inside it.
                inner = re.match(r"\[(\d+)\](.*)", rest)
                index, rest = (len(names) + int(inner[1]), inner[2]) if inner else (index, rest)
            given = args[index] if index < len(args) else msgspec.UNSET
        name = names[index] if index < len(names) else self._wire.variadic
        got = _shown(_at(given, rest))
        if got is not None and ", got " in text:
            text = f"{text.split(', got ')[0]}, got {got}"
        return f'{self.name}: argument {index + 1} "{name}"{rest}: {text}'


def _fits_all(wire: _Wire, args: list[Any]) -> bool:
    try:
        wire.convert(args[: len(wire.names)])
    except msgspec.ValidationError:
        return False
    return True


_PATH = re.compile(r" - at (?:`key` in )?`\$(?:\[(\d+)\]|\.([^.\[`]+))?([^`]*)`$")


def _read_path(message: str) -> tuple[str, str, str]:
    """msgspec's message without its path, the path's first step and what follows it."""
    found = _PATH.search(message)
    text = message[: found.start()] if found else message
    text = text.replace("`", "")
    text = text[:1].lower() + text[1:]
    return (text, found[1] or found[2] or "", found[3]) if found else (text, "", "")


def _at(value: Any, path: str) -> Any:
    for key in re.findall(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)", path):
        try:
            value = value[int(key[0])] if key[0] else value[key[1]]
        except (LookupError, TypeError, ValueError):
            return msgspec.UNSET
    return value


_CONTAINERS: dict[type, str] = {list: "array", dict: "object"}


def _shown(value: Any) -> str | None:
    if value is msgspec.UNSET:
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else _CONTAINERS.get(type(value), text[:40] + "…")


# ---- injected parameters


class Dependency:
    """A dependency function compiled once: a `depends.Provider`."""

    __slots__ = ("key", "managed", "plan")

    def __init__(self, plan: Plan, function: Callable[..., Any]) -> None:
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
        return await scope.threads.run(function, *positional, **keywords)


class _InThread(contextlib.AbstractAsyncContextManager[Any]):
    """A blocking context manager, entered and left in a worker thread."""

    def __init__(self, manager: contextlib.AbstractContextManager[Any], scope: Scope) -> None:
        self._manager = manager
        self._threads = scope.threads

    async def __aenter__(self) -> Any:
        return await self._threads.run(self._manager.__enter__)

    async def __aexit__(self, *error: Any) -> None:
        await self._threads.run(self._manager.__exit__, *error)


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
    parameters = _parameters(function, f"{name} ({_location(function)})")
    for variable in variables:
        if all_variables and variable not in parameters:
            raise DeclarationError(
                f"{name} ({_location(function)}): the URI's {{{variable}}} needs a parameter {variable!r}; add it"
            )
    return _Compiler(name, injectables, most).compile(function, variables)


class _Compiler:
    def __init__(self, name: str, injectables: Injectables, most: int | None) -> None:
        self._name = name
        self._injectables = injectables
        self._most = most
        self._under_way: list[Callable[..., Any]] = []

    def compile(self, function: Callable[..., Any], variables: Sequence[str]) -> Plan:
        plan = Plan(self._name, function)
        where = f"{self._name} ({_location(function)})"
        parameters = _parameters(function, where)
        rest: Any = None
        for parameter, annotation in parameters.values():
            rest = self._add(plan, parameter, annotation, variables, where) or rest
        self._check_count(plan, where)
        try:
            plan._wire.seal(rest)
        except TypeError as error:
            raise DeclarationError(f"{where}: {error}") from None
        return plan

    def _add(
        self, plan: Plan, parameter: inspect.Parameter, annotation: Any, variables: Sequence[str], where: str
    ) -> Any:
        name = parameter.name
        label = f"{where}: parameter {name!r}"
        slot = self._injected(annotation, label) or self._variable(parameter, annotation, variables, label)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise DeclarationError(f"{label}: WAMP arguments have no names; take one parameter of type dict instead")
        if slot is not None:
            plan.injected = True
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
        _check_convertible(annotation, parameter.default, label)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            plan._wire.variadic = name
            return annotation
        plan._wire.add(name, annotation, parameter.default)
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
        if function in self._under_way:
            raise DeclarationError(f"{label}: {_location(function)} depends on itself")
        self._under_way.append(function)
        try:
            return Dependency(self.compile(function, ()), function)
        finally:
            self._under_way.pop()

    def _variable(
        self, parameter: inspect.Parameter, annotation: Any, variables: Sequence[str], label: str
    ) -> Resolver | None:
        name = parameter.name
        if name not in variables:
            return None
        if annotation in (_EMPTY, Any, str):
            return lambda scope: scope.variables[name]
        _check_convertible(annotation, _EMPTY, label)
        return functools.partial(_convert_variable, self._name, name, annotation)

    def _check_count(self, plan: Plan, where: str) -> None:
        wire = plan._wire
        if self._most is None or self._under_way:
            return
        names = [*wire.names, *([wire.variadic] if wire.variadic else [])]
        if len(names) > self._most:
            extra = names[self._most]
            raise DeclarationError(
                f"{where}: parameter {extra!r} is nothing that this handler can be given; annotate it as something "
                f"injected (Connection, Topic, Depends), name it after a variable of the URI, or remove it"
            )


def _convert_variable(owner: str, name: str, annotation: Any, scope: Scope) -> Any:
    text = scope.variables[name]
    try:
        return msgspec.convert(text, annotation, strict=False)
    except msgspec.ValidationError as error:
        problem = _read_path(str(error))[0]
        raise InvalidArgument(f"{owner}: {{{name}}} in the URI: {problem}") from None


def _check_convertible(annotation: Any, default: Any, label: str) -> None:
    try:
        unknown = _unknown_class(msgspec.inspect.type_info(annotation))
    except TypeError as error:
        raise DeclarationError(f"{label}: {str(error).splitlines()[0]}") from None
    if unknown is not None:
        raise DeclarationError(
            f"{label}: JSON cannot be converted to {unknown.__qualname__}; use a dataclass, a msgspec.Struct or a "
            f"built-in type, or provide it with Annotated[{unknown.__qualname__}, Depends(...)]"
        )


def _unknown_class(info: Any, seen: tuple[Any, ...] = ()) -> type | None:
    """A class inside a type that msgspec only knows by name."""
    if isinstance(info, msgspec.inspect.CustomType):
        cls = typing.get_origin(info.cls) or info.cls
        return cls if isinstance(cls, type) else type(cls)
    if info in seen:
        return None
    parts: list[Any] = []
    for attribute in ("item_type", "item_types", "key_type", "value_type", "types", "type", "fields"):
        part = getattr(info, attribute, None)
        parts.extend(part if isinstance(part, tuple) else [part])
    for part in parts:
        if isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field):
            found = _unknown_class(part, (*seen, info))
            if found is not None:
                return found
    return None


# ---- reading a function


def _parameters(function: Callable[..., Any], where: str) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Each parameter with its annotation resolved."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"{where}: its signature cannot be read: {error}") from None
    try:
        hints = typing.get_type_hints(_hinted(function), include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{where}: {_unresolved(signature, error)}; import it or define it at the top level of the module"
        ) from None
    except Exception as error:
        raise DeclarationError(f"{where}: an annotation cannot be read: {error}") from None
    return {
        name: (parameter, hints.get(name, parameter.annotation)) for name, parameter in signature.parameters.items()
    }


def _unresolved(signature: inspect.Signature, error: NameError) -> str:
    for parameter in signature.parameters.values():
        if isinstance(parameter.annotation, str) and error.name and error.name in parameter.annotation:
            return f"parameter {parameter.name!r}: the name {error.name!r} in its annotation is not known"
    return f"the name {error.name!r} in an annotation is not known"


def _hinted(function: Callable[..., Any]) -> Any:
    """The function whose annotations speak for a callable."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        return function.__init__
    return function if hasattr(function, "__annotations__") else getattr(function, "__call__", function)


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))


def _location(function: Callable[..., Any]) -> str:
    """A function's name with its file and line, to be found in an editor."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", repr(inner))
    code = getattr(inner, "__code__", None)
    return f"{name}, {code.co_filename}:{code.co_firstlineno}" if code is not None else str(name)
