"""Filters for the logs of aiohttp and asyncio, for servers that strangers can reach.

aiohttp logs a traceback, and the client's bytes, for each request that is not HTTP: a port scan fills the log. Its
access log holds each request's query, which may be a ticket. asyncio logs hundreds of tracebacks a second while clients
connect and the process has no file descriptor left.
"""

from __future__ import annotations

import logging
import math
import re
import resource
import time
from typing import Any
from urllib.parse import unquote_plus

from aiohttp.http_exceptions import HttpProcessingError

from ..errors import quote
from .logs import LogThrottle, logger_of

__all__ = ["log_accept_error", "quiet_accept_errors", "quiet_http_errors", "redact_query_parameter"]

logger: logging.Logger = logger_of(__name__)


class _InvalidRequestFilter(logging.Filter):
    """Replaces the records of requests that are not HTTP by throttled lines with their count."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle(logger)

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        first = str(error.message).strip().splitlines()[:1]
        text = f"a request that is no HTTP: {quote(first[0] if first else error.code)}"
        self._throttle.add("http", text, level=logging.INFO)
        return False


def quiet_http_errors() -> None:
    """Filter aiohttp's server log, once in a process."""
    target = logging.getLogger("aiohttp.server")
    if not any(isinstance(each, _InvalidRequestFilter) for each in target.filters):
        target.addFilter(_InvalidRequestFilter())


ACCEPT_PAUSE = 1.0
"""Seconds between two lines about clients that cannot be accepted; asyncio tries again after the same time."""


class _AcceptErrorFilter(logging.Filter):
    """Replaces asyncio's records of clients that it cannot accept by one line a second."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith("socket.accept() out of system resource"):
            error = record.exc_info[1] if record.exc_info else None
            log_accept_error(error if isinstance(error, OSError) else None)
            return False
        # The socket was closed while asyncio waited to try again.
        return not ("_start_serving" in text and record.exc_info and "file descriptor: -1" in str(record.exc_info[1]))


_accept_errors = _AcceptErrorFilter()

_last_line = -math.inf


def log_accept_error(error: OSError | None) -> None:
    """Log that no client can be accepted, once a second at most; from any thread.

    Args:
        error: The system's error, if known.
    """
    global _last_line
    now = time.monotonic()
    if now - _last_line < ACCEPT_PAUSE:
        return
    _last_line = now
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    logger.error(
        "no further client can be taken in: %s (this process may have %d files and sockets open); raise `ulimit -n`, "
        "or let Limits(connections=...) stay below it",
        (error.strerror if error is not None else None) or "the system is out of resources",
        limit,
    )


def quiet_accept_errors() -> None:
    """Filter asyncio's log, once in a process."""
    target = logging.getLogger("asyncio")
    if _accept_errors not in target.filters:
        # Before other filters, which would format each of thousands of records.
        target.filters.insert(0, _accept_errors)


class _RedactingFilter(logging.Filter):
    """Replaces the values of some query parameters by `***`, wherever a record holds them.

    Attributes:
        parameters: Their names.
    """

    _PAIR = re.compile(r'([?&]([^=&?\s"]+)=)[^&\s"]*')

    def __init__(self) -> None:
        super().__init__()
        self.parameters: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in list(vars(record).items()):
            vars(record)[name] = self._redacted(value)
        return True

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._PAIR.sub(self._redact, value) if "=" in value else value
        if isinstance(value, tuple):
            return tuple(self._redacted(each) for each in value)
        if isinstance(value, dict):
            return {key: self._redacted(each) for key, each in value.items()}
        return value

    def _redact(self, pair: re.Match[str]) -> str:
        return f"{pair[1]}***" if unquote_plus(pair[2]) in self.parameters else pair[0]


_redacting = _RedactingFilter()


def redact_query_parameter(parameter: str) -> None:
    """Keep the values of a query parameter out of the access logs of aiohttp and gunicorn, until the process ends.

    The line of a WebSocket is written when it closes, which may be after the app has stopped.
    """
    _redacting.parameters.add(parameter)
    for name in ("aiohttp.access", "gunicorn.access"):
        target = logging.getLogger(name)
        if _redacting not in target.filters:
            target.addFilter(_redacting)
