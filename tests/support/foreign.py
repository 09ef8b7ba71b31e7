"""A WAMP v1 server that is not wampkit, written by hand: for the client, and scripted to misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

Script = Callable[[web.WebSocketResponse], Awaitable[None]]


class Foreign:
    """Welcomes, answers `echo` and `never`, relays every topic, and remembers what it was sent.

    Attributes:
        received: Every message, of all connections, in order.
        handshakes: The headers and query of every handshake.
        refuse: An HTTP status to answer handshakes with, or None.
        answer: What to answer handshakes with, or None.
        ident: What it calls itself.
        mark: What its session ids end with; those of a wampkit server do with ".wampkit".
        script: Runs in place of everything after the handshake.
        answers: What calls of a procedure are answered with, without the call id: `[3, result]`, `[4, uri, text]`, or
            `[]` for no answer at all.
        hold_pings: Whether pings wait for `answer_pings`, as if this server were slow to take things in.
    """

    def __init__(self) -> None:
        self.received: list[list[Any]] = []
        self.handshakes: list[web.Request] = []
        self.refuse: int | None = None
        self.answer: web.Response | None = None
        self.ident = "Other/1.0"
        self.mark = ""
        self.script: Script | None = None
        self.answers: dict[str, list[Any]] = {}
        self.hold_pings = False
        self.sockets: list[web.WebSocketResponse] = []
        self.pings: list[tuple[web.WebSocketResponse, bytes]] = []
        self._topics: dict[web.WebSocketResponse, set[str]] = {}
        self.url = ""

    def sent(self, code: int) -> list[list[Any]]:
        """The messages of one type that clients sent."""
        return [message for message in self.received if message[0] == code]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append(request)
        if self.answer is not None:
            return self.answer
        if self.refuse is not None:
            return web.Response(status=self.refuse)
        ws = web.WebSocketResponse(protocols=("wamp",), autoping=self.script is not None)
        await ws.prepare(request)
        if self.script is not None:
            await self.script(ws)
            return ws
        await ws.send_str(json.dumps([0, f"session-{len(self.handshakes)}{self.mark}", 1, self.ident]))
        await self.serve(ws)
        return ws

    async def serve(self, ws: web.WebSocketResponse) -> None:
        self.sockets.append(ws)
        topics = self._topics[ws] = set()
        async for frame in ws:
            if frame.type is WSMsgType.PING:
                self.pings.append((ws, frame.data))
                if not self.hold_pings:
                    await self.answer_pings()
            if frame.type is not WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            self.received.append(message)
            match message:
                case [2, call_id, str(procedure), *_] if procedure in self.answers:
                    if answer := self.answers[procedure]:
                        await ws.send_str(json.dumps([answer[0], call_id, *answer[1:]]))
                case [2, call_id, "echo", *args]:
                    await ws.send_str(json.dumps([3, call_id, args]))
                case [2, _, "never", *_]:
                    pass
                case [2, call_id, *_]:
                    await ws.send_str(json.dumps([4, call_id, "other:error", "no"]))
                case [5, topic]:
                    topics.add(topic)
                case [6, topic]:
                    topics.discard(topic)
                case [7, topic, event, *_]:
                    await self.emit(topic, event)

    async def answer_pings(self) -> None:
        """Answer the pings that wait."""
        pings, self.pings = self.pings, []
        for ws, payload in pings:
            if not ws.closed:
                await ws.pong(payload)

    async def cut(self) -> None:
        """End every connection without a word."""
        for ws in self.sockets:
            transport = ws._req.transport if ws._req is not None else None
            if transport is not None:
                transport.abort()

    async def emit(self, topic: str, event: Any) -> None:
        for ws in self.sockets:
            if topic in self._topics[ws] and not ws.closed:
                await ws.send_str(json.dumps([8, topic, event]))


@asynccontextmanager
async def foreign() -> AsyncIterator[Foreign]:
    """A foreign server on a free port."""
    server = Foreign()
    web_app = web.Application()
    web_app.router.add_get("/", server.handle)
    runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = "ws://{}:{}/".format(*runner.addresses[0])
    try:
        yield server
    finally:
        for ws in server.sockets:
            await asyncio.wait_for(ws.close(), 2)
        await runner.cleanup()
