"""Who the client is behind proxies: the word of trusted ones is taken, from the right, and nobody else's."""

import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from wampkit import AllowAddresses, App, BlockAddresses, DeclarationError, Limits, TrustedProxies

from ..support.command import command, wampkit, write
from ..support.tables import rows
from ..support.wire import Server, handshake, serve
from .test_addresses import ask_unix, on_unix_socket

PROXIES = ["127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48"]

UNREADABLE = 400


async def remote_of(server: Server, *headers: str, source: str = "127.0.0.1") -> str | int | None:
    """The address by which the app knows a client that sends these headers, or the HTTP status of a refusal."""
    peer = await server.tcp(source=source)
    await peer.send(handshake("/ws", *headers))
    code = int((await peer.read_head()).split()[1])
    if code != 101:
        peer.close()
        return code
    connection = server.app.connections.get((await peer.read_message())[1])
    assert connection is not None
    remote = connection.remote
    peer.close()
    return remote


FORWARDED_FOR: list[tuple[list[str], str | int]] = [
    # X-Forwarded-For headers that a trusted peer sends, who the client is
    ([], "127.0.0.1"),
    (["203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7, 10.0.0.1"], "203.0.113.7"),
    (["203.0.113.7,10.0.0.1 ,  10.0.0.2"], "203.0.113.7"),
    (["198.51.100.1, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
    (["10.0.0.9, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
    (["127.0.0.1, 203.0.113.7"], "203.0.113.7"),
    (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    (["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
    (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7", "10.0.0.1, 10.0.0.2"], "203.0.113.7"),
    (["203.0.113.7, ::ffff:10.0.0.1"], "203.0.113.7"),
    (["::ffff:203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7:4711"], "203.0.113.7"),
    (["2001:db8::1"], "2001:db8::1"),
    (["2001:DB8:0::1"], "2001:db8::1"),
    (["[2001:db8::1]"], "2001:db8::1"),
    (["[2001:db8::1]:4711"], "2001:db8::1"),
    (["2001:db8::1, [2001:db8:ffff::5]:443, 10.0.0.1:80"], "2001:db8::1"),
    ([", ".join(["198.51.100.1"] * 99 + ["203.0.113.7"])], "203.0.113.7"),
    ([", ".join(["203.0.113.7"] + ["10.0.0.1"] * 99)], "203.0.113.7"),
    # what stands to the left of the client is whatever it sent
    (["unknown, 203.0.113.7"], "203.0.113.7"),
    (["'; DROP TABLE, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
    # a hop that is needed and cannot be read
    ([""], UNREADABLE),
    (["unknown"], UNREADABLE),
    (["203.0.113.7, unknown"], UNREADABLE),
    (["203.0.113.7, "], UNREADABLE),
    (["203.0.113.7,, 10.0.0.1"], UNREADABLE),
    ([", 10.0.0.1"], UNREADABLE),
    (["203.0.113.7", ""], UNREADABLE),
    (["_hidden"], UNREADABLE),
    (["unix:"], UNREADABLE),
    (["unix"], UNREADABLE),
    (["203.0.113"], UNREADABLE),
    (["203.0.113.007"], UNREADABLE),
    (["203.0.113.7:port"], UNREADABLE),
    (["203.0.113.7:"], UNREADABLE),
    (["[203.0.113.7]"], UNREADABLE),
    (["[2001:db8::1"], UNREADABLE),
    (["for=203.0.113.7"], UNREADABLE),
    (["203.0.113.7 10.0.0.1"], UNREADABLE),
    (["203.0.113.7/32"], UNREADABLE),
]


@rows(("lines", "client"), FORWARDED_FOR)
async def test_a_trusted_proxy_names_the_client(lines: list[str], client: str | int) -> None:
    """The first hop from the right that is not trusted is the client; one that cannot be read refuses with 400."""
    async with serve(App(trusted_proxies=PROXIES)) as server:
        assert await remote_of(server, *[f"X-Forwarded-For: {line}" for line in lines]) == client


@rows(("lines", "client"), FORWARDED_FOR)
@rows("app", [App(trusted_proxies=PROXIES), App()])
async def test_anybody_elses_word_is_ignored(app: App, lines: list[str], client: str | int) -> None:
    """From a peer that is not trusted the header means nothing, whatever stands in it."""
    async with serve(app) as server:
        headers = [f"X-Forwarded-For: {line}" for line in lines]
        assert await remote_of(server, *headers, source="127.0.0.9") == "127.0.0.9"


@rows(
    "header",
    ["X_Forwarded_For", "X-Real-IP", "Forwarded-For", "Client-IP", "X-Forwarded", "True-Client-IP", "X-Forwarded-Host"],
)
async def test_other_headers_are_ignored(header: str) -> None:
    """A trusted proxy names the client in the configured header alone."""
    async with serve(App(trusted_proxies=PROXIES)) as server:
        assert await remote_of(server, f"{header}: 203.0.113.7") == "127.0.0.1"
        assert await remote_of(server, f"{header}: 203.0.113.7", "X-Forwarded-For: 203.0.113.8") == "203.0.113.8"
        assert await remote_of(server, "Forwarded: for=203.0.113.7") == "127.0.0.1"
    async with serve(App(trusted_proxies=TrustedProxies(*PROXIES, header="Forwarded"))) as server:
        assert await remote_of(server, "X-Forwarded-For: 203.0.113.7") == "127.0.0.1"


FORWARDED: list[tuple[list[str], str | int]] = [
    # Forwarded headers (RFC 7239) that a trusted peer sends, who the client is
    ([], "127.0.0.1"),
    (["for=203.0.113.7"], "203.0.113.7"),
    (["For=203.0.113.7"], "203.0.113.7"),
    (['for="203.0.113.7"'], "203.0.113.7"),
    (['for="203.0.113.7:4711"'], "203.0.113.7"),
    (["for=203.0.113.7:4711"], "203.0.113.7"),
    (['for="[2001:db8::1]:4711"'], "2001:db8::1"),
    (['for="[2001:db8::1]"'], "2001:db8::1"),
    (["for=203.0.113.7;proto=https;by=10.0.0.1;host=example.com"], "203.0.113.7"),
    (["proto=https ; for=203.0.113.7 , for=10.0.0.1"], "203.0.113.7"),
    (["for=198.51.100.1, for=203.0.113.7, for=10.0.0.1"], "203.0.113.7"),
    (["for=198.51.100.1", "for=203.0.113.7"], "203.0.113.7"),
    (["for=unknown, for=203.0.113.7"], "203.0.113.7"),
    (["for=10.0.0.2, for=10.0.0.1"], "10.0.0.2"),
    (['for="203.0.113.\\7"'], "203.0.113.7"),
    ([""], UNREADABLE),
    (["for=unknown"], UNREADABLE),
    (["for=_gazonk"], UNREADABLE),
    (["for="], UNREADABLE),
    (['for=""'], UNREADABLE),
    (["proto=https"], UNREADABLE),
    (["for=203.0.113.7;"], UNREADABLE),
    (["for=203.0.113.7,"], UNREADABLE),
    (["for=203.0.113.7,,for=10.0.0.1"], UNREADABLE),
    (["for=203.0.113.7;for=198.51.100.1"], UNREADABLE),
    (["203.0.113.7"], UNREADABLE),
    (["for = 203.0.113.7"], UNREADABLE),
    # a quote that the client opened must not swallow what the proxy wrote
    (['for="198.51.100.1, for=203.0.113.7'], UNREADABLE),
    (['for="198.51.100.1', 'for="203.0.113.7"'], UNREADABLE),
    (['for=198.51.100.1;x="', 'for="[2001:db8::1]:80";by="10.0.0.1"'], UNREADABLE),
    (['for=198.51.100.1;x="\\', 'for="203.0.113.7"'], UNREADABLE),
]


@rows(("lines", "client"), FORWARDED)
async def test_a_trusted_proxy_names_the_client_in_forwarded(lines: list[str], client: str | int) -> None:
    """With header="Forwarded" the same holds for RFC 7239; what does not follow its grammar refuses with 400."""
    async with serve(App(trusted_proxies=TrustedProxies(*PROXIES, header="Forwarded"))) as server:
        assert await remote_of(server, *[f"Forwarded: {line}" for line in lines]) == client


@rows(
    ("proxies", "headers", "secure"),
    [
        (PROXIES, [], False),
        (PROXIES, ["X-Forwarded-Proto: https"], True),
        (PROXIES, ["X-Forwarded-Proto: HTTPS"], True),
        (PROXIES, ["X-Forwarded-Proto: wss"], True),
        (PROXIES, ["X-Forwarded-Proto: http"], False),
        (PROXIES, ["X-Forwarded-Proto: nonsense"], False),
        (PROXIES, ["X-Forwarded-Proto: https, http", "X-Forwarded-For: 203.0.113.7, 10.0.0.1"], True),
        (PROXIES, ["X-Forwarded-Proto: https, http", "X-Forwarded-For: 203.0.113.7"], False),
        (PROXIES, ["X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.7, 10.0.0.1"], True),
        (PROXIES, ["Forwarded: for=203.0.113.7;proto=https"], False),
        (["10.0.0.1"], ["X-Forwarded-Proto: https"], False),
        (TrustedProxies(*PROXIES, header="Forwarded"), ["Forwarded: for=203.0.113.7;proto=https"], True),
        (TrustedProxies(*PROXIES, header="Forwarded"), ["Forwarded: for=1.1.1.1;proto=https, for=2.2.2.2"], False),
        (TrustedProxies(*PROXIES, header="Forwarded"), ["X-Forwarded-Proto: https"], False),
    ],
)
async def test_a_trusted_proxy_says_whether_the_client_speaks_tls(
    proxies: Any, headers: list[str], secure: bool
) -> None:
    """`connection.secure` is what the trusted proxy says of the client, else what the socket shows."""
    async with serve(App(trusted_proxies=proxies)) as server:
        peer = await server.tcp()
        await peer.send(handshake("/ws", *headers))
        await peer.read_head()
        connection = server.app.connections.get((await peer.read_message())[1])
        assert connection is not None
        assert connection.secure is secure


async def test_the_client_and_not_the_proxy_is_judged() -> None:
    """Gates by address judge the client behind a trusted proxy, and blocking closes its connections."""
    gate = BlockAddresses("203.0.113.7")
    async with serve(App(trusted_proxies=PROXIES, middlewares=[gate])) as server:
        assert await remote_of(server, "X-Forwarded-For: 203.0.113.7, 10.0.0.1") == 403
        peer = await server.tcp()
        await peer.send(handshake("/ws", "X-Forwarded-For: 203.0.113.8"))
        await peer.read_head()
        gate.block("203.0.113.8")
        assert (await peer.read_close())[0] == 1008
    async with serve(App(trusted_proxies=PROXIES, middlewares=[AllowAddresses("203.0.113.0/24")])) as server:
        assert await remote_of(server, "X-Forwarded-For: 203.0.113.7") == "203.0.113.7"
        assert await remote_of(server) == 403


async def test_the_limit_per_address_counts_clients() -> None:
    """Behind a trusted proxy each client has its own places; a hop that cannot be read takes none."""
    limits = Limits(connections_per_address=1)
    async with serve(App(trusted_proxies=PROXIES, limits=limits)) as server:
        held = await server.tcp()
        await held.send(handshake("/ws", "X-Forwarded-For: 203.0.113.7"))
        assert b" 101 " in await held.read_head()
        for _ in range(3):
            assert await remote_of(server, "X-Forwarded-For: unknown") == UNREADABLE
        second = await server.tcp()
        await second.send(handshake("/ws", "X-Forwarded-For: 203.0.113.7:99"))
        assert b" 429 " in await second.read_head()
        assert await remote_of(server, "X-Forwarded-For: 203.0.113.8") == "203.0.113.8"


async def test_a_refusal_names_the_client_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log tells of the client, or of the proxy whose word could not be read."""
    caplog.set_level(logging.INFO, "wampkit")
    async with serve(App(trusted_proxies=PROXIES, middlewares=[BlockAddresses("203.0.113.7")])) as server:
        assert await remote_of(server, "X-Forwarded-For: 203.0.113.7") == 403
        assert await remote_of(server, "X-Forwarded-For: nobody") == UNREADABLE
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "refused '203.0.113.7' with HTTP 403" in lines[0]
    assert "refused '127.0.0.1' with HTTP 400" in lines[1]
    assert "X-Forwarded-For names 'nobody'" in lines[1]


# ---- unix sockets


async def test_a_proxy_on_a_unix_socket(tmp_path: Path) -> None:
    """The word "unix" trusts whoever speaks on a unix socket; without it the header means nothing there."""
    for proxies, expected in (["unix"], 403), ([], 101), (["127.0.0.1"], 101):
        app = App(trusted_proxies=proxies, middlewares=[BlockAddresses("203.0.113.7")])
        path = tmp_path / f"socket{len(proxies)}{expected}"
        async with on_unix_socket(app, path):
            assert await ask_unix(path, None, "X-Forwarded-For: 203.0.113.7") == expected


# ---- what a site has done already


async def test_a_site_may_have_found_the_client() -> None:
    """Without trusted proxies, what the aiohttp application around put into the request is the client's address."""

    @web.middleware
    async def relabel(request: web.Request, handler: Any) -> web.StreamResponse:
        answer: web.StreamResponse = await handler(request.clone(remote="203.0.113.7"))
        return answer

    for proxies, expected in ([], "203.0.113.7"), (["10.0.0.1"], "127.0.0.1"):
        site = web.Application(middlewares=[relabel])
        app = App(trusted_proxies=proxies)
        app.setup(site)
        async with serve(app, web_app=site) as server:
            assert await remote_of(server) == expected


# ---- a warning


@rows(
    ("app", "header", "warned"),
    [
        (App(middlewares=[BlockAddresses()]), "X-Forwarded-For", True),
        (App(middlewares=[AllowAddresses("127.0.0.0/8")]), "X-Forwarded-For", True),
        (App(middlewares=[BlockAddresses()]), "Forwarded", True),
        (App(middlewares=[BlockAddresses()], trusted_proxies=["10.0.0.1"]), "X-Forwarded-For", True),
        (App(middlewares=[BlockAddresses()], trusted_proxies=["10.0.0.1"]), "Forwarded", False),
        (App(middlewares=[BlockAddresses()], trusted_proxies=["127.0.0.1"]), "X-Forwarded-For", False),
        (App(), "X-Forwarded-For", False),
    ],
)
async def test_a_header_that_is_ignored_is_warned_of(
    app: App, header: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a gate judges addresses, an address claimed by a peer that is not trusted is worth one line and a count."""
    async with serve(app) as server:
        for _ in range(9):
            assert isinstance(await remote_of(server, f"{header}: for=203.0.113.7"), str | int)
    lines = [record.getMessage() for record in caplog.records if "trusted" in record.getMessage()]
    assert len(lines) == (2 if warned else 0)
    assert not warned or lines[1].endswith(" (7 more like this)")
    assert all("127.0.0.1" in line and "name it with trusted_proxies" in line for line in lines)


# ---- wrong declarations


@rows(
    ("proxies", "words"),
    [
        ("10.0.0.0/8", "write \\['10.0.0.0/8'\\]"),
        (["10.0.0.0/99"], "10.0.0.0/99"),
        (["proxy.example.com"], "proxy.example.com"),
        (["0.0.0.0/0"], "trusts everybody"),
        (["10.0.0.1", "::/0"], "trusts everybody"),
        (["::ffff:0.0.0.0/96"], "trusts everybody"),
        ([10], "10"),
        (10, "a list of addresses and networks, not 10"),
    ],
)
def test_wrong_proxies_are_refused_at_once(proxies: Any, words: str) -> None:
    """What is no network, or all the world, is an error that shows it."""
    with pytest.raises(DeclarationError, match=f"trusted_proxies.*{words}"):
        App(trusted_proxies=proxies)


def test_a_wrong_header_is_refused_at_once() -> None:
    """There are two headers to choose from."""
    with pytest.raises(DeclarationError, match="X-Forwarded-For or Forwarded"):
        TrustedProxies("10.0.0.1", header="X-Real-IP")  # type: ignore[arg-type]


# ---- the command


BLOCKED = """
from wampkit import App, BlockAddresses, TrustedProxies

app = App(middlewares=[BlockAddresses("203.0.113.7")], trusted_proxies=["10.0.0.1"])
other = App(
    middlewares=[BlockAddresses("203.0.113.7")], trusted_proxies=TrustedProxies("10.0.0.1", header="Forwarded")
)
"""


@pytest.mark.parametrize("how", ["flag", "variable", "file", "list"])
async def test_the_command_trusts_other_proxies(how: str, tmp_path: Path) -> None:
    """`--trusted-proxies`, its variable and its key replace the app's own proxies; the header stays the app's."""
    write(tmp_path, blocked=BLOCKED)
    value = {"file": '"unix, 127.0.0.0/8"', "list": '["unix", "127.0.0.0/8"]'}.get(how)
    if value is not None:
        (tmp_path / "pyproject.toml").write_text(f"[tool.wampkit]\ntrusted-proxies = {value}\n")
    flags = ["--trusted-proxies", "unix,127.0.0.0/8"] if how == "flag" else []
    env = {"WAMPKIT_TRUSTED_PROXIES": "unix,127.0.0.0/8"} if how == "variable" else {}
    for name, header in ("app", "X-Forwarded-For: 203.0.113.7"), ("other", "Forwarded: for=203.0.113.7"):
        async with command("run", f"blocked:{name}", "--port", "0", *flags, cwd=tmp_path, env=env) as running:
            url = await running.url()
            done = wampkit("call", url, "x", "--header", header, cwd=tmp_path, env=env)
            assert "403" in done.stderr


@pytest.mark.parametrize("value", ["10.0.0.0/99", "proxy", "10.0.0.1;10.0.0.2", "0.0.0.0/0", "\x1b[31m"])
def test_a_wrong_command_is_one_line(value: str, tmp_path: Path) -> None:
    """A mistake in --trusted-proxies is one printable line and exit code 2."""
    write(tmp_path, blocked=BLOCKED)
    done = wampkit("run", "blocked:app", "--trusted-proxies", value, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--trusted-proxies" in done.stderr
    assert done.stderr.rstrip("\n").isprintable()
