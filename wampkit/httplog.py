"""What aiohttp logs of clients that speak no HTTP, made fit for a public port.

aiohttp writes an error with a traceback, and what the client sent, for each such request: a port scan fills the log.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

from .complaints import Complaints
from .errors import quote

__all__ = ["quiet_http_errors"]


class _NoHttp(logging.Filter):
    """Turns those records into complaints: the first in one line, the rest as a count."""

    def __init__(self) -> None:
        super().__init__()
        self._complaints = Complaints("requests that are no HTTP")

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        first = str(error.message).strip().splitlines()[:1]
        self._complaints.add("http", quote(first[0] if first else error.code), level=logging.INFO)
        return False


def quiet_http_errors() -> None:
    """Let aiohttp's server log go through the filter, once a process."""
    target = logging.getLogger("aiohttp.server")
    if not any(isinstance(each, _NoHttp) for each in target.filters):
        target.addFilter(_NoHttp())
