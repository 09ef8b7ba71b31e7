"""Outboxes that drop events for slow readers or compress frames, and the choice between them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

from ..protocol.websocket import deflate
from .outbox import UNDECIDED, UNREAD, Flusher, Outbox, Owner, PendingOutbox
from .sockets import buffered_bytes

__all__ = ["DeflatingOutbox", "make_outbox"]

HANDFUL = 64 * 1024
"""Bytes that a dropping outbox writes to the transport at a time."""

RETRY = 0.02
"""Seconds between two attempts of a dropping outbox to write to a slow reader."""


class DroppingOutbox(Outbox):
    """An outbox that drops the oldest events beyond its bound; the connection is cut only if answers alone exceed it.

    Frames wait here, where they can still be dropped: the transport gets more only when its buffer is empty.
    """

    __slots__ = ("_dropped", "_kept", "_kept_bytes", "_retry")

    def __init__(self, owner: Owner, flusher: Flusher, bound: int) -> None:
        super().__init__(owner, flusher, bound)
        self._kept: deque[tuple[bytes, int]] = deque()  # frames, and their number of events: 0 for an answer
        self._kept_bytes = 0
        self._dropped = 0
        self._retry: asyncio.TimerHandle | None = None

    def send(self, frame: bytes) -> None:
        if self._flusher.events:
            self._flusher.distribute()
        if self._keep(frame, 0) and not self._marked:
            self._marked = True
            self._flusher.soon(self)

    def send_events(self, frames: bytes, count: int) -> None:
        alone = not self._kept
        if self._keep(frames, count) and alone:
            self._flusher.waiting.append(self)

    def _keep(self, frames: bytes, count: int) -> bool:
        if self.closed:
            return False
        self._kept.append((frames, count))
        self._kept_bytes += len(frames)
        if self.unsent > self.bound:
            self._make_room()
        return not self.closed

    def flush(self) -> None:
        self._marked = False
        transport = self._transport
        if transport is None:
            return
        if transport.is_closing():
            self._kept.clear()
            self._kept_bytes = 0
            self.owner.peer_gone()
        while self._kept and not buffered_bytes(transport):
            transport.write(self._next(HANDFUL))
        if self._kept and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._flusher.soon(self)

    def _next(self, size: int) -> bytes:
        """About `size` bytes of the waiting frames, oldest first."""
        taken: list[bytes] = []
        while self._kept and size > 0:
            frames, _ = self._kept.popleft()
            taken.append(frames)
            size -= len(frames)
            self._kept_bytes -= len(frames)
        data = b"".join(taken)
        self._given += len(data)
        return data

    def _make_room(self) -> None:
        """Drop the oldest events, never the newest, and an eighth of the bound more, so that it is rarely done."""
        self.flush()
        excess = self.unsent - self.bound
        if excess <= 0 or not self._kept:
            return
        excess += self.bound // 8
        kept, self._kept = self._kept, deque()
        newest = kept.pop()
        dropped = 0
        for frames, count in kept:
            if excess > 0 and count:
                excess -= len(frames)
                dropped += count
                self._kept_bytes -= len(frames)
            else:
                self._kept.append((frames, count))
        self._kept.append(newest)
        if dropped:
            self.count_dropped(dropped, UNREAD)
        given = self.unsent - self._kept_bytes
        if given > self.bound:
            given = (
                0  # a single frame larger than the bound is being written, perhaps an event: no sign of a slow reader
            )
        if self._kept_bytes + given - len(newest[0]) > self.bound:
            self.closed = True
            self.owner.too_slow(UNREAD)

    @property
    def unsent(self) -> int:
        buffered = buffered_bytes(self._transport) if self._transport is not None else 0
        return buffered + self._kept_bytes

    @property
    def dropped(self) -> int:
        return self._dropped

    def pending(self) -> PendingOutbox:
        return _PendingDroppingOutbox(self)

    def count_dropped(self, count: int, why: str) -> None:
        """Count dropped events."""
        self._dropped += count
        self.owner.events_dropped(count, why)

    def close(self) -> None:
        self.closed: bool = True
        if self._transport is not None and self._kept and not self._transport.is_closing():
            self._transport.write(self._next(self._kept_bytes))

    def forget(self) -> None:
        super().forget()
        self._kept.clear()
        self._kept_bytes = 0
        if self._retry is not None:
            self._retry.cancel()


class _PendingDroppingOutbox(PendingOutbox):
    """The same for a dropping outbox: drops the oldest events beyond the bound."""

    __slots__ = ()

    _outbox: DroppingOutbox

    def _overflow(self) -> None:
        dropped = 0
        while self._excess > 0 and self._events:
            frames, count = self._events.popleft()
            self._size -= len(frames)
            dropped += count
        if dropped:
            self._outbox.count_dropped(dropped, UNDECIDED)


class DeflatingOutbox(Outbox):
    """An outbox for a connection that negotiated compression.

    Args:
        owner: As in `Outbox`.
        flusher: As in `Outbox`.
        bound: As in `Outbox`, in bytes after compression.
        window: The negotiated window size in bits.
    """

    __slots__ = ()

    _window: int

    def __init__(self, owner: Owner, flusher: Flusher, bound: int, window: int) -> None:
        super().__init__(owner, flusher, bound)
        self._window = window  # type: ignore[misc]  # a slot of the classes that are made

    def send(self, frame: bytes) -> None:
        super().send(deflate(frame, self._window))

    def send_events(self, frames: bytes, count: int) -> None:
        super().send_events(deflate(frames, self._window), count)


class _Deflating(DeflatingOutbox):
    __slots__ = ("_window",)


class _DeflatingDropping(DeflatingOutbox, DroppingOutbox):
    __slots__ = ("_window",)


def make_outbox(
    owner: Owner, flusher: Flusher, bound: int, slow_reader: Literal["close", "drop"], window: int
) -> Outbox:
    """Make the outbox for a policy towards slow readers, compressing or not.

    Args:
        owner: As in `Outbox`.
        flusher: As in `Outbox`.
        bound: As in `Outbox`.
        slow_reader: As in `Limits`.
        window: The window size in bits if compression was negotiated, else 0.
    """
    if window:
        return (_DeflatingDropping if slow_reader == "drop" else _Deflating)(owner, flusher, bound, window)
    return (DroppingOutbox if slow_reader == "drop" else Outbox)(owner, flusher, bound)
