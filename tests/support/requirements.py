"""Clients that come as a user, and what they may do."""

from typing import Any

from wampkit import App, Connection

from .wire import ERROR, EVENT, PUBLISH, Peer, Server

T = "http://example.com/t/"


NOT_ALLOWED = "http://api.wamp.ws/error#not_authorized"


class Claims:
    """Takes user and roles from the query, as a session or a ticket would give them."""

    async def connect(self, connection: Connection) -> None:
        query = connection.request.query
        connection.user = query.get("user")
        connection.roles = frozenset(query.getall("role", []))


def make(**options: Any) -> App:
    return App(prefixes={"t": T}, middlewares=[Claims()], **options)


async def as_user(server: Server, query: str = "") -> Peer:
    return await Peer.open(f"{server.url}?{query}")


async def allowed(peer: Peer, uri: str, *args: Any) -> bool:
    """Whether a call was answered, and not refused."""
    answer = await peer.call(uri, *args)
    assert answer[0] != ERROR or answer[2] == NOT_ALLOWED, answer
    return answer[0] != ERROR


async def receives(peer: Peer, publisher: Peer, topic: str) -> bool:
    """Whether a subscriber receives what somebody publishes."""
    await peer.subscribe(topic)
    await publisher.send(PUBLISH, topic, "event", [])
    await publisher.settle()
    await peer.settle()
    return [EVENT, topic, "event"] in peer.rest()


async def do() -> str:
    return "done"
