"""What aiohttp and asyncio log, made fit for a public port.

aiohttp writes an error with a traceback, and what the client sent, for each request that is no HTTP: a port scan fills
the log. And its access log shows each request's query, which may hold a ticket. asyncio writes hundreds of tracebacks a
second while clients come and no descriptor is left.
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

__all__ = ["quiet_accept_errors", "quiet_http_errors", "redact_query_parameter", "tell_of_descriptors"]

logger = logger_of(__name__)


class _NoHttp(logging.Filter):
    """Turns those records into one line now and then, with their count."""

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
    """Let aiohttp's server log go through the filter, once a process."""
    target = logging.getLogger("aiohttp.server")
    if not any(isinstance(each, _NoHttp) for each in target.filters):
        target.addFilter(_NoHttp())


ACCEPT_PAUSE = 1.0
"""Seconds between two lines about clients that cannot be taken in: as long does asyncio wait until it tries again."""


class _NoDescriptors(logging.Filter):
    """Turns what asyncio logs when it cannot accept a client into a line a second."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith("socket.accept() out of system resource"):
            error = record.exc_info[1] if record.exc_info else None
            tell_of_descriptors(error if isinstance(error, OSError) else None)
            return False
        # The socket was closed while asyncio waited to try again.
        return not ("_start_serving" in text and record.exc_info and "file descriptor: -1" in str(record.exc_info[1]))


_no_descriptors = _NoDescriptors()

_told = -math.inf


def tell_of_descriptors(error: OSError | None) -> None:
    """Log that no client can be taken in, once a second at most; from any thread.

    Args:
        error: What the system says.
    """
    global _told
    now = time.monotonic()
    if now - _told < ACCEPT_PAUSE:
        return
    _told = now
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    logger.error(
        "no further client can be taken in: %s (this process may have %d files and sockets open); raise `ulimit -n`, "
        "or let Limits(connections=...) stay below it",
        (error.strerror if error is not None else None) or "the system is out of resources",
        limit,
    )


def quiet_accept_errors() -> None:
    """Let asyncio's log go through the filter, once a process."""
    target = logging.getLogger("asyncio")
    if _no_descriptors not in target.filters:
        # Before others, which would make each of thousands of records fit to be written.
        target.filters.insert(0, _no_descriptors)


class _Blots(logging.Filter):
    """Puts `***` in the place of the values of some query parameters, however a record holds them.

    Attributes:
        parameters: Their names.
    """

    _PAIR = re.compile(r'([?&]([^=&?\s"]+)=)[^&\s"]*')

    def __init__(self) -> None:
        super().__init__()
        self.parameters: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in list(vars(record).items()):
            vars(record)[name] = self._without(value)
        return True

    def _without(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._PAIR.sub(self._blot, value) if "=" in value else value
        if isinstance(value, tuple):
            return tuple(self._without(each) for each in value)
        if isinstance(value, dict):
            return {key: self._without(each) for key, each in value.items()}
        return value

    def _blot(self, pair: re.Match[str]) -> str:
        return f"{pair[1]}***" if unquote_plus(pair[2]) in self.parameters else pair[0]


_blots = _Blots()


def redact_query_parameter(parameter: str) -> None:
    """Keep the values of a query parameter out of aiohttp's access log, and gunicorn's, from now on.

    It is not taken back: the line of a socket is written after its end, which may be after that of the app.
    """
    _blots.parameters.add(parameter)
    for name in ("aiohttp.access", "gunicorn.access"):
        target = logging.getLogger(name)
        if _blots not in target.filters:
            target.addFilter(_blots)
