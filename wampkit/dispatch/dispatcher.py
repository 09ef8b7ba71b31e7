"""Where each message of each connection goes, if it may be sent at all."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ..connection.connection import Connection
from ..errors import TooManyMessages, quote
from ..limits import Limits
from ..protocol import messages
from ..protocol.websocket import CloseCode
from ..telemetry.counters import Counters
from .calls import Calls
from .topic_messages import TopicMessages

__all__ = ["Dispatcher"]


class Dispatcher:
    """Takes every message of every connection.

    Args:
        calls: What runs calls.
        topic_messages: What runs the messages that concern topics.
        limits: How many messages a client may send.
        counters: Where refusals are counted.
    """

    def __init__(self, calls: Calls, topic_messages: TopicMessages, limits: Limits, counters: Counters) -> None:
        self._calls = calls
        self._topic_messages = topic_messages
        self._limits = limits
        self._counters = counters
        self._draining = False
        self._too_many = f"more than {limits.messages_per_second or 0:g} messages a second"

    def drain(self) -> None:
        """Begin nothing more; what is under way ends as usual."""
        self._draining = True

    def cut_off(self) -> None:
        """Whatever is cancelled from now on is cut off by the end of the server, and its caller is told."""
        self._calls.cut_off()

    def receive(self, connection: Connection, message: messages.Message) -> None:
        """Take one message. Never blocks: calls run side by side, topic messages in the order they came."""
        if self._draining:
            return
        tasks = connection.tasks
        if isinstance(message, messages.Call):
            tasks.run_call(self._calls.call(connection, message))
        elif isinstance(message, messages.Publish):
            tasks.run_in_order(self._topic_messages.publish, connection, message, finish_after_close=True)
        elif isinstance(message, messages.Subscribe):
            tasks.run_in_order(self._topic_messages.subscribe, connection, message, finish_after_close=False)
        elif isinstance(message, messages.Unsubscribe):
            tasks.run_in_order(self._topic_messages.unsubscribe, connection, message, finish_after_close=True)

    def publish(self, connection: Connection, message: messages.Publish) -> Awaitable[Any]:
        """Take a PUBLISH whose sender is told what became of it; see `TopicMessages.confirm`."""
        return self._topic_messages.confirm(connection, message)

    async def leave(self, connection: Connection) -> None:
        """End all subscriptions of a connection that has ended."""
        await self._topic_messages.leave(connection)

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions that a connection may not have any more; gives their URIs."""
        return await self._topic_messages.recheck(connection)

    def refuse(self, connection: Connection, data: bytes) -> None:
        """Refuse the text of a message beyond the rate; no more of it is read than the answer to a call needs."""
        if self._draining or self._close_flood(connection):
            return
        match messages.decode_head(data):
            case [messages.Call.code, str(call_id), str(name)]:
                call = messages.Call(call_id, connection.protocol.resolve(name), [])
                connection.tasks.run_call(self._calls.refuse(connection, call, TooManyMessages(self._too_many)))
            case [int(code), *names]:
                uri = connection.protocol.resolve(names[0]) if names else ""
                self._drop(connection, f"{messages.NAMES.get(code, 'a malformed message')} {quote(uri)}")
            case _:
                self._drop(connection, "a malformed message")

    def refuse_frame(self, connection: Connection, what: str) -> None:
        """Refuse a frame beyond the rate that is no text message."""
        if not self._draining and not self._close_flood(connection):
            self._drop(connection, what)

    def _close_flood(self, connection: Connection) -> bool:
        """Count what is beyond the rate, and close its connection where the app wants that."""
        self._counters.over_limit += 1
        if self._limits.flood != "close":
            return False
        connection.log.add("flood", f"closed: {self._too_many}")
        connection.close(CloseCode.POLICY_VIOLATION, self._too_many)
        return True

    def _drop(self, connection: Connection, what: str) -> None:
        connection.log.add("flood", f"{what} dropped: {self._too_many}")
