"""Counters since the start of the app."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counts that only grow, from one start of the app to its stop; read them from `app.counters`.

    Attributes:
        connections: Connections that were welcomed.
        refused: Handshakes that were answered with an HTTP error.
        malformed: Messages and frames that broke WAMP v1 or WebSocket.
        slow_readers: Connections that were cut because their unsent bytes exceeded `Limits.queue`.
        events_dropped: Events that were dropped for slow readers, with `Limits(slow_reader="drop")`.
        over_limit: Messages that were refused because of a bound in `Limits`.
        logins: Logins by WAMP-CRA that succeeded, anonymous ones too.
        failed_logins: Logins that failed: a wrong signature or an unknown authkey.
        throttled_logins: Logins that were refused without a check, since too many had failed before.
    """

    connections: int = 0
    refused: int = 0
    malformed: int = 0
    slow_readers: int = 0
    events_dropped: int = 0
    over_limit: int = 0
    logins: int = 0
    failed_logins: int = 0
    throttled_logins: int = 0
