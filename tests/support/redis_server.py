"""A Redis server of the tests' own: started on a unix socket, waited for, and ended by its process id."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["RedisServer", "redis_server"]

PATIENCE = 10.0
"""Seconds in which a server must be there, or gone."""


class RedisServer:
    """A running server.

    Attributes:
        socket: The unix socket that it listens on.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "redis.sock")
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        """Start it and wait until it answers a ping."""
        path = shutil.which("redis-server")
        assert path is not None, "redis-server is missing: run tests/install-system-packages"
        options = ["--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"]
        self._process = await asyncio.create_subprocess_exec(
            path, *options, "--dir", str(self._directory), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(PATIENCE), self.client() as client:
            while True:
                with contextlib.suppress(RedisConnectionError):
                    if await client.ping():
                        return self
                assert self._process.returncode is None, "redis-server ended at once"
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """A client of it that does not try again by itself, closed in the end."""
        client = Redis(unix_socket_path=self.socket, retry=Retry(NoBackoff(), 0))
        try:
            yield client
        finally:
            await client.aclose()

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP freezes it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        """End it, frozen or not."""
        if self._process is not None:
            self._process.kill()
            await asyncio.wait_for(self._process.wait(), PATIENCE)
            self._process = None


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """A Redis server for the length of a block."""
    # Not pytest's directory: the path of a unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="wampkit-") as directory:
        server = await RedisServer(Path(directory)).start()
        try:
            yield server
        finally:
            await server.stop()
