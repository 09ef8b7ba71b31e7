"""A server that speaks TLS itself: connections end as they do without, on each event loop and by each way in."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from wampkit import App, Connection, Limits
from wampkit.client.client import connect

from ..support.certificates import server_context, write_certificate
from ..support.loops import on_each_loop
from ..support.tables import rows
from ..support.wire import eventually


@asynccontextmanager
async def serving(app: App, file: Path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """The app's URL over TLS, and what a client needs to trust it."""
    certificate = await asyncio.to_thread(write_certificate, file)
    runner = web.AppRunner(app.web_app(), shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(certificate)).start()
    try:
        yield f"wss://127.0.0.1:{runner.addresses[0][1]}/ws", ssl.create_default_context(cafile=certificate)
    finally:
        await runner.cleanup()


def make(**options: Any) -> tuple[App, list[Connection]]:
    """An app that is called and published to, and the connections that have ended."""
    app, ended = App(**options), list[Connection]()
    app.topic("news", relay=True)

    @app.rpc("add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.rpc("leave")
    async def leave(conn: Connection) -> None:
        conn.close(4000, "as asked")

    @app.on_disconnect
    async def gone(conn: Connection) -> None:
        ended.append(conn)

    return app, ended


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compression": {"compression": True},
    "drop": {"limits": Limits(slow_reader="drop")},
}


@rows("options", OPTIONS)
@on_each_loop
async def test_connections_end_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture, options: str) -> None:
    """Calls and events pass; a client that closes, one that is closed, one that is cut and a stop leave no error."""
    app, ended = make(**OPTIONS[options])
    async with serving(app, tmp_path / "here.pem") as (url, trust):
        async with (
            connect(url, ssl=trust, reconnect=False) as client,
            connect(url, ssl=trust, reconnect=False) as other,
            client.subscribe("news") as events,
        ):
            assert await other.call("add", 1, 2) == 3
            await other.publish("news", "hello")
            assert await anext(events) == "hello"
        await eventually(lambda: len(ended) == 2)
        async with connect(url, ssl=trust, reconnect=False) as closed, connect(url, ssl=trust, reconnect=False) as cut:
            await closed.publish("news", 1)
            with pytest.raises(Exception, match="as asked"):
                await closed.call("leave")
            await cut.call("add", 1, 2)
            (connection,) = app.connections
            connection.cut(1006, "the test cut it")
            await eventually(lambda: len(ended) == 4)
        caplog.clear()  # the cut is told
        async with connect(url, ssl=trust, reconnect=False) as staying:
            assert await staying.call("add", 1, 2) == 3
            await app.drain(1.0)
            await eventually(lambda: len(ended) == 5)
    assert complaints(caplog) == []


@on_each_loop
async def test_a_client_that_reads_nothing_is_cut(tmp_path: Path) -> None:
    """What waits for it is bounded over TLS too, and its end is an ordinary one."""
    app, ended = make(limits=Limits(queue=100_000), close_timeout=0.2)
    async with serving(app, tmp_path / "here.pem") as (url, trust):
        host, port = "127.0.0.1", int(url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection(host, port, ssl=trust, limit=1)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: wamp\r\n\r\n"
        )
        await eventually(lambda: len(app.connections) == 1)
        writer.transport.pause_reading()
        text = b'[5,"news"]'
        writer.write(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
        await eventually(lambda: "news" in app.topics)
        while not ended:
            await app.publish("news", "x" * 50_000)
            await asyncio.sleep(0)
        assert app.counters.slow_readers == 1
        writer.transport.abort()
        await asyncio.wait_for(reader.read(), 5)
