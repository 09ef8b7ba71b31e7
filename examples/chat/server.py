"""Publish and subscribe: chat rooms, with a page on the browser's client.

Run it:   python -m examples.chat.server      then open http://127.0.0.1:8080/ in two windows
"""

from pathlib import Path
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from wampkit import App, Connection, Topic

app = App(prefixes={"chat": "http://example.com/chat/"})


class Message(Struct):
    """What a client publishes; anything else is refused before the handler runs."""

    text: Annotated[str, Meta(min_length=1, max_length=500)]
    name: Annotated[str, Meta(max_length=40)] = "somebody"


@app.topic("chat:{room}")
async def room(event: Message, room: str) -> dict[str, str]:
    """Runs for each PUBLISH; what it returns is what the others receive."""
    return {"room": room, "name": event.name, "text": event.text}


@room.on_subscribe
async def joined(topic: Topic, conn: Connection) -> None:
    await topic.publish({"people": len(topic)})


@room.on_unsubscribe
async def left(topic: Topic) -> None:
    await topic.publish({"people": len(topic)})


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).with_name("chat.html"))


def site() -> web.Application:
    """The page at / and the socket at /ws."""
    site = web.Application()
    site.router.add_get("/", page)
    app.setup(site, path="/ws")
    return site


if __name__ == "__main__":
    web.run_app(site(), host="127.0.0.1", port=8080)
