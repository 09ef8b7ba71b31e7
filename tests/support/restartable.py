"""A wampkit server in the test's own process that can be stopped and started again on the same port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from wampkit import App

__all__ = ["Restartable", "restartable"]


class Restartable:
    """The server.

    Attributes:
        app: The app that it serves.
        port: Its port, once it has been started.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.port = 0
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve, at first on a free port."""
        self.runner = web.AppRunner(self.app.web_app(), access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        """Drain, close connections with 1012, and free the port."""
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def cut(self) -> None:
        """End every connection without a word."""
        for connection in self.app.connections:
            connection.hang_up(1006, "the wire was cut")

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"ws://127.0.0.1:{self.port}/ws"


@contextlib.asynccontextmanager
async def restartable(app: App) -> AsyncIterator[Restartable]:
    """Serve an app for the length of a block."""
    server = Restartable(app)
    await server.start()
    yield server
    await server.stop()
