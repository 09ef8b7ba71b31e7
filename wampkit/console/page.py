"""The console's page and the files that it is made of, as aiohttp answers with them."""

from __future__ import annotations

import functools
import html
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from ..server.static import JAVASCRIPT, STATIC, TextFile

__all__ = ["serve_console", "show_console"]

FOLDER = Path(__file__).parent / "assets"

TYPES = {".js": JAVASCRIPT, ".css": "text/css", ".txt": "text/plain"}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page may load its own files only: a name that a client chose stays text, and could load or run nothing."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # The address may hold a ticket.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def show_console(request: web.Request) -> web.Response:
    """The page itself, at the socket's own address."""
    # Relative, so that it works behind a proxy that serves it elsewhere.
    below = quote(request.path.rpartition("/")[2])
    text = _page().replace("{{files}}", html.escape(f"{below}/console" if below else "console"))
    return web.Response(text=text, content_type="text/html", headers=HEADERS)


@functools.cache
def _page() -> str:
    return (FOLDER / "console.html").read_text(encoding="utf-8")


def serve_console(web_app: web.Application, path: str, ident: str) -> None:
    """Serve what the page loads below the socket's path, with `ident` as the Server header.

    It tells nothing of the app, so that no gate is asked.
    """
    headers = {"Server": ident, "Cross-Origin-Resource-Policy": "same-origin"}
    files = {each.relative_to(FOLDER).as_posix(): each for each in sorted(FOLDER.rglob("*.*"))}
    # The page needs it, also where `App(javascript=False)` does not serve it.
    files["wampkit.js"] = STATIC / "wampkit.js"
    for name, file in files.items():
        if file.suffix in TYPES:
            text = file.read_text(encoding="utf-8")
            served = TextFile(text, TYPES[file.suffix], headers)
            web_app.router.add_get(f"{path.rstrip('/')}/console/{name}", served.serve)
