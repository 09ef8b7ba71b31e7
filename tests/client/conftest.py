"""The servers that the client is tested against: wampkit's own, and a scripted one."""

from collections.abc import AsyncIterator

import pytest

from ..support.client_app import demo
from ..support.foreign import Foreign, foreign
from ..support.restartable import Restartable, restartable


@pytest.fixture
async def server() -> AsyncIterator[Restartable]:
    async with restartable(demo()) as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[Foreign]:
    async with foreign() as server:
        yield server
