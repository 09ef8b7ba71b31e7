"""What aiohttp logs, made fit for a public port.

aiohttp writes an error with a traceback, and what the client sent, for each request that is no HTTP: a port scan fills
the log. And its access log shows each request's query, which may hold a ticket.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote_plus

from aiohttp.http_exceptions import HttpProcessingError

from .errors import quote
from .logs import LogThrottle

__all__ = ["blot_out", "quiet_http_errors"]


class _NoHttp(logging.Filter):
    """Turns those records into one line now and then, with their count."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle()

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


def blot_out(parameter: str) -> None:
    """Keep the values of a query parameter out of aiohttp's access log, and gunicorn's, from now on.

    It is not taken back: the line of a socket is written after its end, which may be after that of the app.
    """
    _blots.parameters.add(parameter)
    for name in ("aiohttp.access", "gunicorn.access"):
        target = logging.getLogger(name)
        if _blots not in target.filters:
            target.addFilter(_blots)
