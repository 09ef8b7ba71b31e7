"""Why somebody was not let in: as much as the client may know, and all of it for the log."""

from __future__ import annotations

import logging

from aiohttp import web

from .errors import quote
from .flood import Allowance

__all__ = ["RefusalLog", "Refused"]

logger = logging.getLogger("wampkit")

PAUSE = 5.0
"""Seconds between two lines about refusals of one kind: a peer can be refused thousands of times a second."""

MOST_KINDS = 64


class Refused(web.HTTPForbidden):
    """HTTP 403 for a handshake; raise it in a middleware's `connect`.

    Args:
        text: What the client reads.
        why: What the log says besides, with whatever the peer sent already quoted. No secrets.
    """

    def __init__(self, text: str, why: str = "") -> None:
        super().__init__(text=text)
        self.why = why


class RefusalLog:
    """A line at level info about refused handshakes: the first of each kind at once, then one now and then."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, str | None], _Kind] = {}

    def add(self, remote: str | None, refusal: web.HTTPException) -> None:
        """Write that a client was refused, and why, or count it."""
        name: tuple[int, str | None] = (refusal.status, refusal.text)
        if name not in self._kinds and len(self._kinds) >= MOST_KINDS:
            name = (0, None)
        kind = self._kinds.setdefault(name, _Kind())
        if not kind.allowance.take():
            kind.hidden += 1
            return
        why = getattr(refusal, "why", "")
        more = f"; {kind.hidden} more were refused so" if kind.hidden else ""
        kind.hidden = 0
        who = quote(remote or "a unix socket", 64)
        reason = f"{refusal.text} ({why})" if why else refusal.text
        logger.info("refused %s with HTTP %d: %s%s", who, refusal.status, reason, more)

    def close(self) -> None:
        """Write how many refusals were not written."""
        hidden = sum(kind.hidden for kind in self._kinds.values())
        if hidden:
            logger.info("%d further handshakes were refused for the same reasons", hidden)
        self._kinds.clear()


class _Kind:
    __slots__ = ("allowance", "hidden")

    def __init__(self) -> None:
        self.allowance = Allowance(1 / PAUSE, 1)
        self.hidden = 0
