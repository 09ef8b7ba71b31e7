"""The server by hand with a fast fan-out: an event's frame is made once and written to every subscriber's transport.

It takes no notice of how much waits for a subscriber, so one that stops reading costs memory without end.
"""

import secrets
import struct
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from . import by_hand, listening

topics: dict[str, set[Any]] = {}
loads = msgspec.json.Decoder().decode
dumps = msgspec.json.Encoder().encode


def frame(text: bytes) -> bytes:
    """A server's text frame: final, not masked."""
    size = len(text)
    if size < 126:
        return struct.pack(">BB", 0x81, size) + text
    if size < 65536:
        return struct.pack(">BBH", 0x81, 126, size) + text
    return struct.pack(">BBQ", 0x81, 127, size) + text


async def serve(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("wamp",), compress=False)
    await socket.prepare(request)
    transport = request.transport
    assert transport is not None
    await socket.send_str(by_hand.dumps([0, secrets.token_urlsafe(24), 1, "shared frame"]))
    mine: set[str] = set()
    try:
        async for received in socket:
            if received.type is not WSMsgType.TEXT:
                continue
            message = loads(received.data)
            match message[0]:
                case 2:
                    await by_hand.answer(socket, message)
                case 5:
                    topics.setdefault(message[1], set()).add(transport)
                    mine.add(message[1])
                case 6:
                    topics.get(message[1], set()).discard(transport)
                    mine.discard(message[1])
                case 7:
                    event = frame(dumps([8, message[1], message[2]]))
                    for subscriber in topics.get(message[1], ()):
                        if subscriber is not transport:
                            subscriber.write(event)
    finally:
        for topic in mine:
            topics[topic].discard(transport)
    return socket


if __name__ == "__main__":
    application = web.Application()
    application.router.add_get("/ws", serve)
    listening.main(listening.aiohttp_site, application)
