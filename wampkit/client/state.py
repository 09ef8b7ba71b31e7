"""Where a client stands, and waiting until that changes."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable

from ..telemetry.logs import logger_of

__all__ = ["State", "States"]

logger = logger_of(__name__)


class State(enum.StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    OPEN = "open"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class States:
    """The state of one client.

    Args:
        on_state: Told of each change; a plain function, called on the loop.

    Attributes:
        now: The present state.
    """

    def __init__(self, on_state: Callable[[State], object] | None) -> None:
        self.now = State.CONNECTING
        self._on_state = on_state
        self._changes: list[asyncio.Future[None]] = []

    def set(self, state: State) -> None:
        """Go to a state and tell everybody who waits for a change."""
        if state is self.now:
            return
        self.now = state
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                logger.exception("on_state failed")

    async def change(self) -> None:
        """Wait for the next change."""
        change = asyncio.get_running_loop().create_future()
        self._changes.append(change)
        try:
            await change
        finally:
            if change in self._changes:
                self._changes.remove(change)
