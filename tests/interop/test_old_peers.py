"""What applications of Ratchet, BabDev, Gos and the reference rely on: the very bytes, and the option for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wampkit import App

from ..support.wire import SUBSCRIBE, Server, handshake, serve

DOC = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

TOPIC = "acme/channel"
BABDEV = "https://example.com/error#not-found"


def app_of(catch_all: bool = False, **options: Any) -> App:
    """An app with a topic and a procedure, as a Gos application has them."""
    app = App(**options)
    app.topic(TOPIC, relay=True)
    if catch_all:
        app.topic("{name:path}", relay=True)

    @app.rpc("sample/sum")
    async def add(x: int, y: int) -> int:
        return x + y

    return app


def sends(*texts: str, subscribe: str = TOPIC) -> Callable[[Server], Any]:
    """What a subscriber receives for the texts that it sends itself, and how its connection ends, if it does."""

    async def try_it(server: Server) -> list[Any]:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, subscribe)
        for text in texts:
            await peer.send_text(text)
        try:
            await peer.settle()
        except (AssertionError, TimeoutError, ConnectionError):
            return [(await peer.closed())[0]]
        return peer.rest()

    return try_it


async def says_hello_without_a_subprotocol(server: Server) -> Any:
    """The status line of a handshake that offers none."""
    peer = await server.tcp()
    await peer.send(handshake(protocol=None))
    status = int((await peer.read_head()).split()[1])
    peer.close()
    return status


async def is_left(server: Server) -> Any:
    """The close code of a client when the server stops."""
    peer = await server.peer()
    await server.runner.cleanup()
    return (await peer.closed())[0]


REFUSED = {"error": True, "message": "no such topic", "code": 404, "uri": "chat/nowhere"}

ROWS: list[tuple[str, Callable[[Server], Any], dict[str, Any], Any, Any]] = [
    (
        "exclude_publisher=False",
        sends('[7,"acme\\/channel",{"msg":"hi"}]'),
        {"exclude_publisher": False},
        [],
        [[8, TOPIC, {"msg": "hi"}]],
    ),
    (
        'empty_eligible="everybody"',
        sends('[7,"acme\\/channel","pushed",[],[]]'),
        {"empty_eligible": "everybody"},
        [],
        [[8, TOPIC, "pushed"]],
    ),
    (
        "relay=True",
        sends('[7,"room\\/1","hi",false]', subscribe="room/1"),
        {"catch_all": True},
        [],
        [[8, "room/1", "hi"]],
    ),
    ("[2, id, uri, {", sends('[2,"0.1","sample\\/sum",{"x":2,"y":3}]'), {}, [[3, "0.1", 5]], [[3, "0.1", 5]]),
    ("[2, id, uri, {", sends('[2,"0.1","sample\\/sum",[2,3]]'), {}, [[3, "0.1", 5]], [[3, "0.1", 5]]),
    (
        "explain_refusals=True",
        sends('[5,"chat\\/nowhere"]'),
        {"explain_refusals": True},
        [],
        [[8, "chat/nowhere", REFUSED]],
    ),
    (
        "error_uris={",
        sends('[2,"0.2","sample\\/nothing"]'),
        {"error_uris": {"not_found": BABDEV}},
        [[4, "0.2", "http://api.wamp.ws/error#NoSuchRPCEndpoint", "no such procedure: 'sample/nothing'"]],
        [[4, "0.2", BABDEV, "no such procedure: 'sample/nothing'"]],
    ),
    ("require_subprotocol=False", says_hello_without_a_subprotocol, {"require_subprotocol": False}, 400, 101),
    ('malformed="ignore"', sends('[2,17,"sample\\/sum",1,2]'), {"malformed": "ignore"}, [1002], []),
    ('goodbye="drop"', is_left, {"goodbye": "drop"}, 1012, 1006),
]


async def test_each_behaviour_has_its_option() -> None:
    """By default and with the option, as the table of docs/protocol.md says, which has a row for each."""
    wrong: list[Any] = []
    table = DOC.split("### Behaviours that differ, and the option")[1].split("###")[0]
    for option, try_it, options, default, changed in ROWS:
        if option not in table:
            wrong.append((option, "is not in the table"))
        for given, expected in (({}, default), (options, changed)):
            async with serve(app_of(**given)) as server:
                seen = await try_it(server)
            if seen != expected:
                wrong.append((option, given, seen))
    assert wrong == []
