"""A Redis server and a client of it."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from ..support.redis_server import RedisServer, redis_server


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """A Redis server of the test's own."""
    async with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """A client of it."""
    async with server.client() as client:
        yield client
