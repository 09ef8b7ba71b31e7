"""Log lines that no peer can forge, break or repeat without limit.

Each room of the package has its logger below `wampkit`, such as `wampkit.access`, so that one can be turned down. A
record stays one line, also with names that clients chose, texts of an app's own errors, and exceptions in it: the
filter of the logger sees it before any handler does. So this is the one place where loggers are made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable
from typing import Any

from ..errors import escape

__all__ = [
    "KIND",
    "MAX_KINDS",
    "MAX_KINDS_IN_DEBUG",
    "LogThrottle",
    "PeerLog",
    "logger_of",
    "make_safe",
    "set_level",
]

MAX_LINE = 4096
"""Characters of one line; a client's message may be a MiB, and an app may repeat it."""

MAX_TRACEBACK = 65_536
"""Characters of a traceback; of a longer one the middle is left out."""

_format = logging.Formatter().formatException


class _Safe(logging.Filter):
    """Makes each record one line; rejects none."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:
            return True  # the handlers report it
        safe = _line(text)
        if safe != text:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = _indented(_format(record.exc_info))
        return True


def _line(text: str) -> str:
    if len(text) > MAX_LINE:
        text = f"{text[:MAX_LINE]}… ({len(text)} characters)"
    return escape(text)


def _indented(trace: str) -> str:
    """A traceback whose lines all begin with spaces: none of them can be taken for a line of the log."""
    if len(trace) > MAX_TRACEBACK:
        half = MAX_TRACEBACK // 2
        trace = f"{trace[:half]}\n… ({len(trace) - 2 * half} characters left out) …\n{trace[-half:]}"
    return "\n".join(f"  {_line(line)}" for line in trace.split("\n"))


_safe = _Safe()


def make_safe(*names: str) -> None:
    """Make each record of other loggers one line too."""
    for name in names:
        logging.getLogger(name).addFilter(_safe)


def set_level(name: str, level: str) -> None:
    """Set the level of a logger and of those below it, such as "WARNING"."""
    logging.getLogger(name).setLevel(level)


def logger_of(module: str) -> logging.Logger:
    """The logger of a module's room: that of `wampkit.connection.outbox` is `wampkit.connection`.

    Args:
        module: The module's `__name__`.
    """
    logger = logging.getLogger(".".join(module.split(".")[:2]))
    logger.addFilter(_safe)  # once, as filters are a set
    return logger


# ---- how often

PAUSE = 5.0
"""Seconds in which lines of one kind are counted instead of written; it doubles with each line that is written."""

MAX_PAUSE = 300.0

QUIET = 60.0
"""Seconds without a line after its pause until a kind is forgotten."""

MAX_KINDS = 32
"""Kinds of one owner that are counted separately; further ones are counted together."""

MAX_KINDS_IN_DEBUG = 1000
"""The same for an app with debug=True, which shows each different mistake."""

MAX_OWNERS = 500

_OTHERS = object()

KIND = 200
"""Characters of a text that distinguish its kind."""


class LogThrottle:
    """Writes the first line of each kind at once, and later ones at growing intervals with the number left out.

    A client can repeat a mistake thousands of times a second, also over new connections, and so fill the log. Lines are
    therefore counted by the address that causes them, with a bound on the memory for it.

    Args:
        logger: Writes the lines.
        kinds: Kinds of one owner that are counted separately.
    """

    def __init__(self, logger: logging.Logger, kinds: int = MAX_KINDS) -> None:
        self._logger = logger
        self._kinds = kinds
        self._owners: dict[Hashable, dict[Hashable, _Kind]] = {}

    def add(
        self,
        kind: Hashable,
        text: str,
        *,
        owner: str | None = None,
        level: int = logging.WARNING,
        error: BaseException | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Write a line, or only count it if one of its kind was written recently.

        Args:
            kind: A key of short texts: lines with the same kind count as repetitions.
            text: The line.
            owner: The address that caused it, as `networks.client_network` returns it; None for lines counted together.
            level: The logging level.
            error: An exception whose traceback belongs to the line.
            logger: Writes this kind in place of the throttle's own logger.
        """
        now = time.monotonic()
        self._kind(owner, kind, level, now, logger or self._logger).add(text, level, error, now)

    def close(self) -> None:
        """Write the lines that were only counted so far."""
        for kinds in self._owners.values():
            for each in kinds.values():
                each.write_rest()
        self._owners.clear()

    def _kind(self, owner: Hashable, name: Hashable, level: int, now: float, logger: logging.Logger) -> _Kind:
        kinds = self._of(owner, now)
        if name not in kinds and len(kinds) >= self._kinds:
            for each in [each for each, kind in kinds.items() if kind.is_quiet(now)]:
                del kinds[each]
            if len(kinds) >= self._kinds:
                # By level, so that mistakes of clients cannot hide an error of the app.
                return kinds.setdefault((_OTHERS, level), _Kind(self._logger, "of other kinds"))
        return kinds.setdefault(name, _Kind(logger, "like this"))

    def _of(self, owner: Hashable, now: float) -> dict[Hashable, _Kind]:
        kinds = self._owners.pop(owner, None)
        if kinds is None:
            if len(self._owners) >= MAX_OWNERS:
                oldest = next(iter(self._owners))
                if all(each.is_quiet(now) for each in self._owners[oldest].values()):
                    del self._owners[oldest]
                else:
                    owner = None
            kinds = self._owners.pop(owner, {})
        self._owners[owner] = kinds
        return kinds

    def __len__(self) -> int:
        """The number of kinds that are remembered."""
        return sum(map(len, self._owners.values()))


class _Kind:
    """The lines of one kind: when the next may be written, and the number of those since the last."""

    __slots__ = ("_due", "_hidden", "_last", "_logger", "_pause", "_what")

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._pause = PAUSE
        self._due = 0.0
        self._hidden = 0
        self._last: tuple[str, int] = ("", logging.WARNING)

    def add(self, text: str, level: int, error: BaseException | None, now: float) -> None:
        if now >= self._due:
            if now >= self._due + QUIET:
                self._pause = PAUSE
            hidden, self._hidden = self._hidden, 0
            self._write(text, level, hidden, now, error)
            return
        self._last = text[:MAX_LINE], level
        self._hidden += 1
        if self._hidden == 1:
            self._write_later(self._due - now)

    def is_quiet(self, now: float) -> bool:
        """Whether no line has come for `QUIET` seconds after the pause."""
        return not self._hidden and now >= self._due + QUIET

    def write_rest(self) -> None:
        """Write the last line with the number of those left out, if there are any."""
        if self._hidden:
            hidden, self._hidden = self._hidden, 0
            self._write(*self._last, hidden - 1, time.monotonic(), None)

    def _write_later(self, seconds: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # written with the next line of this kind, or by `close`
        loop.call_later(seconds, self.write_rest)

    def _write(self, text: str, level: int, more: int, now: float, error: BaseException | None) -> None:
        self._due = now + self._pause
        self._pause = min(self._pause * 2, MAX_PAUSE)
        trace: Any = (type(error), error, error.__traceback__) if error is not None else None
        self._logger.log(level, "%s%s", text, f" ({more} more {self._what})" if more else "", exc_info=trace)


class PeerLog:
    """The throttled log of one peer.

    Args:
        throttle: Shared by all peers; decides how often a line is written.
        subject: The beginning of each line.
        owner: The address by which lines are counted, as `networks.client_network` returns it.
        logger: Writes the lines in place of the throttle's own logger.
    """

    __slots__ = ("_logger", "_owner", "_subject", "_throttle")

    def __init__(
        self, throttle: LogThrottle, subject: str, owner: str | None, logger: logging.Logger | None = None
    ) -> None:
        self._logger = logger
        self._throttle = throttle
        self._subject = subject
        self._owner = owner

    def add(
        self, kind: Hashable, text: str, *, level: int = logging.WARNING, error: BaseException | None = None
    ) -> None:
        """Write a line, or count it; see `LogThrottle.add`."""
        text = f"{self._subject}: {text}"
        self._throttle.add(kind, text, owner=self._owner, level=level, error=error, logger=self._logger)
