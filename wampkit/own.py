"""The procedures that wampkit itself serves beside the app's; they pass no middleware and require nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .authentication import Cra
from .connection import Connection
from .cra import AUTH, AUTHREQ
from .logins import Authenticator
from .router import Declaration

__all__ = ["login_procedures", "subscription_procedure"]

SUBSCRIPTION = "wampkit:subscription"
"""The procedure by which wampkit's own clients learn what became of a SUBSCRIBE."""


def subscription_procedure() -> Declaration:
    """Tells what WAMP v1 itself never tells: which subscriptions stand."""
    return Declaration("procedure", SUBSCRIPTION, SUBSCRIPTION, _subscription)


async def _subscription(topic: str, connection: Connection) -> str | None:
    """The full URI of the caller's subscription, or None if it has none.

    Answers after the SUBSCRIBE messages that came before have been decided.
    """
    uri = connection.protocol.resolve(topic)
    await connection.work.settled()
    return uri if uri in connection.subscriptions else None


def login_procedures(cra: Cra | None, running: Callable[[], Authenticator | None]) -> tuple[Declaration, ...]:
    """The two procedures of WAMP-CRA, or none for an app without it.

    Args:
        cra: What the app says about logins.
        running: Gives the app's authenticator, while the app runs.
    """
    if cra is None:
        return ()

    async def authreq(connection: Connection, authkey: Any = None, extra: Any = None) -> str | None:
        authenticator = running()
        assert authenticator is not None
        return await authenticator.authreq(connection, authkey, extra)

    async def auth(connection: Connection, signature: Any = None) -> dict[str, Any]:
        authenticator = running()
        assert authenticator is not None
        return await authenticator.auth(connection, signature)

    return (
        Declaration("procedure", AUTHREQ, AUTHREQ, authreq),
        Declaration("procedure", AUTH, AUTH, auth),
    )
