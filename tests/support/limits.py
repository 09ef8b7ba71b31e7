"""An app whose limits a test sets."""

from typing import Any

from wampkit import App, Connection, Limits

from .wire import Server


def make(**limits: Any) -> App:
    """An app with a few procedures and topics, and these limits."""
    app = App(prefixes={"t": "http://x/"}, limits=Limits(**limits), keepalive=1)

    @app.rpc("echo")
    async def echo(value: object) -> object:
        return value

    @app.rpc("item/{name}")
    async def item(name: str) -> str:
        return name

    @app.rpc("count")
    async def count(conn: Connection) -> int:
        return len(conn.topics)

    app.topic("t:{name}", relay=True)
    return app


async def is_well(server: Server) -> bool:
    """Whether another client is served."""
    peer = await server.peer()
    return await peer.result("echo", "still here") == "still here"
