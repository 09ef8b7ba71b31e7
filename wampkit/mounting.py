"""An app on a path of an aiohttp application: started and stopped with it, in the manner of aiohttp's extensions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import web

from .browser import serve_javascript
from .console_page import serve_console
from .door import Door

__all__ = ["mount"]


class Mountable(Protocol):
    """As much of an app as is needed here."""

    javascript: bool
    console: Any
    ident: str

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
    """

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
    if app.console:
        serve_console(web_app, path, app.ident)
    web_app.cleanup_ctx.append(life)
    web_app.on_shutdown.append(leave)
