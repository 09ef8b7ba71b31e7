"""Settings and services that all connections of a running app share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..concurrency.eager import EagerTasks
from ..concurrency.threads import ThreadPools
from ..limits import Limits
from ..telemetry.counters import Counters
from ..telemetry.logs import LogThrottle, logger_of
from .flusher import Flusher

if TYPE_CHECKING:
    from .connection import Connection
    from .registry import Users

__all__ = ["ConnectionContext", "ConnectionOptions"]

logger = logger_of(__name__)


class ConnectionOptions(Protocol):
    """The options of an app that its connections read; see `App` for each."""

    @property
    def malformed(self) -> Literal["close", "ignore"]: ...

    @property
    def keepalive(self) -> float | None: ...

    @property
    def close_timeout(self) -> float: ...


def _forget(error: BaseException, connection: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """Settings and services that all connections of a running app share.

    Attributes:
        report: Tells the app's `on_error` hooks of an exception and its connection; does not wait.
    """

    options: ConnectionOptions
    limits: Limits
    counters: Counters
    threads: ThreadPools
    users: Users[Connection]
    report: Callable[[BaseException, Any], None] = _forget
    flusher: Flusher = field(default_factory=Flusher)
    eager: EagerTasks = field(default_factory=EagerTasks)
    throttle: LogThrottle = field(default_factory=lambda: LogThrottle(logger))
