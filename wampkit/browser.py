"""The browser's end: `wampkit.js`, served beside the socket for the pages that talk to it."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from .texts import TextFile

__all__ = ["STATIC", "as_script", "serve_javascript"]

STATIC = Path(__file__).parent / "static"
JAVASCRIPT = "text/javascript"


def serve_javascript(web_app: web.Application, path: str, ident: str) -> None:
    """Serve the client below the socket's path: `wampkit.js`, `wampkit.global.js` for a plain script, `wampkit.d.ts`.

    They are public and tell nothing of the app, so that no gate is asked.

    Args:
        web_app: The aiohttp application.
        path: The socket's path.
        ident: What the Server header says.
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
    """The module as a plain script, which puts its exports into the global `wampkit`; so does `static/global.mjs`."""
    body = module.replace("\nexport {", "\nglobalThis.wampkit = {", 1)
    return f'(() => {{\n"use strict";\n{body}}})();\n'
