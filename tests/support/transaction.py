"""A caller and a subscriber of one app."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from wampkit import App

from .wire import EVENT, Peer, Server, serve

NEWS = "news"


def events_of(peer: Peer) -> list[Any]:
    return [message[2] for message in peer.rest() if message[0] == EVENT]


@contextlib.asynccontextmanager
async def listening(app: App) -> AsyncIterator[tuple[Server, Peer, Peer]]:
    """A caller, and a listener who is subscribed to the news."""
    async with serve(app) as server:
        caller, listener = await server.peer(), await server.peer()
        await listener.subscribe(NEWS)
        await listener.settle()
        yield server, caller, listener
