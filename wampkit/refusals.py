"""Why somebody was not let in: as much as the client may know, and all of it for the log."""

from __future__ import annotations

import logging

from aiohttp import web

from .errors import quote
from .logs import KIND, LogThrottle

__all__ = ["Refused", "log_refusal"]


class Refused(web.HTTPForbidden):
    """HTTP 403 for a handshake; raise it in a middleware's `connect`.

    Args:
        text: What the client reads.
        why: What the log says besides, with whatever the peer sent already quoted. No secrets.
    """

    def __init__(self, text: str, why: str = "") -> None:
        super().__init__(text=text)
        self.why = why


def log_refusal(throttle: LogThrottle, remote: str | None, refusal: web.HTTPException) -> None:
    """Write at level info that a client was refused, and why, or count it for all that are refused so."""
    text, why = refusal.text or "", getattr(refusal, "why", "")
    reason = f"{text} ({why})" if why else text
    who = quote(remote or "a unix socket", 64)
    throttle.add(
        ("refused", refusal.status, text[:KIND]),
        f"refused {who} with HTTP {refusal.status}: {reason}",
        level=logging.INFO,
    )
