"""Tests that run on more than one kind of event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

__all__ = ["LOOPS", "on_each_loop", "on_uvloop"]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on asyncio and on uvloop. Further decorators go above this one."""
    return _on(test, *LOOPS)


def on_uvloop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on uvloop alone: for what another test shows on asyncio."""
    return _on(test, "uvloop")


def _on(test: Callable[..., Awaitable[None]], *loops: str) -> Callable[..., None]:
    async def scenario(others: dict[str, Any]) -> None:
        await test(**others)

    def run(loop: str, **others: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(scenario(others))

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    signature = inspect.signature(test)
    own = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", loops)(run)
