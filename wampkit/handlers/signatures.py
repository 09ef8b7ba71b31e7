"""Reading a function: its parameters with their annotations resolved, and where it stands."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, cast

import msgspec

from ..errors import DeclarationError, suggestion
from ..telemetry.source_files import PACKAGE

__all__ = [
    "called_from",
    "check_convertible",
    "explain_options",
    "is_method",
    "location",
    "parameters_of",
    "without_parentheses",
]

F = TypeVar("F", bound=Callable[..., Any])


def parameters_of(function: Callable[..., Any], where: str) -> dict[str, tuple[inspect.Parameter, Any]]:
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
    return function if hasattr(function, "__annotations__") else type(function).__call__


def location(function: Callable[..., Any]) -> str:
    """A function's name with its file and line, to be found in an editor."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", repr(inner))
    code = getattr(inner, "__code__", None)
    return f"{name}, {code.co_filename}:{code.co_firstlineno}" if code is not None else str(name)


def called_from() -> str:
    """File and line of the user's code that has called wampkit."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def is_method(function: Callable[..., Any]) -> bool:
    """Whether this is a function of a class body that still wants its `self` or `cls`, and not a bound method."""
    if not inspect.isfunction(function):
        return False
    owner = function.__qualname__.rpartition(".")[0]
    if not owner or owner.endswith("<locals>"):
        return False
    return next(iter(inspect.signature(function).parameters), None) in ("self", "cls")


# ---- mistakes in how a decorator is called


def explain_options(name: str) -> Callable[[F], F]:
    """Have a function say "did you mean" where it is called with an option that it does not have.

    Args:
        name: What errors call the function.
    """

    def decorate(function: F) -> F:
        known = inspect.signature(function).parameters.keys() - {"self"}

        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            for option in options:
                if option not in known:
                    near = suggestion(option, known) or f"; there are {', '.join(sorted(known))}"
                    raise DeclarationError(f"{name} has no option {option!r}{near}")
            return function(*args, **options)

        return cast(F, checked)

    return decorate


def without_parentheses(name: str) -> Callable[[F], F]:
    """Have a decorator method say so where it is called, or given no function.

    Args:
        name: How the decorator is written.
    """

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def checked(self: Any, *functions: Any) -> Any:
            if len(functions) != 1 or not callable(functions[0]):
                raise DeclarationError(f"write @{name} without parentheses, above a function")
            return method(self, *functions)

        return cast(F, checked)

    return decorate


def check_convertible(annotation: Any, label: str) -> None:
    """Refuse an annotation that JSON cannot become. Raises DeclarationError."""
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
        if cls is object:  # everything is one
            return None
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
