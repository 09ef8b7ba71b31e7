"""The app that the tests of the client call."""

import asyncio
from typing import Any

from wampkit import AllowOrigins, App, Connection, WampError

FAST = (0.01, 0.05)


def demo() -> App:
    app = App(
        prefixes={"calc": "http://example.com/calc#", "chat": "http://example.com/chat/"},
        middlewares=[AllowOrigins("https://example.com", allow_missing=True)],
    )

    @app.rpc("calc:add")
    async def add(x: float, y: float) -> float:
        return x + y

    @app.rpc("slow")
    async def slow(seconds: float, value: object) -> object:
        await asyncio.sleep(seconds)
        return value

    @app.rpc("fail")
    async def fail() -> None:
        raise WampError("calc:error", "it failed", {"code": 7})

    @app.rpc("headers")
    async def headers(conn: Connection) -> dict[str, Any]:
        request = conn.request
        return {
            "token": request.headers.get("X-Token"),
            "query": request.query.get("n"),
            "origin": request.headers.get("Origin"),
            "cookie": request.cookies.get("user"),
        }

    app.topic("chat:{room}", relay=True)
    return app
