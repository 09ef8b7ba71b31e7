"""Compiles a handler's signature to a plan: which parameters a message fills, and what injects the others.

This happens when the app starts, so that a mistake shows before the first client.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from ..errors import DeclarationError, InvalidArgument
from .arguments import check_convertible, problem_of
from .depends import Depends, Scope
from .plan import Dependency, Plan, Resolver
from .signatures import is_method, location, parameters_of

__all__ = ["Injectables", "compile_handler", "variables_check"]

Injectables = Mapping[Any, Resolver | str]
"""The resolvers of injected parameters by annotation; a text is the reason why one is not available here."""

_EMPTY = inspect.Parameter.empty

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_INJECTED_NAMES = {
    "conn": "Connection",
    "connection": "Connection",
    "topic": "Topic",
    "publish": "Publish",
    "session": "Session",
}
"""The types that parameters of these names are usually meant to have."""


def compile_handler(
    name: str,
    function: Callable[..., Any],
    injectables: Injectables,
    *,
    variables: Sequence[str] = (),
    all_variables: bool = False,
    most: int | None = None,
) -> Plan:
    """Compile a handler's signature.

    Args:
        name: The handler's name in errors.
        function: The handler.
        injectables: The resolvers of injected parameters, by annotation.
        variables: The URI pattern's variables, which fill the parameters of their names.
        all_variables: Whether each variable needs a parameter.
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
    """Compiles one handler and, on the way, its dependencies and theirs."""

    def __init__(self, name: str, handler: Callable[..., Any], injectables: Injectables, most: int | None) -> None:
        self._name = name
        self._handler = handler
        self._injectables = injectables
        self._most = most
        self._dependencies: list[Callable[..., Any]] = []  # from the handler's to the one being compiled

    def compile(self, function: Callable[..., Any], variables: Sequence[str]) -> Plan:
        plan = Plan(self._name, function)
        where = " needs ".join([f"{self._name} ({location(self._handler)})", *map(location, self._dependencies)])
        for parameter, annotation in parameters_of(function, where).values():
            self._add(plan, parameter, annotation, variables, f"{where}: parameter {parameter.name!r}")
        self._check_count(plan, where)
        try:
            plan.wire.seal()
        except TypeError as error:
            raise DeclarationError(f"{where}: {error}") from None
        return plan

    def _add(
        self, plan: Plan, parameter: inspect.Parameter, annotation: Any, variables: Sequence[str], label: str
    ) -> None:
        _refuse_misplaced_depends(parameter, annotation, label)
        slot = self._injected(annotation, label) or self._variable(plan, parameter, annotation, variables, label)
        if slot is None:
            self._refuse_unannotated(parameter, annotation, label)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise DeclarationError(f"{label}: WAMP arguments have no names; take one parameter of type dict instead")
        if slot is not None:
            _inject(plan, parameter, slot, label)
        elif self._dependencies:
            if parameter.default is _EMPTY and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                raise DeclarationError(
                    f"{label}: a dependency is given no arguments; annotate it as something injected, or give it a "
                    "default"
                )
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is _EMPTY:
                raise DeclarationError(f"{label}: WAMP arguments are positional; drop the * before it")
        else:
            annotation = Any if annotation is _EMPTY else annotation
            check_convertible(annotation, label)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                plan.wire.add_variadic(parameter.name, annotation)
            else:
                plan.wire.add(parameter.name, annotation, parameter.default)
                plan.slots.append(None)

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
        except TypeError:  # an unhashable annotation, so none of these
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
        if function in self._dependencies:
            raise DeclarationError(f"{label}: {location(function)} depends on itself")
        self._dependencies.append(function)
        try:
            return Dependency(self.compile(function, ()), function)
        finally:
            self._dependencies.pop()

    def _refuse_unannotated(self, parameter: inspect.Parameter, annotation: Any, label: str) -> None:
        """Refuse a parameter that is named like an injected one but would be filled by the message."""
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
        if self._most is None or self._dependencies:
            return
        names = [*wire.names, *([wire.variadic] if wire.variadic else [])]
        if len(names) > self._most:
            extra = names[self._most]
            raise DeclarationError(
                f"{where}: parameter {extra!r} is nothing that this handler can be given; annotate it as something "
                f"injected (Connection, Topic, Depends), name it after a variable of the URI, or remove it"
            )


def _inject(plan: Plan, parameter: inspect.Parameter, slot: Resolver | Dependency, label: str) -> None:
    plan.injected = True
    if isinstance(slot, Dependency):
        plan.transactional |= slot.managed or slot.plan.transactional
    if parameter.kind in _POSITIONAL:
        plan.slots.append(slot)
    elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        plan.keywords[parameter.name] = slot
    else:
        raise DeclarationError(f"{label}: *{parameter.name} cannot be injected; drop the star")


def _refuse_misplaced_depends(parameter: inspect.Parameter, annotation: Any, label: str) -> None:
    """Refuse a dependency as a default, which FastAPI allows, and in place of the type."""
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


def variables_check(plans: Iterable[Plan]) -> Callable[[Mapping[str, str]], bool] | None:
    """A check whether the values of a URI's variables are of the types that the plans declare; None if any are.

    A URI with another value belongs to no route: `book/abc` is no procedure where `{number}` is an int.
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
