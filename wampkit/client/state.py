"""The state of a client, and waiting for it to change."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable

from ..telemetry.logs import logger_of

__all__ = ["State", "StateNotifier"]

logger: logging.Logger = logger_of(__name__)


class State(enum.StrEnum):
    """The state of a client's connection."""

    CONNECTING = "connecting"
    OPEN = "open"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class StateNotifier:
    """Holds the state of one client and announces its changes.

    Args:
        on_state: Called with each new state, on the loop; what it raises is logged.

    Attributes:
        state: The present state.
    """

    def __init__(self, on_state: Callable[[State], object] | None) -> None:
        self.state: State = State.CONNECTING
        self._on_state = on_state
        self._change = asyncio.Event()

    def set(self, state: State) -> None:
        """Change the state, wake the tasks that wait for a change and call `on_state`."""
        if state is self.state:
            return
        self.state = state
        self._change.set()
        self._change = asyncio.Event()
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                logger.exception("on_state failed")

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._change.wait()
