"""The two readers of the server, for tests that hold for both."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["direct", "queued"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways in."""
    monkeypatch.setenv("WAMPKIT_READER", request.param)
    return str(request.param)
