"""Where each message of each connection goes, if it may be sent at all."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from . import messages
from .calls import Calls
from .connection import Connection
from .counters import Counters
from .errors import TooManyMessages, quote
from .limits import Limits
from .subscribing import Subscribing

__all__ = ["Dispatcher"]

TOO_MUCH = 1008


class Dispatcher:
    """Takes every message of every connection.

    Args:
        calls: What runs calls.
        subscribing: What runs the messages that concern topics.
        limits: How many messages a client may send.
        counters: Where refusals are counted.
    """

    def __init__(self, calls: Calls, subscribing: Subscribing, limits: Limits, counters: Counters) -> None:
        self._calls = calls
        self._subscribing = subscribing
        self._limits = limits
        self._counters = counters
        self._draining = False
        self._rated = limits.messages_per_second is not None

    def drain(self) -> None:
        """Begin nothing more; what is under way ends as usual."""
        self._draining = True

    def cut_off(self) -> None:
        """Whatever is cancelled from now on is cut off by the end of the server, and its caller is told."""
        self._calls.cut_off()

    def receive(self, connection: Connection, message: messages.Message) -> None:
        """Take one message. Never blocks: calls run side by side, topic messages in the order they came."""
        if self._draining or (self._rated and not self._admit(connection, message)):
            return
        work = connection.work
        if isinstance(message, messages.Call):
            work.start_call(self._calls.call(connection, message))
        elif isinstance(message, messages.Publish):
            work.in_order(self._subscribing.publish, connection, message, outlives=True)
        elif isinstance(message, messages.Subscribe):
            work.in_order(self._subscribing.subscribe, connection, message, outlives=False)
        elif isinstance(message, messages.Unsubscribe):
            work.in_order(self._subscribing.unsubscribe, connection, message, outlives=True)

    def publish(self, connection: Connection, message: messages.Publish) -> Awaitable[Any]:
        """Take a PUBLISH whose sender is told what became of it; see `Subscribing.confirm`."""
        return self._subscribing.confirm(connection, message)

    async def leave(self, connection: Connection) -> None:
        """End all subscriptions of a connection that has ended."""
        await self._subscribing.leave(connection)

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions that a connection may not have any more; gives their URIs."""
        return await self._subscribing.recheck(connection)

    def _admit(self, connection: Connection, message: messages.Message) -> bool:
        """Whether the client may send one more message now; refuses the message otherwise."""
        if connection.allowance is None or connection.allowance.take():
            return True
        self._counters.over_limit += 1
        reason = f"more than {self._limits.messages_per_second:g} messages a second"
        if self._limits.flood == "close":
            connection.complaints.add("flood", f"closed: {reason}")
            connection.close(TOO_MUCH, reason)
        elif isinstance(message, messages.Call):
            connection.work.start_call(self._calls.refuse(connection, message, TooManyMessages(reason)))
        else:
            what = f"{type(message).__name__.upper()} {quote(getattr(message, 'uri', ''))}"
            connection.complaints.add("flood", f"{what} dropped: {reason}")
        return False
