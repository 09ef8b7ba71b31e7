"""Waiting for what happens to a session in Redis."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from wampkit import Client
from wampkit.sessions import storage as storage

from .wire import PATIENCE, eventually

KEY = "AIOHTTP_SESSION_"


async def ended(client: Client) -> tuple[int | None, str]:
    await eventually(lambda: client.state == "closed", "the server closes")
    assert client.error is not None
    return client.error.code, client.error.reason.partition(": ")[2].strip("'")


async def until(ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """Ask until the answer is what is wanted."""
    end = time.monotonic() + PATIENCE
    while not wanted(answer := await ask()):
        assert time.monotonic() < end, answer
    return answer
