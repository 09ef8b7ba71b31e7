"""Paths on which an aiohttp application serves apps, and the headers of an application that serves only one app."""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import SERVER_SOFTWARE

from ..errors import DeclarationError

__all__ = ["claim_path", "hide_versions"]

SERVED: web.AppKey[dict[str, Any]] = web.AppKey("wampkit", dict)
"""The apps that an aiohttp application serves, by path."""


def claim_path(web_app: web.Application, path: str, owner: Any) -> None:
    """Reserve a path of an aiohttp application for an app.

    Raises:
        DeclarationError: The path is taken or invalid, or the app has another path of this application.
    """
    if not isinstance(web_app, web.Application):
        raise DeclarationError(f"App.setup takes an aiohttp.web.Application, not {web_app!r}")
    if not isinstance(path, str) or (path and not path.startswith("/")) or any(each in path for each in "?# "):
        raise DeclarationError(f"setup: {path!r} is no path such as '/ws', which has no query")
    served = web_app.setdefault(SERVED, {})
    for taken, other in served.items():
        if other is owner:
            raise DeclarationError(
                f"setup: this app is served at {taken!r} already; make another App for {path!r}, with the same Router"
            )
    if path in served:
        raise DeclarationError(f"setup: another app is served at {path!r} already; choose another path")
    for route in web_app.router.routes():
        resource = route.resource
        if resource is not None and resource.canonical == path and route.method in (hdrs.METH_GET, hdrs.METH_ANY):
            raise DeclarationError(
                f"setup: this application has a GET handler for {path!r} already; choose another path"
            )
    served[path] = owner


def hide_versions(web_app: web.Application, ident: str) -> None:
    """Hide the versions of aiohttp and Python in the Server header, and close the connection after a 404 or 405.

    For an application that serves only one app.

    Args:
        web_app: The aiohttp application.
        ident: The new Server header.
    """

    async def prepare(_: web.Request, response: web.StreamResponse) -> None:
        if response.headers.get("Server") == SERVER_SOFTWARE:
            response.headers["Server"] = ident
        if isinstance(response, web.HTTPNotFound | web.HTTPMethodNotAllowed):
            response.force_close()
            response.headers["Connection"] = "close"

    web_app.on_response_prepare.append(prepare)
