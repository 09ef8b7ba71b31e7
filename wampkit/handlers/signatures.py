"""Reads functions: their parameters and annotations, where they are defined, and how decorators were called."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, cast

from ..errors import DeclarationError, suggestion
from ..telemetry.source_files import PACKAGE

__all__ = [
    "called_from",
    "explain_options",
    "innermost",
    "is_method",
    "location",
    "parameters_of",
    "without_parentheses",
]

F = TypeVar("F", bound=Callable[..., Any])


def parameters_of(function: Callable[..., Any], where: str) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Each parameter with its annotation resolved. Raises DeclarationError, which begins with `where`."""
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
    """The function whose annotations are those of a callable."""
    function = innermost(function)
    if inspect.isclass(function):
        return function.__init__
    return function if hasattr(function, "__annotations__") else type(function).__call__


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function within decorators and partials."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    return function


def location(function: Callable[..., Any]) -> str:
    """A function's name, file and line, for errors."""
    inner = innermost(function)
    name = getattr(inner, "__qualname__", repr(inner))
    code = getattr(inner, "__code__", None)
    return f"{name}, {code.co_filename}:{code.co_firstlineno}" if code is not None else str(name)


def called_from() -> str:
    """File and line of the user's code that called wampkit."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def is_method(function: Callable[..., Any]) -> bool:
    """Whether this is a function of a class that takes `self` or `cls`: a method that is not bound."""
    if not inspect.isfunction(function):
        return False
    owner = function.__qualname__.rpartition(".")[0]
    if not owner or owner.endswith("<locals>"):
        return False
    return next(iter(inspect.signature(function).parameters), None) in ("self", "cls")


# ---- mistakes in how a decorator is called


def explain_options(name: str) -> Callable[[F], F]:
    """Decorate a function, `name` in errors, so that an unknown option raises DeclarationError with "did you mean"."""

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
    """Decorate a method that is a decorator without arguments, so that `@name(...)` raises DeclarationError."""

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def checked(self: Any, *functions: Any) -> Any:
            if len(functions) != 1 or not callable(functions[0]):
                raise DeclarationError(f"write @{name} without parentheses, above a function")
            return method(self, *functions)

        return cast(F, checked)

    return decorate
