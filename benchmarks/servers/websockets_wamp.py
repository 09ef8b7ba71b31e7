"""A minimal WAMP v1 server by hand on the library websockets, whose `broadcast` makes a frame once for all."""

import json
import secrets

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.typing import Subprotocol

from . import by_hand, listening

topics: dict[str, set[ServerConnection]] = {}


async def handle(socket: ServerConnection) -> None:
    await socket.send(by_hand.dumps([0, secrets.token_urlsafe(24), 1, "websockets"]))
    mine: set[str] = set()
    try:
        async for text in socket:
            message = json.loads(text)
            match message[0]:
                case 2:
                    result = await by_hand.procedures[message[2]](*message[3:])
                    await socket.send(by_hand.dumps([3, message[1], result]))
                case 5:
                    topics.setdefault(message[1], set()).add(socket)
                    mine.add(message[1])
                case 6:
                    topics.get(message[1], set()).discard(socket)
                    mine.discard(message[1])
                case 7:
                    event = by_hand.dumps([8, message[1], message[2]])
                    broadcast(topics.get(message[1], set()) - {socket}, event)
    finally:
        for topic in mine:
            topics[topic].discard(socket)


async def main(port: int) -> None:
    wamp = [Subprotocol("wamp")]
    async with serve(handle, "127.0.0.1", port, subprotocols=wamp, compression=None, backlog=listening.BACKLOG):
        await listening.until_ended()


if __name__ == "__main__":
    listening.main(main)
