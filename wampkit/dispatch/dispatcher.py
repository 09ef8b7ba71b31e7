"""Hands each message of a connection to what runs it, and refuses those beyond the message rate."""

from __future__ import annotations

from ..connection.server_connection import ServerConnection
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
        calls: Runs calls.
        topic_messages: Runs SUBSCRIBE, UNSUBSCRIBE and PUBLISH.
        limits: How many messages a client may send.
        counters: Counts refused messages in `over_limit`.
    """

    def __init__(self, calls: Calls, topic_messages: TopicMessages, limits: Limits, counters: Counters) -> None:
        self._calls = calls
        self._topic_messages = topic_messages
        self._limits = limits
        self._counters = counters
        self._draining = False
        self._too_many = f"more than {limits.messages_per_second or 0:g} messages a second"

    def drain(self) -> None:
        """Ignore all further messages; those that were taken before run to their end."""
        self._draining = True

    def receive(self, connection: ServerConnection, message: messages.Message, text: bytes) -> None:
        """Take one message. Never blocks: calls run concurrently, topic messages in the order received."""
        if self._draining:
            return
        tasks = connection.tasks
        # `isinstance` would take three times as long: it asks the metaclass of msgspec's structs.
        if type(message) is messages.Call:
            tasks.run_call(self._calls.call(connection, message), text)
        elif type(message) is messages.Publish or type(message) is messages.Unsubscribe:
            # What was published before the connection closed counts.
            tasks.run_in_order(self._topic_messages.receive, connection, message, finish_after_close=True, text=text)
        elif type(message) is messages.Subscribe:
            tasks.run_in_order(self._topic_messages.receive, connection, message, finish_after_close=False, text=text)

    def refuse(self, connection: ServerConnection, data: bytes) -> None:
        """Refuse the text of a message beyond the rate, reading only as much of it as the answer to a call needs."""
        if self._draining or self._close_flood(connection):
            return
        match messages.decode_head(data):
            case [messages.Call.code, str(call_id), str(name)]:
                call = messages.Call(call_id, connection.protocol.resolve(name), [])
                connection.tasks.run_call(self._calls.refuse(connection, call, TooManyMessages(self._too_many)))
            case [int(code), *names]:
                uri = connection.protocol.resolve(names[0]) if names else ""
                self._log_dropped(connection, f"{messages.NAMES.get(code, 'a malformed message')} {quote(uri)}")
            case _:
                self._log_dropped(connection, "a malformed message")

    def refuse_frame(self, connection: ServerConnection, what: str) -> None:
        """Refuse a frame beyond the rate that is no text message."""
        if not self._draining and not self._close_flood(connection):
            self._log_dropped(connection, what)

    def _close_flood(self, connection: ServerConnection) -> bool:
        """Count a message beyond the rate, and close its connection if `Limits.flood` says so."""
        self._counters.over_limit += 1
        if self._limits.flood != "close":
            return False
        connection.log.add("flood", f"closed: {self._too_many}")
        connection.close(CloseCode.POLICY_VIOLATION, self._too_many)
        return True

    def _log_dropped(self, connection: ServerConnection, what: str) -> None:
        connection.log.add("flood", f"{what} dropped: {self._too_many}")
