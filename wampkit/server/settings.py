"""`Settings`: the options of `App`, checked and brought into one form when they are set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from ..access.addresses import AddressGate
from ..access.hosts import AllowHosts, LoopbackHosts
from ..access.origins import SAME, AllowOrigins
from ..access.proxies import TrustedProxies, trusted_proxies_of
from ..auth.credentials import Cra
from ..dispatch.middleware import Middleware, middlewares_of
from ..errors import ERROR_URIS, DeclarationError
from ..handlers.hooks import Lifespan, check_lifespan
from ..limits import Limits, is_positive
from ..protocol.uris import check_prefixes, check_uri, expand, prefix_problem
from ..pubsub.broker import Broker, check_broker
from ..router import as_rules

__all__ = ["OPTIONS", "Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of an app; see `App` for each. Made by `of`, which checks them.

    Attributes:
        loopback_only: Whether pages must have asked for a host that is this machine by name, as `wampkit run --reload`
            and `--debug` want it on a loopback address.
    """

    prefixes: Mapping[str, str]
    middlewares: tuple[Middleware, ...]
    trusted_proxies: TrustedProxies | None
    lifespan: Lifespan | None
    debug: bool
    cra: Cra | None
    requires: tuple[Any, ...]
    explain_refusals: bool
    exclude_publisher: bool
    empty_eligible: Literal["nobody", "everybody"]
    require_subprotocol: bool
    malformed: Literal["close", "ignore"]
    error_uris: Mapping[str, str]
    ident: str
    broker: Broker | str
    keepalive: float | None
    limits: Limits
    close_timeout: float
    goodbye: Literal["close", "drop"]
    compression: bool
    threads: int
    javascript: bool
    console: bool | tuple[Any, ...] | None
    loopback_only: bool = False

    def __post_init__(self) -> None:
        for kind, uri in self.error_uris.items():
            problem = prefix_problem(uri, self.prefixes)
            if problem is not None:
                raise DeclarationError(f"error_uris: the URI of {kind!r}: {problem}")

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Settings from the arguments of `App`. Raises DeclarationError if one cannot work."""
        return cls(**{name: _checked(name, value) for name, value in given.items()})

    def changed(self, name: str, value: Any) -> Self:
        """A copy with one option changed. Raises DeclarationError if the value cannot work."""
        return replace(self, **{name: _checked(name, value)})

    @property
    def with_default_gates(self) -> tuple[Middleware, ...]:
        """The middlewares with those gates that an app has by default."""
        return _with_default_gates(self.middlewares, loopback_only=self.loopback_only)

    @property
    def error_uri_of(self) -> dict[str, str]:
        """The full error URI of each kind of failure."""
        return {**ERROR_URIS, **{kind: expand(uri, self.prefixes) for kind, uri in self.error_uris.items()}}


OPTIONS = frozenset(field.name for field in fields(Settings)) - {"loopback_only"}
"""The names of the options of `App`."""


# ---- checks


def _checked(name: str, value: Any) -> Any:
    check = _CHECKS.get(name)
    return value if check is None else check(value)


def _cra(value: Any) -> Cra | None:
    if value is not None and not isinstance(value, Cra):
        raise DeclarationError(f"App(cra=...) takes a wampkit.Cra, such as Cra(lookup), not {value!r}")
    return value


def _console(value: Any) -> bool | tuple[Any, ...] | None:
    if value is None or isinstance(value, bool):
        return value
    rules = as_rules(value, "App(console=...)")
    if not rules:
        raise DeclarationError("App(console=[]) says nothing; write True, False, or a rule such as requires('admin')")
    return rules


def _error_uris(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise DeclarationError(f'error_uris is a dict of kind to URI, such as {{"not_found": "..."}}, not {value!r}')
    unknown = [kind for kind in value if kind not in ERROR_URIS]
    if unknown:
        raise DeclarationError(f"error_uris: no kind {unknown[0]!r}; the kinds are {', '.join(ERROR_URIS)}")
    for kind, uri in value.items():
        check_uri(uri, f"error_uris: the URI of {kind!r}")
    return dict(value)


def _expect(name: str, wanted: str, holds: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A check that returns the value, or raises DeclarationError with what is wanted."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise DeclarationError(f"{name} is {wanted}, not {value!r}")
        return value

    return check


def _flag(name: str) -> Callable[[Any], Any]:
    return _expect(name, "True or False", lambda value: isinstance(value, bool))


def _choice(name: str, *words: str) -> Callable[[Any], Any]:
    return _expect(name, " or ".join(map(repr, words)), lambda value: value in words)


def _is_printable(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "prefixes": check_prefixes,
    "middlewares": lambda value: middlewares_of(value, "App", gates=True),
    "trusted_proxies": trusted_proxies_of,
    "lifespan": check_lifespan,
    "cra": _cra,
    "requires": lambda value: () if value is None else as_rules(value, "App"),
    "empty_eligible": _choice("empty_eligible", "nobody", "everybody"),
    "malformed": _choice("malformed", "close", "ignore"),
    "error_uris": _error_uris,
    "ident": _expect("ident", "a text of printable characters", _is_printable),
    "broker": check_broker,
    "keepalive": _expect(
        "keepalive", "a number of seconds above 0, or None", lambda value: value is None or is_positive(value)
    ),
    "limits": _expect("limits", "a wampkit.Limits, such as Limits(calls=100)", lambda value: isinstance(value, Limits)),
    "close_timeout": _expect("close_timeout", "a number of seconds above 0", is_positive),
    "goodbye": _choice("goodbye", "close", "drop"),
    "threads": _expect("threads", "a whole number above 0", lambda value: type(value) is int and value > 0),
    "console": _console,
    **{
        name: _flag(name)
        for name in (
            "debug",
            "explain_refusals",
            "exclude_publisher",
            "require_subprotocol",
            "compression",
            "javascript",
            "loopback_only",
        )
    },
}


# ---- default gates


def _with_default_gates(middlewares: tuple[Any, ...], *, loopback_only: bool) -> tuple[Any, ...]:
    """The middlewares with the default gates, which come after the leading gates by address and host.

    So a foreign page costs no look-up of a session, and a blocked address not even a look at its origin.
    """
    defaults: list[Any] = []
    if loopback_only and not _has(middlewares, AllowHosts):
        defaults.append(LoopbackHosts())
    if not _has(middlewares, AllowOrigins):
        defaults.append(AllowOrigins(SAME, allow_missing=True))
    leading = list(itertools.takewhile(lambda each: isinstance(each, AddressGate | AllowHosts), middlewares))
    return (*leading, *defaults, *middlewares[len(leading) :])


def _has(middlewares: Iterable[Any], kind: type) -> bool:
    return any(isinstance(each, kind) for each in middlewares)
