"""`Limits`: the options, the bounds of messages and subscriptions, and the number of connections."""

import json
from typing import Any

import pytest

from wampkit import App, DeclarationError, Limits, connect

from .support.limits import is_well, make
from .support.tables import rows
from .support.wire import CALL, ERROR, PREFIX, RESULT, SUBSCRIBE, eventually, handshake, serve

LIMIT = "http://api.wamp.ws/error#limit-exceeded"


# ---- the options


@rows(
    ("limits", "word"),
    [
        ({"message_size": 0}, "message_size"),
        ({"nesting": -1}, "nesting"),
        ({"calls": None}, "calls"),
        ({"queue": "1 MiB"}, "queue"),
        ({"connections": 0}, "connections"),
        ({"prefixes": True}, "prefixes"),
        ({"messages_per_second": 0}, "messages_per_second"),
        ({"messages_per_second": float("nan")}, "messages_per_second"),
        ({"burst": 5}, "burst"),
        ({"flood": "shout"}, "flood"),
        ({"slow_reader": "wait"}, "slow_reader"),
    ],
)
def test_a_limit_that_cannot_work_is_refused(limits: dict[str, Any], word: str) -> None:
    """A wrong limit is an error at once that names it."""
    with pytest.raises(DeclarationError, match=word):
        Limits(**limits)


def test_the_defaults_are_documented() -> None:
    """The table of docs/options.md has each limit with its default."""
    from dataclasses import fields

    from .support.pages import page

    table = page("docs/options.md").text
    for field in fields(Limits):
        default = "off" if field.default is None else f"`{json.dumps(field.default)}`"
        default = {
            "1052672": "1 MiB + 4 KiB",
            "1048576": "1 MiB",
            "8388608": "8 MiB",
            "32768": "32 KiB",
            "65536": "64 KiB",
        }.get(default.strip("`"), default)
        if field.name == "threads_per_connection":
            default = "a quarter of `threads`"
        if isinstance(field.default, int) and "iB" not in default:
            default = f"{field.default:,}"
        assert f"| `{field.name}` | {default} |" in table, f"{field.name}: {default}"


# ---- messages


async def test_by_default_one_mebibyte_of_argument_is_taken() -> None:
    """1 MiB and its envelope is answered, 1 MiB and 8 KiB closes with 1009."""
    async with serve(make()) as server:
        peer = await server.peer()
        assert len(await peer.result("echo", "x" * 2**20)) == 2**20
        await peer.send(CALL, "1", "echo", "x" * (2**20 + 8192))
        assert (await peer.closed())[0] == 1009


@pytest.mark.parametrize("nesting", [3, 10, 200])
async def test_nesting_is_bounded(nesting: int) -> None:
    """Lists and objects nest as deep as the limit says, and one level more closes with 1007."""
    async with serve(make(nesting=nesting)) as server:
        for depth in (nesting - 1, nesting):
            peer = await server.peer()
            await peer.send_text('[2,"1","echo",' + "[" * (depth - 1) + "]" * (depth - 1) + "]")
            assert (await peer.next())[:2] == [RESULT, "1"]
        await peer.send_text('[2,"2","echo",' + '{"a":' * nesting + "1" + "}" * nesting + "]")
        code, reason = await peer.closed()
        assert (code, reason) == (1007, f"nested deeper than {nesting} levels")
        assert await is_well(server)


async def test_a_uri_is_bounded_in_bytes_with_its_prefix_expanded() -> None:
    """A URI at the limit is looked up; one byte more is answered with limit_exceeded, and the connection goes on."""
    async with serve(make(uri_length=100)) as server:
        peer = await server.peer()
        for name in ("x" * 95, "\u00e9" * 47 + "x"):
            assert len(("item/" + name).encode()) == 100
            assert await peer.result("item/" + name) == name
            answer = await peer.call("item/" + name + "x")
            assert answer == [ERROR, answer[1], LIMIT, "the URI is longer than 100 bytes"]
        assert (await peer.call("y" * 101))[2] == LIMIT
        assert (await peer.call("y" * 100))[2] == "http://api.wamp.ws/error#NoSuchRPCEndpoint"
        assert (await peer.call("t:" + "z" * 94))[2] == LIMIT
        await peer.send(SUBSCRIBE, "t:" + "z" * 91)
        await peer.send(SUBSCRIBE, "t:" + "z" * 92)
        assert await peer.result("count") == 1


async def test_prefixes_are_bounded() -> None:
    """As many prefixes as the limit says, besides the app's own; one more closes with 1008, redefining does not."""
    async with serve(make(prefixes=3)) as server:
        peer = await server.peer()
        for number in range(3):
            await peer.send(PREFIX, f"p{number}", "http://x/")
        await peer.send(PREFIX, "p1", "ec")
        await peer.send(PREFIX, "t", "http://y/")
        assert await peer.result("p1:ho", 1) == 1
        await peer.send(PREFIX, "p3", "http://x/")
        assert await peer.closed() == (1008, "more than 3 prefixes")
        assert await is_well(server)


async def test_the_bytes_of_prefixes_are_bounded() -> None:
    """Names and URIs of a client's prefixes count together; what is replaced counts no more, the app's never."""
    async with serve(make(prefixes_size=100)) as server:
        peer = await server.peer()
        for number in range(9):
            await peer.send(PREFIX, "p1", "x" * (90 + number))
        await peer.send(PREFIX, "p1", "\u00e9" * 40)  # 80 bytes
        await peer.send(PREFIX, "t", "")
        await peer.send(PREFIX, "p2", "y" * 15)
        assert await peer.result("echo", 1) == 1
        await peer.send(PREFIX, "p3", "")
        assert await peer.closed() == (1008, "more than 100 bytes of prefixes and their URIs")
        assert await is_well(server)


@pytest.mark.parametrize("prefix", [["p" * 51, "http://x/"], ["p", "u" * 51]])
async def test_a_prefix_is_as_short_as_a_uri(prefix: list[str]) -> None:
    """A prefix, and what it stands for, is no longer than a URI may be."""
    async with serve(make(uri_length=50)) as server:
        peer = await server.peer()
        await peer.send(PREFIX, *[text[:50] for text in prefix])
        assert await peer.result("echo", 1) == 1
        await peer.send(PREFIX, *prefix)
        assert await peer.closed() == (1008, "a prefix or its URI is longer than 50 bytes")


async def test_subscriptions_are_bounded() -> None:
    """Subscriptions beyond the limit are refused, and a place that is given back can be taken again."""
    app = make(subscriptions=3)
    async with serve(app) as server:
        peer = await server.peer()
        for number in range(5):
            await peer.send(SUBSCRIBE, f"t:{number}")
        assert await peer.result("count") == 3
        assert app.counters.over_limit == 2
        assert await peer.result("wampkit:subscription", "t:3") is None
        await peer.send(6, "t:0")
        await peer.send(SUBSCRIBE, "t:4")
        assert await peer.result("wampkit:subscription", "t:4") == "http://x/4"
        assert await is_well(server)


async def test_the_bytes_of_subscribed_uris_are_bounded() -> None:
    """Subscriptions whose URIs take more bytes than the limit are refused, and what is given back can be used again."""
    app = make(subscriptions_size=30)
    async with serve(app) as server:
        peer = await server.peer()
        for name in (
            "a" * 5,
            "b" * 5,
            "c" * 5,
            "\u00e9" * 4,
            "",
        ):  # with http://x/ in front: 14, 14, 14, 17 and 9 bytes
            await peer.send(SUBSCRIBE, f"t:{name}")
        assert await peer.result("count") == 2
        assert app.counters.over_limit == 2
        await peer.send(6, "t:bbbbb")
        await peer.send(SUBSCRIBE, "t:cccccc")
        assert await peer.result("wampkit:subscription", "t:cccccc") == "http://x/cccccc"
        assert await is_well(server)


async def test_the_client_learns_that_a_subscription_was_refused() -> None:
    """wampkit's own client knows that its subscription does not stand."""
    async with (
        serve(make(subscriptions=1)) as server,
        connect(server.url) as client,
        client.subscribe("t:1") as one,
        client.subscribe("t:2") as two,
    ):
        assert (one.accepted, two.accepted) == (True, False)


# ---- connections


async def test_connections_in_all_are_bounded() -> None:
    """One connection too many is refused with 503, and a place that becomes free can be taken."""
    app = make(connections=2)
    async with serve(app) as server:
        first, second = await server.peer(), await server.peer()
        refused = await server.ask(handshake())
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refused
        assert app.counters.refused == 1
        await first.close()
        await eventually(lambda: len(app.connections) == 1)
        assert await (await server.peer()).result("echo", 1) == 1
        assert await second.result("echo", 2) == 2


async def test_connections_of_one_address_are_bounded() -> None:
    """One connection too many from an address is refused with 429; other addresses are let in."""
    async with serve(make(connections_per_address=2)) as server:
        peers = [await server.peer(), await server.peer()]
        assert (await server.ask(handshake())).startswith(b"HTTP/1.1 429 ")
        other = await server.raw(source="127.0.0.2")
        await other.send_message(CALL, "1", "echo", 1)
        assert await other.read_message() == [RESULT, "1", 1]
        assert [await peer.result("echo", 1) for peer in peers] == [1, 1]


async def test_the_headers_of_a_handshake_are_bounded() -> None:
    """URL and headers up to the limit are taken; a byte more is answered with 431, whether in one header or many."""
    app = make(handshake_size=2000)
    async with serve(app) as server:
        base = handshake("/ws")
        size = len(base.partition(b" ")[2]) - len(" HTTP/1.1\r\n")  # without the method
        lines = base.count(b"\r\n") - 2
        size -= 4 * lines + 2  # each line's colon, space and end, and the last empty one
        spare = 2000 - size - 2
        assert (await server.ask(handshake("/ws", "X: " + "x" * (spare + 1)))).startswith(b"HTTP/1.1 101 ")
        for more in (["X: " + "x" * (spare + 2)], [f"X{number:02}: {'x' * 20}" for number in range(90)]):
            assert (await server.ask(handshake("/ws", *more))).startswith(b"HTTP/1.1 431 "), more
        assert (await server.ask(handshake("/ws?" + "x" * 2000))).startswith(b"HTTP/1.1 431 ")
        assert await is_well(server)


async def test_one_address_is_one_however_it_is_written() -> None:
    """Addresses of one IPv6 /64, and an IPv4 address in both its forms, share their places; others have their own."""
    refused = []
    for first, second, same in (
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("203.0.113.7", "203.0.113.8", False),
    ):
        app = App(limits=Limits(connections_per_address=1), trusted_proxies=["127.0.0.1"])
        async with serve(app) as server:
            await server.peer(headers={"X-Forwarded-For": first})
            peer = await server.tcp()
            await peer.send(handshake(server.path, f"X-Forwarded-For: {second}"))
            if (await peer.read_head()).startswith(b"HTTP/1.1 429 ") is not same:
                refused.append((first, second))
    assert refused == []


async def test_a_refused_handshake_gives_its_place_back() -> None:
    """A handshake that a middleware refuses, or that is none, does not count any more."""
    app = make(connections=1, connections_per_address=1)
    async with serve(app) as server:
        for _ in range(3):
            assert (await server.ask(handshake(protocol="other"))).startswith(b"HTTP/1.1 400 ")
        assert await (await server.peer()).result("echo", 1) == 1
