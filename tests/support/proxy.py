"""A TCP proxy that can fall silent: a network that is cut without either side being told."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["SilentProxy"]


class SilentProxy:
    """A proxy that passes everything on until it falls silent; then it still takes all that comes.

    Attributes:
        port: Where it listens.
        silent: Whether what comes is dropped.
        swallowed: How many bytes were dropped.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._pipes: list[asyncio.Task[None]] = []
        self.silent = False
        self.swallowed = 0

    async def __aenter__(self) -> SilentProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, onward = await asyncio.open_connection("127.0.0.1", self._port)
        self._pipes += [
            asyncio.create_task(self._pipe(reader, onward)),
            asyncio.create_task(self._pipe(behind, writer)),
        ]

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if self.silent:
                    self.swallowed += len(data)
                else:
                    target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()

    async def __aexit__(self, *error: Any) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
