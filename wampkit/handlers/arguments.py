"""Binds a message's arguments to a handler's parameters: converts, validates, and explains what does not fit.

They are converted to one msgspec struct whose fields are the handler's annotations: a single call into C. Only if
that fails is time spent on the reason.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from inspect import Parameter
from types import GenericAlias
from typing import Any

import msgspec

from ..errors import DeclarationError, InvalidArgument, quote

__all__ = ["Arguments", "check_convertible", "problem_of"]

_EMPTY = Parameter.empty

_convert = msgspec.convert

_as_tuple = msgspec.structs.astuple


class Arguments:
    """The parameters of one handler that a message fills; errors call the handler `owner`."""

    __slots__ = (
        "_exactly",
        "_named",
        "_struct",
        "_variadic_struct",
        "annotations",
        "defaults",
        "names",
        "owner",
        "required",
        "variadic",
        "variadic_type",
    )

    def __init__(self, owner: str) -> None:
        self.owner: str = owner
        self.names: list[str] = []
        self.annotations: list[Any] = []
        self.defaults: list[Any] = []
        self.required: int = 0
        self.variadic: str | None = None
        self.variadic_type: Any = Any
        self._struct: type[msgspec.Struct] | None = None
        self._named: type[msgspec.Struct] | None = None
        self._variadic_struct: type[msgspec.Struct] | None = None
        self._exactly = -1  # the number of arguments that are converted in one step

    def add(self, name: str, annotation: Any, default: Any) -> None:
        """Add a parameter; those with a default come last."""
        self.names.append(name)
        self.annotations.append(annotation)
        self.defaults.append(default)
        if default is _EMPTY:
            self.required = len(self.names)

    def add_variadic(self, name: str, annotation: Any) -> None:
        """Add `*args`, with the annotation of each."""
        self.variadic = name
        self.variadic_type = annotation

    def seal(self) -> None:
        """Build the struct types, when all parameters are added."""
        fields = [(f"p{index}", annotation, None) for index, annotation in enumerate(self.annotations)]
        if fields:
            self._struct = msgspec.defstruct("Arguments", fields, array_like=True)
            named = [
                (field, annotation, msgspec.field(default=None, name=name))
                for (field, annotation, _), name in zip(fields, self.names, strict=True)
            ]
            self._named = msgspec.defstruct("NamedArguments", named)
            self._exactly = len(fields)
        if self.variadic_type is not Any:
            self._variadic_struct = msgspec.defstruct(
                "Rest", [("p0", GenericAlias(list, self.variadic_type))], array_like=True
            )

    def fits(self, count: int) -> bool:
        """Whether `count` arguments can be bound from left to right."""
        return self.required <= count and (self.variadic is not None or count <= len(self.names))

    def convert(self, args: list[Any]) -> list[Any]:
        """Convert arguments, whose count must fit. Raises msgspec.ValidationError."""
        named = len(self.names)
        values: list[Any] = []
        if self._struct is not None:
            head = args[:named] if len(args) > named else args
            values.extend(msgspec.structs.astuple(msgspec.convert(head, self._struct)))
            if len(head) < named:
                values[len(head) :] = self.defaults[len(head) :]
        if len(args) > named:
            rest = args[named:]
            values.extend(rest if self._variadic_struct is None else msgspec.convert([rest], self._variadic_struct).p0)  # type: ignore[attr-defined]  # defstruct's fields are not known to mypy
        return values

    def convert_named(self, named: dict[str, Any]) -> list[Any]:
        """Convert one object whose keys are parameter names. Raises msgspec.ValidationError."""
        assert self._named is not None
        values = msgspec.structs.astuple(msgspec.convert(named, self._named))
        return [
            value if name in named else default
            for name, value, default in zip(self.names, values, self.defaults, strict=True)
        ]

    def bind(self, args: list[Any]) -> Sequence[Any]:
        """Convert the arguments of a message to what the handler declares.

        Raises:
            InvalidArgument: They do not fit; says which one, and what was expected.
        """
        if len(args) == self._exactly:
            try:
                return _as_tuple(_convert(args, self._struct))
            except msgspec.ValidationError:
                pass  # the code below finds the reason
        if not self.fits(len(args)):
            if self._may_spread(args):
                return self._bind_spread(args[0])
            raise InvalidArgument(self._explain_count(len(args)))
        try:
            return self.convert(args)
        except msgspec.ValidationError as error:
            if self._may_spread(args) and self._names_parameters(args[0]):
                return self._bind_spread(args[0])
            raise InvalidArgument(self._explain(error, args)) from None

    def _may_spread(self, args: list[Any]) -> bool:
        """Whether one array or object may stand for several named parameters, as Ratchet-family clients send them."""
        return len(args) == 1 and len(self.names) >= 2 and self.variadic is None and type(args[0]) in (list, dict)

    def _names_parameters(self, only: Any) -> bool:
        if type(only) is list:
            return self.fits(len(only))
        return bool(only) and set(self.names[: self.required]) <= only.keys() <= set(self.names)

    def _bind_spread(self, only: Any) -> list[Any]:
        try:
            if type(only) is list:
                if not self.fits(len(only)):
                    raise InvalidArgument(self._explain_count(len(only)))
                return self.convert(only)
            self._check_names(only)
            return self.convert_named(only)
        except msgspec.ValidationError as error:
            raise InvalidArgument(self._explain(error, only)) from None

    def _check_names(self, named: dict[str, Any]) -> None:
        for index, name in enumerate(self.names[: self.required]):
            if name not in named:
                raise InvalidArgument(f'{self.owner}: argument {index + 1} "{name}" is missing')
        for name in named:
            if name not in self.names:
                raise InvalidArgument(f"{self.owner}: there is no argument {quote(name)}")

    def _explain_count(self, count: int) -> str:
        if count < self.required:
            missing = self.names[count]
            return f'{self.owner}: argument {count + 1} "{missing}" is missing'
        return f"{self.owner}: takes at most {len(self.names)} arguments, {count} were given"

    def _explain(self, error: msgspec.ValidationError, args: list[Any] | dict[str, Any]) -> str:
        text, key, rest = _read_path(str(error))
        names = self.names
        if isinstance(args, dict):
            index = names.index(key) if key in names else 0
            given = args.get(key, msgspec.UNSET)
        else:
            index = int(key or 0)
            if self.variadic is not None and index == 0 and _fits_all(self, args):
                # The rest was converted as one list, so the path begins inside it.
                inner = re.match(r"\[(\d+)\](.*)", rest)
                index, rest = (len(names) + int(inner[1]), inner[2]) if inner else (index, rest)
            given = args[index] if index < len(args) else msgspec.UNSET
        name = names[index] if index < len(names) else self.variadic
        got = _shown(_at(given, rest))
        if got is not None and ", got " in text:
            text = f"{text.split(', got ')[0]}, got {got}"
        return f'{self.owner}: argument {index + 1} "{name}"{rest}: {text}'


def _fits_all(arguments: Arguments, args: list[Any]) -> bool:
    try:
        arguments.convert(args[: len(arguments.names)])
    except msgspec.ValidationError:
        return False
    return True


def problem_of(error: msgspec.ValidationError) -> str:
    """The text of a conversion error, without its path."""
    return _read_path(str(error))[0]


_PATH = re.compile(r" - at (?:`key` in )?`\$(?:\[(\d+)\]|\.([^.\[`]+))?([^`]*)`$")


def _read_path(message: str) -> tuple[str, str, str]:
    """Split msgspec's message into its text, the first step of its path and the rest of the path."""
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


# ---- types, checked at start


def check_convertible(annotation: Any, label: str) -> None:
    """Refuse a type that JSON cannot be converted to. Raises DeclarationError."""
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
    """A class inside a type that msgspec cannot convert to."""
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
