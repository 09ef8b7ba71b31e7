"""Files that are served from memory: read once, packed once, and answered with 304 to whom has them already."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping

from aiohttp import web

__all__ = ["TextFile"]


class TextFile:
    """A text, and the aiohttp handler that answers with it.

    It is asked for each time, which costs an answer without a body: after an update nobody keeps an old one.

    Args:
        text: The text.
        content_type: What it is, without the charset.
        headers: Further headers of its answers.
    """

    def __init__(self, text: str, content_type: str, headers: Mapping[str, str]) -> None:
        plain = text.encode()
        name = hashlib.sha256(plain).hexdigest()[:32]
        # Of each form its own ETag: a strong one promises the same bytes.
        self._plain = plain, name
        self._packed = gzip.compress(plain, 9, mtime=0), f"{name}-gzip"
        self._headers = {
            "Content-Type": f"{content_type}; charset=utf-8",
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }

    async def serve(self, request: web.Request) -> web.Response:
        """Answer a request."""
        packed = _takes_gzip(request.headers.get("Accept-Encoding", ""))
        body, etag = self._packed if packed else self._plain
        headers = {**self._headers, "ETag": f'"{etag}"'}
        if any(known.value in (etag, "*") for known in request.if_none_match or ()):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether gzip is listed, and not with a weight of 0."""
    for each in accepted.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight == "" or weight.strip("0.") != ""
    return False
