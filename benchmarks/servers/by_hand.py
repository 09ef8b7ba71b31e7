"""A minimal WAMP v1 server by hand: aiohttp, the standard library's json, a `send_str` loop, and no checks at all.

It speaks the same wire as `kit`: the measure of what a framework costs, or saves.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from . import listening

topics: dict[str, set[web.WebSocketResponse]] = {}
dumps = json.JSONEncoder(separators=(",", ":")).encode


async def add(x: float, y: float) -> float:
    return x + y


procedures: dict[str, Callable[..., Awaitable[Any]]] = {"http://example.com/calc#add": add}


async def serve(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("wamp",), compress=False)
    await socket.prepare(request)
    await socket.send_str(dumps([0, secrets.token_urlsafe(24), 1, "by hand"]))
    mine: set[str] = set()
    try:
        async for received in socket:
            if received.type is not WSMsgType.TEXT:
                continue
            message = json.loads(received.data)
            match message[0]:
                case 2:
                    await answer(socket, message)
                case 5:
                    topics.setdefault(message[1], set()).add(socket)
                    mine.add(message[1])
                case 6:
                    topics.get(message[1], set()).discard(socket)
                    mine.discard(message[1])
                case 7:
                    await relay(socket, message[1], message[2])
    finally:
        for topic in mine:
            topics[topic].discard(socket)
    return socket


async def relay(publisher: web.WebSocketResponse, topic: str, event: Any) -> None:
    text = dumps([8, topic, event])
    for subscriber in list(topics.get(topic, ())):
        if subscriber is not publisher:
            try:
                await subscriber.send_str(text)
            except ConnectionError:
                continue


async def answer(socket: web.WebSocketResponse, message: list[Any]) -> None:
    procedure = procedures.get(message[2])
    if procedure is None:
        await socket.send_str(dumps([4, message[1], "http://api.wamp.ws/error#NoSuchRPCEndpoint", "no such procedure"]))
    else:
        await socket.send_str(dumps([3, message[1], await procedure(*message[3:])]))


if __name__ == "__main__":
    application = web.Application()
    application.router.add_get("/ws", serve)
    listening.main(listening.aiohttp_site, application)
