"""The flusher: writes what all connections of an app sent in one turn of the loop, in one callback for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from ..protocol.websocket import text_frame
from ..telemetry.logs import logger_of

__all__ = ["Flusher", "Owner", "Receiver"]

logger: logging.Logger = logger_of(__name__)

WRITES_A_TURN = 256
"""Connections with events that are written to before others have their turn: about a millisecond, so that a call
does not wait until thousands of subscribers have been served."""

JOINED = 16 * 1024
"""Bytes of events that are joined at most: an outbox counts what is joined as one message."""


class Owner(Protocol):
    """The connection that an outbox belongs to."""

    def too_slow(self, why: str) -> None:
        """More bytes wait than the bound allows; the outbox takes nothing more."""

    def events_dropped(self, count: int, why: str) -> None:
        """Count events that have just been dropped."""

    def peer_gone(self) -> None:
        """The peer has closed its side, and something was to be written to it."""

    def write_failed(self, error: Exception) -> None:
        """Writing raised an unexpected exception; the connection must end."""


class Receiver(Protocol):
    """Receives the events for a connection: its outbox, or a stand-in."""

    @property
    def owner(self) -> Owner:
        """The connection."""

    def send_events(self, frames: bytes, count: int) -> None:
        """Queue `count` events, whole frames one behind the other, without waiting."""


class Outgoing(Protocol):
    """An outbox, as far as it is flushed."""

    @property
    def owner(self) -> Owner:
        """The connection."""

    def flush(self) -> None:
        """Write what was sent."""


class Flusher:
    """Writes what all connections sent in one turn of the loop.

    Answers leave at the end of the turn; connections that have only events take turns with everything else that the
    loop does. Events of one topic that follow each other are joined once for all its subscribers, and queued at each
    by `distribute`. That must be called before a subscriber is added or removed, and before anything else is queued
    at one: else an event reaches those who were not subscribed when it was published, or comes after a later answer.

    Attributes:
        events: Frames that were published and are not queued at their subscribers yet.
        waiting: The outboxes that have events alone and are flushed in turn; call `schedule` after adding one.
    """

    __slots__ = ("_audience", "_loop", "_scheduled", "_size", "_urgent", "events", "waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._urgent: list[Outgoing] = []
        self.waiting: deque[Outgoing] = deque()
        self._audience: Mapping[str, Receiver] = {}
        self.events: list[bytes] = []
        self._size = 0

    def publish(self, audience: Mapping[str, Receiver], text: bytes) -> None:
        """Send an event to all subscribers of a topic."""
        frame = text_frame(text)
        if self.events and (audience is not self._audience or self._size + len(frame) > JOINED):
            self.distribute()
        self._audience = audience
        self.events.append(frame)
        self._size += len(frame)
        if not self._scheduled:
            self.schedule()

    def publish_to(self, receivers: Iterable[Receiver], text: bytes) -> None:
        """Send an event to some subscribers of a topic."""
        if self.events:
            self.distribute()
        frame = text_frame(text)
        for receiver in receivers:
            receiver.send_events(frame, 1)
        if not self._scheduled:
            self.schedule()

    def distribute(self) -> None:
        """Queue pending events at each subscriber. Call before changing a topic's subscribers."""
        events = self.events
        if events:
            self.events = []
            self._size = 0
            count = len(events)
            frames = events[0] if count == 1 else b"".join(events)
            for receiver in self._audience.values():
                try:
                    receiver.send_events(frames, count)
                except Exception as error:
                    _end_failed(receiver.owner, error)

    def schedule(self) -> None:
        """Flush at the end of this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def soon(self, outbox: Outgoing) -> None:
        """Flush an outbox at the end of this turn."""
        self._urgent.append(outbox)
        if not self._scheduled:
            self.schedule()

    def _flush(self) -> None:
        self._scheduled = False
        self.distribute()
        urgent, self._urgent = self._urgent, []
        for outbox in urgent:
            try:
                outbox.flush()
            except Exception as error:
                _end_failed(outbox.owner, error)
        waiting = self.waiting
        for _ in range(min(len(waiting), WRITES_A_TURN)):
            outbox = waiting.popleft()
            try:
                outbox.flush()
            except Exception as error:
                _end_failed(outbox.owner, error)
        if waiting:
            self.schedule()


def _end_failed(owner: Owner, error: Exception) -> None:
    """End the one connection that could not be written to; what the others were sent must leave."""
    try:
        owner.write_failed(error)
    except Exception:
        logger.exception("a connection that could not be written to could not be ended either")
