"""Clients that stop reading, and an app that notes how its connections end."""

from __future__ import annotations

import json
from typing import Any

from wampkit import App, Connection

from .slow import limits
from .wire import EVENT, SUBSCRIBE, RawPeer, Server, eventually

T = "news"


TOO_SLOW = 4008


class Ends:
    """What on_disconnect was told, by session id."""

    def __init__(self, app: App) -> None:
        self.seen: dict[str, tuple[int | None, str]] = {}
        app.on_disconnect(self.gone)

    async def gone(self, connection: Connection) -> None:
        assert connection.id not in self.seen
        self.seen[connection.id] = (connection.close_code, connection.close_reason)

    @property
    def codes(self) -> list[int | None]:
        return [code for code, _ in self.seen.values()]


def make(**options: Any) -> tuple[App, Ends]:
    app = App(**options)
    app.topic(T, relay=True)

    @app.rpc("echo")
    async def echo(x: Any) -> Any:
        return x

    @app.rpc("give")
    async def give(size: int) -> str:
        return "x" * size

    return app, Ends(app)


async def stalled(server: Server, rcvbuf: int | None = 4096) -> RawPeer:
    """A subscriber that reads nothing."""
    peer = await server.raw(rcvbuf=rcvbuf)
    await peer.send_message(SUBSCRIBE, T)
    await eventually(lambda: peer.id in {each.id for each in server.app.topics.get(T, ())})
    return peer


def size_of(event: Any) -> int:
    """The size of the frame around an event that is longer than a few bytes."""
    return len(json.dumps([EVENT, T, event], separators=(",", ":"))) + 4


def drop(queue: int) -> dict[str, Any]:
    return limits(queue=queue, slow_reader="drop")
