"""What a client asked, together with who asked: the messages that middlewares see and handlers can be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from .connection import Connection
from .router import Declaration

__all__ = ["Call", "Incoming", "Publish", "Subscribe", "Unsubscribe"]


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """The base of `Call`, `Subscribe`, `Unsubscribe` and `Publish`.

    Attributes:
        connection: The client that sent it.
        uri: The full URI of the procedure or topic.
        route: The declaration that the URI belongs to, or None if there is none; the call is refused then.
        variables: What the variables of the declared URI matched.
    """

    connection: Connection
    uri: str
    route: Declaration | None
    variables: Mapping[str, str]

    @property
    def name(self) -> str:
        """The URI as it was declared, such as `chat:{room}`: a label with few values, for logs and metrics."""
        return self.route.declared if self.route is not None else "(unknown)"

    def replace(self, **changes: Any) -> Self:
        """A copy with other arguments or another event, to be passed on in place of this one.

        The URI has chosen the handler by now and cannot be changed.
        """
        refused = changes.keys() & {"uri", "route", "connection", "variables"}
        if refused:
            raise TypeError(f"{', '.join(sorted(refused))} of a message cannot be replaced: the route is chosen by now")
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} from {self.connection.id}>"


class Call(Incoming, frozen=True, kw_only=True):
    """A CALL.

    Attributes:
        id: The call id, chosen by the client; any text.
        args: The arguments as they came, not converted.
    """

    id: str
    args: list[Any]

    __repr__ = Incoming.__repr__


class Subscribe(Incoming, frozen=True, kw_only=True):
    """A SUBSCRIBE."""

    __repr__ = Incoming.__repr__


class Unsubscribe(Incoming, frozen=True, kw_only=True):
    """An UNSUBSCRIBE, or the end of a subscription whose connection ended."""

    __repr__ = Incoming.__repr__


class Publish(Incoming, frozen=True, kw_only=True):
    """A PUBLISH.

    Attributes:
        event: The event as it came, not converted.
        exclude_me: Whether the sender asked to be left out; None if it did not say.
        exclude: Session ids that shall not receive it, or None.
        eligible: The only session ids that may receive it, or None for all.
    """

    event: Any
    exclude_me: bool | None
    exclude: list[str] | None
    eligible: list[str] | None

    __repr__ = Incoming.__repr__
