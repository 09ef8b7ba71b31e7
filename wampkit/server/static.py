"""Static text files from memory, with gzip and ETag, and the browser's client among them."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from ..telemetry.source_files import PACKAGE

__all__ = ["JAVASCRIPT", "STATIC", "TextFile", "serve_javascript"]


class TextFile:
    """A text, and the aiohttp handler that answers with it.

    Browsers revalidate it each time, for a 304 without a body: after an update none keeps an old copy.

    Args:
        text: The text.
        content_type: The content type without the charset.
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


STATIC = Path(PACKAGE) / "javascript"

JAVASCRIPT = "text/javascript"


def serve_javascript(web_app: web.Application, path: str, ident: str) -> None:
    """Serve the client below the socket's path: `wampkit.js`, `wampkit.global.js` for a plain script, `wampkit.d.ts`.

    They are public and tell nothing of the app, so that no gate is asked.
    """
    module = (STATIC / "wampkit.js").read_text(encoding="utf-8")
    types = (STATIC / "wampkit.d.ts").read_text(encoding="utf-8")
    # Pages of other sites may load it: what they may do with it, the socket's gates decide.
    headers = {"Server": ident, "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
    below = path.rstrip("/")
    web_app.router.add_get(f"{below}/wampkit.js", TextFile(module, JAVASCRIPT, headers).serve)
    web_app.router.add_get(f"{below}/wampkit.global.js", TextFile(as_script(module), JAVASCRIPT, headers).serve)
    web_app.router.add_get(f"{below}/wampkit.d.ts", TextFile(types, "text/plain", headers).serve)


def as_script(module: str) -> str:
    """The module as a plain script that puts its exports into the global `wampkit`, as `javascript/global.mjs` does."""
    body = module.replace("\nexport {", "\nglobalThis.wampkit = {", 1)
    return f'(() => {{\n"use strict";\n{body}}})();\n'
