"""An app on a path of an aiohttp application: started and stopped with it, in the manner of aiohttp's extensions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.http import SERVER_SOFTWARE

from ..errors import DeclarationError
from .handshake import Door
from .static import serve_javascript

__all__ = ["hide_versions", "mount"]

SERVED: web.AppKey[dict[str, Any]] = web.AppKey("wampkit", dict)
"""The apps of an aiohttp application by their paths."""


class Mountable(Protocol):
    """As much of an app as is needed here."""

    @property
    def javascript(self) -> bool: ...

    @property
    def ident(self) -> str: ...

    @property
    def door(self) -> Door | None: ...

    async def start(self) -> None: ...

    async def drain(self, deadline: float) -> None: ...

    async def stop(self) -> None: ...


def mount(app: Mountable, web_app: web.Application, path: str, drain: float) -> None:
    """Serve an app.

    Args:
        app: The app.
        web_app: The aiohttp application.
        path: The socket's path.
        drain: Seconds that calls under way are given when the application shuts down.

    Raises:
        DeclarationError: The path is taken, or the app has another path of this application.
    """
    _check(app, web_app, path)

    async def life(_: web.Application) -> AsyncIterator[None]:
        await app.start()
        yield
        await app.stop()

    async def leave(_: web.Application) -> None:
        await app.drain(drain)

    async def serve(request: web.Request) -> web.StreamResponse:
        if app.door is None:
            refusal = web.HTTPServiceUnavailable(text="the server is not running", headers={"Retry-After": "1"})
            refusal.force_close()
            raise refusal
        return await app.door(request)

    web_app.router.add_get(path, serve)
    if app.javascript:
        serve_javascript(web_app, path, app.ident)
    web_app.cleanup_ctx.append(life)
    web_app.on_shutdown.append(leave)


def _check(app: Mountable, web_app: web.Application, path: str) -> None:
    if not isinstance(web_app, web.Application):
        raise DeclarationError(f"App.setup takes an aiohttp.web.Application, not {web_app!r}")
    if not isinstance(path, str) or (path and not path.startswith("/")) or any(each in path for each in "?# "):
        raise DeclarationError(f"setup: {path!r} is no path such as '/ws', which has no query")
    served = web_app.setdefault(SERVED, {})
    for taken, other in served.items():
        if other is app:
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
    served[path] = app


def hide_versions(web_app: web.Application, ident: str) -> None:
    """Let an application that serves one app alone answer 404 and 405 as the socket's path refuses.

    They close their connection, and `Server` names no versions of aiohttp and Python.

    Args:
        web_app: The aiohttp application.
        ident: What `Server` says instead.
    """

    async def prepare(_: web.Request, response: web.StreamResponse) -> None:
        if response.headers.get("Server") == SERVER_SOFTWARE:
            response.headers["Server"] = ident
        if isinstance(response, web.HTTPNotFound | web.HTTPMethodNotAllowed):
            response.force_close()
            response.headers["Connection"] = "close"

    web_app.on_response_prepare.append(prepare)
