"""The bounds that the server enforces, and the token bucket that enforces a rate."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Literal

from .errors import DeclarationError

__all__ = ["STORE_TIMEOUT", "Limits", "TokenBucket", "TokenBuckets", "is_positive"]

STORE_TIMEOUT = 5.0
"""Seconds in which a store of sessions or spent tickets must answer."""


def is_positive(value: object) -> bool:
    """Whether a value that an app gives is a number above 0; True is none, and neither is NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


class TokenBucket:
    """A rate limit: `rate` messages a second in the long run, `burst` of them at once.

    Args:
        rate: Messages a second in the long run.
        burst: Messages at once after a pause; None for those of one second, at least one.
    """

    __slots__ = ("_burst", "_filled", "_left", "_rate")

    def __init__(self, rate: float, burst: int | None) -> None:
        self._rate = rate
        self._burst = max(1.0, self._rate) if burst is None else float(burst)
        self._left = self._burst
        self._filled = time.monotonic()

    def take(self) -> bool:
        """Take a token; False if none is left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """Return one token."""
        self._left = min(self._burst, self._left + 1.0)

    @property
    def spent(self) -> bool:
        """Whether no token is left."""
        return self._left + (time.monotonic() - self._filled) * self._rate < 1.0


class TokenBuckets:
    """A token bucket for each name; the least recently used names are forgotten.

    Args:
        rate: As in `TokenBucket`.
        burst: As in `TokenBucket`.
        max_names: Names that are remembered.
    """

    def __init__(self, rate: float, burst: int, max_names: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max_names = max_names
        self._by_name: dict[Hashable, TokenBucket] = {}

    def take(self, name: Hashable) -> bool:
        """Take a token of this name; False if none is left."""
        bucket = self._by_name.pop(name, None)
        if bucket is None:
            if len(self._by_name) >= self._max_names:
                del self._by_name[next(iter(self._by_name))]
            bucket = TokenBucket(self._rate, self._burst)
        self._by_name[name] = bucket
        return bucket.take()

    def give_back(self, name: Hashable) -> None:
        """Return one token of this name."""
        bucket = self._by_name.get(name)
        if bucket is not None:
            bucket.give_back()

    def spent(self, name: Hashable) -> bool:
        """Whether no token of this name is left."""
        bucket = self._by_name.get(name)
        return bucket is not None and bucket.spent

    def __len__(self) -> int:
        return len(self._by_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds for one client and for all of them together: `App(limits=Limits(calls=100))`.

    Args:
        message_size: Bytes of the largest message; a larger one closes its connection with 1009. The default allows
            one MiB of arguments and 4 KiB for the rest of the message.
        nesting: How deep lists and objects of one message may nest, the message's own list included; deeper ones
            are malformed (1007).
        uri_length: Bytes of a URI, prefix expanded. A longer one is answered with the error kind `limit_exceeded`;
            in a PREFIX it closes the connection with 1008, since WAMP v1 has no answer to PREFIX.
        handshake_size: Bytes of the request line and the headers of a handshake, which are kept as long as the
            connection, as `Connection.request`; a larger one is refused with HTTP 431.
        prefixes: PREFIX messages with different names that one connection may send; one more closes it with 1008.
        prefixes_size: Bytes of those names and of their URIs together; beyond it the connection is closed as well.
        subscriptions: Topics that one connection may be subscribed to; further ones are refused.
        subscriptions_size: Bytes of their URIs together; beyond it further ones are refused as well.
        session_ids: Session ids that one PUBLISH may name in `exclude` and `eligible` together; more are refused.
        calls: Calls and topic messages of one connection that may run or wait for their turn. When the bound is
            reached, reading from it pauses until one has ended, so that TCP holds the client back.
        calls_size: Estimated bytes of memory of their messages; reading pauses beyond it as well. A text takes its own
            length, but lists, objects and numbers many times theirs.
        messages_per_second: Messages of one connection a second in the long run, or None for no limit.
            Every message counts, malformed and binary ones too, and is counted before it is decoded; PINGs, and
            PONGs that answer no ping, have a bucket of their own with the same rate and burst.
        burst: Messages that it may send at once after a pause; None for those of one second. Only with
            `messages_per_second`.
        flood: The effect of messages beyond that: "refuse" answers calls with the error kind
            `too_many_messages` and drops the rest with a line in the log, PREFIX and PING too; "close" closes the
            connection with 1008. Where compression was negotiated, "refuse" also reads no faster than the rate.
        threads_per_connection: Blocking functions (written with `def`) of one connection that run at once; None for a
            quarter of `App(threads=...)`. Its further calls wait while those of others run.
        queue: Bytes that may wait for a client that reads slowly; events that wait for `on_subscribe` to accept a
            subscription count too.
        slow_reader: The effect of exceeding `queue`: "close" cuts the client with `close_code` 4008, "drop" drops its
            oldest waiting events and keeps the connection, unless answers alone exceed the bound.
        thread_queue: Calls of blocking functions that may wait for a thread; further ones are refused with the error
            kind `busy`, except the first waiting one of a connection.
        connections: Connections in all, handshakes included, or None; more are refused with HTTP 503.
        connections_per_address: Connections from one IPv4 address or IPv6 network of /64, or None; more are refused
            with HTTP 429.
        handshake_timeout: Seconds that the middlewares may take over one handshake; then it is refused with HTTP 503.

    Raises:
        DeclarationError: A bound is below one, or no such policy exists.
    """

    # messages
    message_size: int = 1024 * 1024 + 4096
    nesting: int = 128
    uri_length: int = 1024
    # one connection
    handshake_size: int = 32 * 1024
    prefixes: int = 1_000
    prefixes_size: int = 64 * 1024
    subscriptions: int = 10_000
    subscriptions_size: int = 1024 * 1024
    session_ids: int = 1_000
    calls: int = 1_000
    calls_size: int = 8 * 1024 * 1024
    messages_per_second: float | None = None
    burst: int | None = None
    flood: Literal["refuse", "close"] = "refuse"
    threads_per_connection: int | None = None
    queue: int = 1024 * 1024
    slow_reader: Literal["close", "drop"] = "close"
    # all of them
    thread_queue: int = 10_000
    connections: int | None = None
    connections_per_address: int | None = None
    handshake_timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.flood not in ("refuse", "close"):
            raise DeclarationError(f"Limits: flood is 'refuse' or 'close', not {self.flood!r}")
        if self.slow_reader not in ("close", "drop"):
            raise DeclarationError(f"Limits: slow_reader is 'close' or 'drop', not {self.slow_reader!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("flood", "slow_reader"):
                continue
            may_be_none = field.default is None
            if value is None and may_be_none:
                continue
            least = 0 if field.name in ("messages_per_second", "handshake_timeout") else 1
            if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= least and value > 0):
                wanted = "a number above 0" + (" or None" if may_be_none else "")
                raise DeclarationError(f"Limits: {field.name} is {wanted}, not {value!r}")
        if self.burst is not None and self.messages_per_second is None:
            raise DeclarationError("Limits: burst means nothing without messages_per_second")
