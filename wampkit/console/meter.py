"""Counts and times the messages of a running app for its console; an app without one has no meter."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any

from ..concurrency.cancellation import must_propagate
from ..dispatch.middleware import Call, CallNext, Incoming, Publish
from ..errors import WampError
from ..pubsub.broker import Deliver, Publication
from ..pubsub.registry import TopicRegistry

__all__ = ["Failure", "Figures", "Meter", "as_text"]

MAX_SAMPLES = 10_000
"""Calls of one interval that are timed; the others are only counted."""

MAX_FAILURES = 100
"""Failures that are kept, the newest."""

MAX_CHARACTERS = 500
"""Characters of a URI or a text that are kept."""

MAX_TRACEBACK = 50_000
"""Characters at the end of a traceback that are kept."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one interval.

    Attributes:
        time: When it ended, in seconds since 1970.
        calls: Calls that ended.
        failures: Calls and topic messages that ended with an error.
        publishes: PUBLISH messages of clients.
        events: Publications that reached this process, its own included.
        sent: EVENT messages that they became, one for each subscriber.
        p50: Milliseconds, the median of the calls; None without calls.
        p99: Milliseconds, the 99th percentile of the calls; None without calls.
    """

    time: float
    calls: int
    failures: int
    publishes: int
    events: int
    sent: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that ended with an error.

    Attributes:
        number: Counts the failures since the start, from 1.
        time: When, in seconds since 1970.
        message: "call", "subscribe", "unsubscribe" or "publish".
        route: The URI as it was declared, or "(unknown)".
        uri: The full URI that the client asked for.
        error: The error URI, or the class of an unexpected exception.
        description: Its text; empty for an unexpected one, unless the app is in debug.
        user: The client's user, as text, or None.
        connection: The client's session id.
        traceback: The traceback of an unexpected exception if the app is in debug, else None.
    """

    number: int
    time: float
    message: str
    route: str
    uri: str
    error: str
    description: str
    user: str | None
    connection: str
    traceback: str | None


class Meter:
    """Counts and times messages: its method `message` is the outermost middleware.

    Args:
        debug: Whether failures are kept with texts and tracebacks.

    Attributes:
        failed: How many messages have failed since the start.
    """

    def __init__(self, *, debug: bool) -> None:
        self.failed: int = 0
        self._debug = debug
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES)
        self._reset()

    def _reset(self) -> None:
        self._calls = self._failed_now = self._publishes = self._events = self._sent = 0
        self._seconds: list[float] = []

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        """Pass a message on; count it, and record its failure."""
        began = time.perf_counter()
        try:
            return await call_next(message)
        except BaseException as error:
            if not must_propagate(error) or isinstance(error, asyncio.CancelledError):
                self._record(message, error)
            raise
        finally:
            if isinstance(message, Call):
                self._calls += 1
                if len(self._seconds) < MAX_SAMPLES:
                    self._seconds.append(time.perf_counter() - began)
            elif isinstance(message, Publish):
                self._publishes += 1

    def counting(self, registry: TopicRegistry) -> Deliver:
        """A function that delivers publications to the subscribers and counts them."""

        def deliver(publication: Publication) -> None:
            self._events += 1
            self._sent += registry.count(publication.topic)
            registry.deliver(publication)

        return deliver

    def take_figures(self) -> Figures:
        """The figures since the last call."""
        seconds = sorted(self._seconds)
        figures = Figures(
            time=time.time(),
            calls=self._calls,
            failures=self._failed_now,
            publishes=self._publishes,
            events=self._events,
            sent=self._sent,
            p50=_quantile(seconds, 0.5),
            p99=_quantile(seconds, 0.99),
        )
        self._reset()
        return figures

    def failures(self) -> list[Failure]:
        """The failures that are kept, the newest first."""
        return list(reversed(self._failures))

    def _record(self, message: Incoming, error: BaseException) -> None:
        self.failed += 1
        self._failed_now += 1
        user = message.connection.user
        kind, description, trace = self._describe(error)
        self._failures.append(
            Failure(
                number=self.failed,
                time=time.time(),
                message=type(message).__name__.lower(),
                route=message.name,
                uri=message.uri[:MAX_CHARACTERS],
                error=as_text(kind),
                description=as_text(description),
                user=None if user is None else as_text(user),
                connection=message.connection.id,
                traceback=trace,
            )
        )

    def _describe(self, error: BaseException) -> tuple[object, object, str | None]:
        """The parts of an error that may be shown: its URI or class, its text (of any type), and its traceback."""
        if isinstance(error, WampError):
            return error.uri, error.description, None
        if isinstance(error, asyncio.CancelledError):
            return "cancelled", "it took longer than its timeout, or its client left", None
        name = type(error).__qualname__
        if not self._debug:
            return name, "", None
        trace = "".join(traceback.format_exception(error))
        return name, error, _as_utf8(trace[-MAX_TRACEBACK:])


def as_text(value: object) -> str:
    """The beginning of `str(value)`, or the name of its class if that raises."""
    try:
        return _as_utf8(str(value)[:MAX_CHARACTERS])
    except Exception:
        return f"({type(value).__qualname__})"


def _as_utf8(text: str) -> str:
    """The text with lone surrogates escaped, which UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()


def _quantile(ordered: list[float], share: float) -> float | None:
    """The value, in milliseconds, that a share of the values does not exceed."""
    if not ordered:
        return None
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000
