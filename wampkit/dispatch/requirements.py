"""Rules about who may call, subscribe and publish, checked before the handler and its dependencies run.

Rules add up: those of the routers around a route, its own and those of its handler must all hold. The app's default
applies to routes that have none.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from ..connection.server_connection import ServerConnection
from ..errors import DeclarationError, NotAllowed, NotFound
from ..handlers.signatures import explain_options, location
from ..router import TopicDeclaration, is_handler
from .middleware import Call, CallNext, Incoming, Publish

__all__ = [
    "Condition",
    "Requirement",
    "Rule",
    "Rules",
    "anyone",
    "check_all",
    "combine_rules",
    "requirements_of",
    "requires",
    "with_rules",
]

Condition: TypeAlias = Callable[[Any], bool | Awaitable[bool]]
"""A function of the message, an `Incoming`; the message is refused unless it returns True."""

F = TypeVar("F")

_MARK = "__wampkit_requires__"

ROUNDS = 10
"""Checks of the rules for one message, if the connection's rights change meanwhile."""


class Rule(Protocol):
    """A condition that must hold for a message."""

    async def check(self, message: Incoming) -> None:
        """Refuse a message by raising NotAllowed or another `WampError`."""


Rules: TypeAlias = Rule | Iterable[Rule]
"""A rule, or several that must all hold."""


def _mark(handler: F, rule: Rule) -> F:
    if isinstance(handler, TopicDeclaration):
        handler.require(rule)
        return handler
    try:
        setattr(handler, _MARK, (rule, *getattr(handler, _MARK, ())))
    except AttributeError:
        raise DeclarationError(
            f"@requires cannot mark {handler!r}; give the route requires=requires(...) instead"
        ) from None
    return handler


class Requirement:
    """The rule that `requires` makes: for `requires=`, `subscribe=` and `publish=`, and a decorator of handlers."""

    def __init__(self, roles: frozenset[str], users: frozenset[Any] | None, conditions: tuple[Condition, ...]) -> None:
        self._roles = roles
        self._users = users
        self._conditions = conditions
        self._login = users is not None or not (roles or conditions)

    async def check(self, message: Incoming) -> None:
        """Raises NotAllowed if the message does not fulfil it."""
        connection = message.connection
        if self._login and connection.user is None:
            raise NotAllowed("this needs a login")
        if self._users is not None and connection.user not in self._users:
            raise NotAllowed("this user may not do this")
        if self._roles and self._roles.isdisjoint(connection.roles):
            raise NotAllowed(f"this needs the role {self._role_names()}")
        for condition in self._conditions:
            answer = condition(message)
            if inspect.isawaitable(answer):
                answer = await answer
            # Any other value that a condition returns is more likely a mistake than a yes.
            if answer is not True:
                raise NotAllowed("this is not allowed here")

    def __call__(self, handler: F) -> F:
        """Require this on every route that a handler serves, above or below `@app.rpc` and `@app.topic`."""
        return _mark(handler, self)

    def _role_names(self) -> str:
        return " or ".join(repr(role) for role in sorted(self._roles))

    def __str__(self) -> str:
        parts = ["a login"] if self._login and self._users is None else []
        if self._users is not None:
            parts.append("user " + " or ".join(sorted(repr(user) for user in self._users)))
        if self._roles:
            parts.append(f"role {self._role_names()}")
        parts += [getattr(condition, "__qualname__", repr(condition)) for condition in self._conditions]
        return " and ".join(parts)

    def __repr__(self) -> str:
        return f"<requires {self}>"


_ANY_USER: Any = object()
"""The default of `user`. It is not None, which `os.environ.get` may return: that must not let every user pass."""


@explain_options("requires")
def requires(*conditions: str | Condition, user: Any = _ANY_USER) -> Requirement:
    """A rule about who may do something.

    `requires()` asks for a user, `requires("admin", "editor")` for one of these roles, `requires(user="ann")` for one
    user or one of a list, `requires(is_member)` for a function of the message that returns True. All conditions must
    hold; stacked decorators add up.

    Args:
        conditions: Role names, of which the connection must have one, and functions of the message, `async` too, all
            of which must return True. A plain function runs on the loop and must not block. One that raises refuses.
        user: A user, or several in a list, tuple or set.

    Raises:
        DeclarationError: A condition is neither a text nor a function, a role is empty, or `user` is None or empty.
    """
    roles = frozenset(each for each in conditions if isinstance(each, str))
    functions = tuple(each for each in conditions if not isinstance(each, str))
    if "" in roles:
        raise DeclarationError("requires: '' is no role; was a setting empty? Name the role, or write requires()")
    for each in functions:
        _check_condition(each)
    return Requirement(roles, None if user is _ANY_USER else _users(user), functions)


def _users(user: Any) -> frozenset[Any]:
    users = frozenset(user) if isinstance(user, list | tuple | set | frozenset) else frozenset([user])
    if not users:
        raise DeclarationError("requires: user names no user, so that nobody could pass; name one, or write requires()")
    for each in users:
        if each is None or each == "":
            raise DeclarationError(
                f"requires: user={each!r} is no user; was a setting empty? Name the user, or write requires() for any "
                "user who has logged in"
            )
    return users


def _check_condition(condition: Any) -> None:
    if isinstance(condition, list | tuple | set | frozenset):
        names = ", ".join(map(repr, condition))
        raise DeclarationError(f"requires takes names of roles one by one, not in a list; write requires({names})")
    if not callable(condition) or inspect.isclass(condition):
        raise DeclarationError(f"requires takes names of roles and functions of the message, not {condition!r}")
    if isinstance(condition, TopicDeclaration) or is_handler(condition):
        name = getattr(condition, "__name__", "the handler")
        raise DeclarationError(f"write @requires() with parentheses, or with a role in them, above {name}")
    try:
        inspect.signature(condition).bind(None)
    except TypeError:
        raise DeclarationError(
            f"requires: {location(condition)} is a condition only if it takes one argument, the message; a handler is "
            "decorated with @requires(), with parentheses"
        ) from None
    except ValueError:  # its signature cannot be read; the first message will show whether it can be called
        pass


class _Anyone:
    """Opens a route to all, despite the app's default and WAMP-CRA; the rules of routers around it still hold."""

    async def check(self, message: Incoming) -> None:
        """Refuses nothing."""

    def __call__(self, *handlers: F) -> F:
        """Open every route that a handler serves."""
        if len(handlers) != 1:
            raise DeclarationError("write anyone without parentheses: requires=anyone, or @anyone above a function")
        return _mark(handlers[0], self)

    def __repr__(self) -> str:
        return "anyone"

    __str__ = __repr__


anyone: _Anyone = _Anyone()
"""No rule: `@app.rpc("ping", requires=anyone)` opens a procedure of an app that requires something of all others."""


class _CraRule:
    """Allows what WAMP-CRA granted, and all to a user who was known at the handshake."""

    async def check(self, message: Incoming) -> None:
        """Raise NotFound before a login, so that it tells nothing of what exists, and NotAllowed after it."""
        connection, permissions = message.connection, message.connection.permissions
        if permissions is None:
            if connection.user is None:
                raise NotFound("this does not exist before a login")
            return
        if isinstance(message, Call):
            allowed = permissions.may_call(message.uri)
        elif isinstance(message, Publish):
            allowed = permissions.may_publish(message.uri)
        else:
            allowed = permissions.may_subscribe(message.uri)
        if not allowed:
            raise NotAllowed("this was not granted")

    def __str__(self) -> str:
        return "what WAMP-CRA grants"


_cra_rule: _CraRule = _CraRule()


def requirements_of(handler: Any) -> tuple[Any, ...]:
    """The rules with which a handler was decorated, also below decorators that set `__wrapped__`."""
    rules: tuple[Any, ...] = ()
    while handler is not None:
        rules += vars(handler).get(_MARK, ()) if hasattr(handler, "__dict__") else ()
        handler = getattr(handler, "__wrapped__", None)
    return tuple(dict.fromkeys(rules))


def combine_rules(own: Iterable[Any], default: tuple[Rule, ...], *, cra: bool) -> tuple[Any, ...]:
    """The rules to check: the route's own, else the app's default, plus WAMP-CRA's unless `anyone` opens the route.

    Args:
        own: The rules of routers, route and handler, outermost first.
        default: The app's rules for routes that have none.
        cra: Whether WAMP-CRA grants what may be done.
    """
    rules = tuple(own)
    opened = anyone in rules
    if not rules:
        rules = default
    rules = tuple(each for each in rules if each is not anyone)
    return (_cra_rule, *rules) if cra and not opened else rules


async def check_all(rules: Sequence[Rule], message: Incoming) -> int:
    """Check a message by all rules, and again if the connection's rights change meanwhile.

    Returns:
        The connection's `rights_version` for which all of them hold.

    Raises:
        NotAllowed: A rule does not hold, or the rights changed during each of `ROUNDS` checks.
    """
    connection = message.connection
    assert isinstance(connection, ServerConnection)
    for _ in range(ROUNDS):
        version = connection.rights_version
        for rule in rules:
            await rule.check(message)
        if connection.rights_version == version:
            return version
    raise NotAllowed("the rights of this connection changed each time they were checked; try again")


def with_rules(rules: Sequence[Any], call_next: CallNext) -> CallNext:
    """Check the rules before `call_next`."""
    if not rules:
        return call_next

    async def guard(message: Incoming) -> Any:
        await check_all(rules, message)
        return await call_next(message)

    return guard
