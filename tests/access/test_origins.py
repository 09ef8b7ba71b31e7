"""Which web pages may connect: exactly those of the listed origins, whatever else a header may look like."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from wampkit import AllowHosts, AllowOrigins, App, BlockAddresses, Connection, DeclarationError, Refused

from ..support.tables import rows
from ..support.wire import Server, handshake, serve

HOST = "example.com"
"""What the requests of this module ask for, over TLS."""

LISTS: dict[str, list[str]] = {
    "exact": ["https://example.com"],
    "odd": ["HTTPS://EXAMPLE.com:443", "http://localhost:3000", "capacitor://localhost", "https://[0:0::1]"],
    "wild": ["https://*.example.com"],
    "wild port": ["https://*.EXAMPLE.com:8443"],
    "same": ["same-origin"],
    "idn": ["https://exämple.com", "https://*.straße.de"],
    "literal": ["127.0.0.1", "example.com", "null", "file://"],
    "any": ["*"],
}

ALLOWED: dict[str, set[str]] = {
    # an origin, and the lists that let it in; all are let in by "any"
    "https://example.com": {"exact", "odd", "same"},
    "http://localhost:3000": {"odd"},
    "capacitor://localhost": {"odd"},
    "https://[::1]": {"odd"},
    "https://www.example.com": {"wild"},
    "https://a.b.example.com": {"wild"},
    "https://xn--exmple-cua.example.com": {"wild"},
    "https://www.example.com:8443": {"wild port"},
    "https://xn--exmple-cua.com": {"idn"},
    "https://www.xn--strae-oqa.de": {"idn"},
    # another scheme, port or host
    "http://example.com": set(),
    "https://example.com:8443": set(),
    "http://www.example.com": set(),
    "https://www.example.com:444": set(),
    "http://localhost": set(),
    "http://localhost:3001": set(),
    "https://localhost:3000": set(),
    "https://127.0.0.1": set(),
    "https://127.1": set(),
    "https://[::ffff:127.0.0.1]": set(),
    "https://strasse.de": set(),
    "https://www.strasse.de": set(),
    "https://xn--strae-oqa.de": set(),
    "https://xn--exmple-4nf.com": set(),
    "app://example.com": set(),
    "chrome-extension://abcdef": set(),
    "moz-extension://0b1f1a1e-0000-4000-8000-000000000000": set(),
    "capacitor://localhost:80": set(),
    # suffixes and prefixes
    "https://example.com.evil.example": set(),
    "https://evilexample.com": set(),
    "https://evil-example.com": set(),
    "https://evil.example": set(),
    "https://evilexample.com:8443": set(),
    "https://example.co": set(),
    "https://example.comx": set(),
    "https://.example.com": set(),
    "https://a..example.com": set(),
    "https://*.example.com": set(),
    "https://a_b.example.com": set(),
    "https://evil.example/.example.com": set(),
    "https://evil.example#.example.com": set(),
    "https://evil.example?.example.com": set(),
    "https://evil.example:1.example.com": set(),
    "https://evil.example,.example.com": set(),
    "https://evil.example .example.com": set(),
    "https://https://www.example.com": set(),
    # written as no browser writes it
    "https://EXAMPLE.com": set(),
    "HTTPS://example.com": set(),
    "https://example.com:443": set(),
    "https://example.com:0443": set(),
    "https://www.example.com:443": set(),
    "https://www.example.com:08443": set(),
    "https://example.com:99999": set(),
    "https://example.com:0": set(),
    "https://example.com:": set(),
    "https://www.example.com:": set(),
    "https://example.com:x": set(),
    "https://example.com.": set(),
    "https://www.example.com.": set(),
    "https://example.com/": {"exact", "odd", "same"},  # as programs write it
    "https://www.example.com/": {"wild"},
    "https://example.com//": set(),
    "https://example.com/path": set(),
    "https://example.com?x": set(),
    "https://example.com#x": set(),
    "https://user@example.com": set(),
    "https://user:word@example.com": set(),
    "https://example.com@evil.example": set(),
    "https://evil.example@example.com": set(),
    "https://evil.example#@example.com": set(),
    "https://evil.example\\@example.com": set(),
    "https://%65xample.com": set(),
    "https://example.com https://evil.example": set(),
    "https://example.com,https://evil.example": set(),
    " https://example.com": set(),
    "https://example.com\t": set(),
    "https://example.com\n": set(),
    "https://example.com\r\nX: y": set(),
    "https://example.com\x00.evil.example": set(),
    "https://example.com\x7f": set(),
    "https://\uff45xample.com": set(),
    "https://example\u3002com": set(),
    "https://www\u3002example.com": set(),
    "https://exämple.com": set(),
    "https://ex\u0430mple.com": set(),
    "https://example.com\udcff": set(),
    "https://www.straße.de": set(),
    # no origins
    "": set(),
    "null": {"literal"},
    "null/": set(),
    "file://": {"literal"},
    "file:///": set(),
    "NULL": set(),
    "*": set(),
    "same-origin": set(),
    "https://": set(),
    "https://:443": set(),
    "example.com": {"literal"},
    "127.0.0.1": {"literal"},
    "127.0.0.1:8080": set(),
    "www.example.com": set(),
    "EXAMPLE.com": set(),
    "example.com/": set(),
    "//example.com": set(),
    "https:example.com": set(),
    "https:/example.com": set(),
    "data:text/html,x": set(),
}


async def judge(entries: list[str], origins: list[str], hosts: list[str], *, secure: bool = True) -> tuple[bool, str]:
    """Whether `AllowOrigins` lets in a handshake with these Origin and Host headers, and why."""
    headers = CIMultiDict([*(("Origin", each) for each in origins), *(("Host", each) for each in hosts)])
    connection: Any = SimpleNamespace(request=SimpleNamespace(headers=headers), secure=secure)
    try:
        return True, await AllowOrigins(*entries, allow_missing=not entries).connect(connection)
    except Refused as refusal:
        return False, refusal.why


@rows("name", LISTS)
@rows("origin", ALLOWED)
async def test_exactly_the_listed_origins_are_let_in(origin: str, name: str) -> None:
    """Each origin meets each list: the header is compared as it is, with what the list was normalised to once."""
    allowed, why = await judge(LISTS[name], [origin], [HOST])
    assert allowed == (name == "any" or name in ALLOWED[origin])
    assert why.isascii()
    assert why.isprintable()


@rows("name", [name for name in LISTS if name != "any"])
@rows("origins", [["https://example.com", "https://evil.example"], ["https://example.com"] * 2])
async def test_two_origins_are_none(origins: list[str], name: str) -> None:
    """Two Origin headers are refused, even if both are good."""
    assert (await judge(LISTS[name], origins, [HOST]))[0] is False


SAME = [
    # host, TLS, origin, whether it is the same
    ("example.com", True, "https://example.com", True),
    ("EXAMPLE.com", True, "https://example.com", True),
    ("example.com:443", True, "https://example.com", True),
    ("example.com:80", False, "http://example.com", True),
    ("example.com:8443", True, "https://example.com:8443", True),
    ("localhost:8080", False, "http://localhost:8080", True),
    ("127.0.0.1:8080", False, "http://127.0.0.1:8080", True),
    ("[::1]:8080", False, "http://[::1]:8080", True),
    ("example.com", False, "https://example.com", False),
    ("example.com", True, "http://example.com", False),
    ("example.com:80", True, "https://example.com", False),
    ("example.com:8080", False, "http://example.com", False),
    ("localhost:8080", False, "http://localhost:3000", False),
    ("localhost:8080", False, "http://127.0.0.1:8080", False),
    ("example.com", True, "https://www.example.com", False),
    ("www.example.com", True, "https://example.com", False),
    ("example.com.", True, "https://example.com.", False),
    ("user@example.com", True, "https://example.com", False),
    ("example.com/", True, "https://example.com", False),
    ("example.com, evil.example", True, "https://example.com", False),
    ("\u212aelvin.example", True, "https://kelvin.example", False),
    ("example.com:99999", True, "https://example.com:99999", False),
    ("", True, "https://", False),
    ("null", False, "null", False),
]


@rows(("host", "secure", "origin", "same"), SAME)
async def test_the_own_origin(host: str, secure: bool, origin: str, same: bool) -> None:
    """The own origin is that of the scheme, host and port that the handshake was sent to."""
    assert (await judge(["same-origin"], [origin], [host], secure=secure))[0] is same


@pytest.mark.parametrize("hosts", [[], ["example.com", "example.com"]])
async def test_without_one_host_there_is_no_own_origin(hosts: list[str]) -> None:
    """A handshake without exactly one Host has no own origin, but may come from a listed one."""
    assert (await judge(["same-origin"], ["https://example.com"], hosts))[0] is False
    assert (await judge(["same-origin", "https://example.com"], ["https://example.com"], hosts))[0] is True


REASONS = [
    (["https://example.com"], "http://example.com", "the origin 'http://example.com' differs from https://example.com "
     "in its scheme"),
    (["https://example.com"], "https://example.com:8443", "in its port"),
    (["https://example.com"], "http://example.com:8443", "in its scheme and port"),
    (["https://example.com"], "https://evil.example", "in its host"),
    (["https://a.example", "https://b.example"], "https://c.example", "is none of https://a.example, https://b.example"),
    (["https://a.example", "https://b.example"], "http://b.example", "differs from https://b.example in its scheme"),
    ([f"https://{n}.example" for n in "abcde"], "https://x.example", "https://c.example and 2 more"),
    (["https://*.example.com"], "http://www.example.com", "differs from https://*.example.com in its scheme"),
    (["https://*.example.com"], "https://example.com", "differs from https://*.example.com in its host"),
    (["https://*.example.com"], "https://a_b.example.com", "not made of a-z, 0-9 and -"),
    (["same-origin"], "http://example.com", "differs from https://example.com in its scheme: if"),
    (["same-origin"], "https://other.example", "Host"),
    (["same-origin", "https://a.example"], "http://example.com", "in its scheme: if"),
    (["same-origin", "https://a.example"], "http://a.example", "differs from https://a.example in its scheme"),
    ([], "https://example.com", "no page may"),
    (["https://example.com"], "", "is empty"),
    (["https://example.com"], "null", "sandboxed"),
    (["https://example.com"], "https://\uff45xample.com", "is not ASCII"),
    (["https://example.com"], "https://example.com\t", "control characters"),
    (["https://example.com"], "https://EXAMPLE.com", "lower case"),
    (["https://example.com"], "https://a@example.com", "names a user"),
    (["https://example.com"], "https://b\\example.com", "backslash"),
    (["https://example.com"], "https://example.com//", "path"),
    (["example.com"], "https://example.com", "write https://example.com for its pages"),
    (["https://example.com"], "https://example.com?", "query"),
    (["https://example.com"], "https://example.com#", "fragment"),
    (["https://example.com"], "https://%65xample.com", "escape"),
    (["https://example.com"], "https://example.com,x", "list"),
    (["https://example.com"], "https://example.com:", "colon"),
    (["https://example.com"], "https://example.com.", "dot"),
    (["https://example.com"], "https://example.com:0443", "no valid port"),
    (["https://example.com"], "https://example.com:443", "default port"),
    (["https://example.com"], "example.com", "not scheme://host"),
    (["https://example.com"], "file://", "no host"),
    (["https://example.com"], "https://:8443", "no host"),
    (["https://example.com"], "https://example.com.:8443", "dot"),
]  # fmt: skip


@rows(("entries", "origin", "words"), REASONS)
async def test_the_log_says_why(entries: list[str], origin: str, words: str) -> None:
    """The reason names what is wrong with the very header."""
    _, why = await judge(entries, [origin], [HOST])
    assert words in why
    assert (": if" in why) is (words.endswith(": if") or words == "Host"), "a hint is for the own origin alone"


async def test_the_log_hints_at_a_proxy() -> None:
    """Where only the scheme differs from the own origin, and the page came by TLS, a proxy is likely."""
    _, why = await judge(["same-origin"], ["https://example.com"], ["example.com"], secure=False)
    assert why.endswith("is a TLS proxy in front? name it with trusted_proxies")


@rows(
    ("entry", "normal"),
    [
        ("https://Example.COM:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("https://exämple.com", "https://xn--exmple-cua.com"),
        ("https://EXÄMPLE.com", "https://xn--exmple-cua.com"),
        ("https://straße.de", "https://xn--strae-oqa.de"),
        ("https://*.Example.com:444", "https://*.example.com:444"),
        ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ("http://[::ffff:127.0.0.1]", "http://[::ffff:7f00:1]"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://my_app.example", "https://my_app.example"),
        ("https://Example.com/", "https://example.com"),
    ],
)
def test_entries_are_normalised(entry: str, normal: str) -> None:
    """What is configured is brought into the form in which browsers send it."""
    assert AllowOrigins(entry).describe() == f"lets in pages of {normal}"


@rows(
    "entry",
    [
        "a b", "https://", "https://example.com//", "https://example.com/x", "", "ws://example.com", "127.1",
        "wss://example.com", "https://u@h", "http://h:99999", "http://h:0", "http://h:", "https://*", "https://*.",
        "https://*example.com", "https://a.*.com", "https://*.*.com", "*.example.com", "http://127.1", "http://0x7f.1",
        "http://[::1", "http://[fe80::1%25eth0]", "http://*.127.0.0.1", "http://*.[::1]", "file:///", "file:///x",
        "https://example.com.", "https://exa mple.com", "https://example..com", "app://*.example.com", "same-origin ",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_once(entry: str) -> None:
    """A wrong entry in AllowOrigins is an error that shows it."""
    with pytest.raises(DeclarationError, match="AllowOrigins: .*origin"):
        AllowOrigins(entry)


def test_texts_that_are_no_origins_are_described_as_such() -> None:
    """`wampkit check` tells them from the origins of pages."""
    gate = AllowOrigins("https://example.com", "127.0.0.1", "null")
    assert gate.describe() == "lets in pages of https://example.com and the Origin '127.0.0.1' and the Origin 'null'"


def test_a_list_in_the_place_of_an_origin_is_refused() -> None:
    """Origins are arguments of their own; a list of them is an error that says so."""
    with pytest.raises(DeclarationError, match="argument of its own"):
        AllowOrigins(["https://example.com"])  # type: ignore[arg-type]


def test_a_list_that_lets_nobody_in_is_refused() -> None:
    """Without origins, and without clients that send none, nobody could connect."""
    with pytest.raises(DeclarationError, match="nobody"):
        AllowOrigins()


# ---- over sockets


async def status(server: Server, *origins: str) -> int:
    """The HTTP status of a handshake with these Origin headers."""
    peer = await server.tcp()
    lines = b"".join(b"Origin: %b\r\n" % origin.encode(errors="surrogateescape") for origin in origins)
    await peer.send(handshake("/ws").removesuffix(b"\r\n") + lines + b"\r\n")
    head = await peer.read_head()
    peer.close()
    return int(head.split()[1])


@rows("origin", [each for each in ALLOWED if not {*each} & {"\r", "\n"}])
async def test_headers_on_the_wire(origin: str) -> None:
    """Over a real socket no header but the listed ones gets in; what is no HTTP is refused before any gate."""
    # HTTP takes spaces off the ends of a header before anybody sees it.
    allowed = ALLOWED.get(origin.strip(" \t"), set()) & {"odd", "wild"}
    async with serve(App(middlewares=[AllowOrigins(*LISTS["odd"], *LISTS["wild"])])) as server:
        assert await status(server, origin) in ({101} if allowed else {400, 403})


async def test_two_origins_on_the_wire() -> None:
    """A handshake with two Origin headers is refused, whichever comes first."""
    good, evil = "https://example.com", "https://evil.example"
    for app in App(), App(middlewares=[AllowOrigins(good)]):
        async with serve(app) as server:
            assert await status(server, good, evil) == 403
            assert await status(server, evil, good) == 403
            assert await status(server, good, good) == 403


async def test_clients_without_origin_may_be_let_in() -> None:
    """A list keeps out clients that send no Origin; allow_missing lets them in, and no other origin."""
    async with serve(App(middlewares=[AllowOrigins("https://example.com")])) as server:
        assert await status(server) == 403
    async with serve(App(middlewares=[AllowOrigins("https://example.com", allow_missing=True)])) as server:
        assert await status(server) == 101
        assert await status(server, "https://evil.example") == 403
        assert await status(server, "") == 403


async def test_only_clients_without_origin() -> None:
    """allow_missing without any origin keeps out all pages."""
    async with serve(App(middlewares=[AllowOrigins(allow_missing=True)])) as server:
        assert await status(server) == 101
        assert await status(server, "http://localhost") == 403


async def test_a_star_turns_the_check_off() -> None:
    """AllowOrigins("*") lets in any page, and clients that send no Origin."""
    async with serve(App(middlewares=[AllowOrigins("*")])) as server:
        for origins in ["https://evil.example"], ["null"], []:
            assert await status(server, *origins) == 101


# ---- the default


async def test_by_default_only_the_own_pages_connect() -> None:
    """Without AllowOrigins a page must come from the host and port that it connects to; other clients may connect."""
    async with serve(App()) as server:
        # `handshake` asks for the host "localhost".
        assert await status(server, "http://localhost") == 101
        assert await status(server) == 101
        for origin in (
            "https://localhost",
            "http://localhost:3000",
            "https://evil.example",
            "null",
            "",
            "http://LOCALHOST",
        ):
            assert await status(server, origin) == 403


async def test_behind_a_tls_proxy_the_own_pages_connect() -> None:
    """A trusted proxy says that the page came by TLS; anybody else's word does not count."""
    app = App(trusted_proxies=["127.0.0.1"])
    async with serve(app) as server:
        for header, good in ("X-Forwarded-Proto: https", True), ("X-Forwarded-Proto: http", False):
            peer = await server.tcp()
            await peer.send(handshake("/ws", "Origin: https://localhost", header))
            assert (b" 101 " in await peer.read_head()) is good
            peer.close()
    async with serve(App(trusted_proxies=["10.0.0.1"])) as server:
        answer = await server.ask(handshake("/ws", "Origin: https://localhost", "X-Forwarded-Proto: https"))
        assert answer.startswith(b"HTTP/1.1 403 ")


async def test_the_default_says_why_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever runs a server behind a proxy learns from the log what to do; the client learns nothing of it."""
    caplog.set_level(logging.INFO, "wampkit")
    async with serve(App()) as server:
        answer = await server.ask(handshake("/ws", "Origin: https://localhost"))
    assert b"trusted_proxies" not in answer
    assert "is a TLS proxy in front? name it with trusted_proxies" in caplog.text


async def test_a_refused_page_costs_no_session() -> None:
    """The default stands before the app's own gates, but behind those by address and host that the list begins with."""
    asked: list[str] = []

    class Asked:
        async def connect(self, connection: Connection) -> None:
            asked.append("session")

    app = App(middlewares=[BlockAddresses("127.0.0.2"), AllowHosts("localhost"), Asked()])
    async with serve(app) as server:
        refused = {
            # by address, by host, by origin
            "127.0.0.2": (b"Host: evil.example", b"http://other.example", b"address"),
            "127.0.0.3": (b"Host: evil.example", b"http://other.example", b"host"),
            "127.0.0.4": (b"Host: localhost", b"http://evil.example", b"origin"),
        }
        for source, (host, origin, word) in refused.items():
            peer = await server.tcp(source=source)
            await peer.send(handshake("/ws", "Origin: @").replace(b"Host: localhost", host).replace(b"@", origin))
            answer = await peer.read_to_end()
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert word in answer.partition(b"\r\n\r\n")[2]
            peer.close()
        assert asked == []
        assert await status(server, "http://localhost") == 101
        assert asked == ["session"]


async def test_nothing_behind_a_foreign_page_is_run() -> None:
    """By default, too, a request that is pipelined behind a refused handshake is never read."""
    hits: list[str] = []

    async def admin(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(text="admin")

    site = web.Application()
    site.router.add_get("/admin", admin)
    app = App()
    app.setup(site)
    async with serve(app, web_app=site) as server:
        evil = handshake("/ws", "Origin: https://evil.example")
        answer = await server.ask(evil + b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert hits == []
