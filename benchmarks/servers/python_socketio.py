"""python-socketio on aiohttp: the same procedure, and rooms for topics."""

import socketio
from aiohttp import web

from . import listening

server = socketio.AsyncServer(async_mode="aiohttp")


@server.event
async def add(sid: str, x: float, y: float) -> float:
    return x + y


@server.event
async def sub(sid: str, topic: str) -> bool:
    await server.enter_room(sid, topic)
    return True


@server.event
async def pub(sid: str, topic: str, event: object) -> None:
    await server.emit("ev", event, room=topic, skip_sid=sid)


if __name__ == "__main__":
    application = web.Application()
    server.attach(application)
    listening.main(listening.aiohttp_site, application)
