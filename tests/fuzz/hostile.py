"""A server that says what the grammar draws: it knows which calls and subscriptions its clients have made."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

from .grammar import Grammar
from .report import Report, Until

__all__ = ["hostile_server"]

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""


@contextlib.asynccontextmanager
async def hostile_server(seed: str, numbers: Until, report: Report) -> AsyncIterator[str]:
    """The URL of a server whose connections have the numbers given; it refuses further ones."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers, None)
        if number is not None:
            report.connections += 1
            with contextlib.suppress(ConnectionError, EOFError, asyncio.LimitOverrunError, TimeoutError):
                await _Hostile(Grammar(f"{seed}-{number}"), reader, writer, report).run()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    finally:
        server.close()


class _Hostile:
    def __init__(
        self, grammar: Grammar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, report: Report
    ) -> None:
        self._grammar = grammar
        self._reader = reader
        self._writer = writer
        self._report = report
        self._calls: list[str] = []
        self._topics: list[str] = []

    async def run(self) -> None:
        """One connection to its end."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not self._answer(head):
            return
        self._say(self._grammar.welcome())
        for _ in range(self._grammar.random.randrange(40)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.002):
                    await self._listen()
            self._say(self._grammar.server_message(self._calls, self._topics))
            await self._writer.drain()
        if self._grammar.chance(0.7):
            self._writer.write(self._grammar.close(masked=False))
            await self._writer.drain()

    def _answer(self, head: bytes) -> bool:
        """Answer the handshake, now and then wrongly; whether there is a WebSocket now."""
        found = re.search(rb"(?i)\r\nsec-websocket-key: *([^\r]*)", head)
        key = found[1] if found is not None else b""
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        good = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + accept,
            b"Sec-WebSocket-Protocol: wamp",
        ]
        if self._grammar.chance(0.05):
            lines = self._grammar.random.choice(
                [
                    [b"HTTP/1.1 403 No", b"Content-Length: 0"],
                    [b"HTTP/1.1 302 Found", b"Location: ws://127.0.0.1:9/", b"Content-Length: 0"],
                    [b"HTTP/1.1 200 OK", b"Content-Length: 3", b"", b"no"],
                    good[:3],
                    [*good[:3], b"Sec-WebSocket-Accept: x"],
                    [*good[:4], b"Sec-WebSocket-Protocol: other"],
                    [b"\xff\x00"],
                ]
            )
            self._writer.write(b"\r\n".join([*lines, b"", b""]))
            return False
        self._writer.write(b"\r\n".join([*good, b"", b""]))
        return True

    def _say(self, payload: bytes) -> None:
        self._report.messages += 1
        for chunk in self._grammar.chunks(self._grammar.frames(payload, masked=False)):
            if self._writer.transport.is_closing():
                raise ConnectionResetError  # uvloop raises RuntimeError once it has closed the socket
            self._writer.write(chunk)

    async def _listen(self) -> None:
        """Take the client's frames as long as some come, and note what it asks for."""
        while True:
            first, size = await self._reader.readexactly(2)
            size &= 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self._reader.readexactly(8))
            mask = await self._reader.readexactly(4)
            data = await self._reader.readexactly(size)
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
            if first & 0x0F == 1:
                self._note(json.loads(payload))
            elif first & 0x0F == 9 and self._grammar.chance(0.8):
                self._writer.write(self._grammar.frame(10, payload, masked=False))

    def _note(self, message: list[Any]) -> None:
        match message:
            case [2, call_id, *_]:
                self._calls.append(call_id)
            case [5, topic]:
                self._topics.append(topic)
