"""The gate by host: clients are judged by the host name that they ask for."""

import asyncio
from pathlib import Path

import pytest

from wampkit import AllowHosts, App, DeclarationError

from ..support.command import command, write
from ..support.tables import rows
from ..support.wire import Server, handshake, serve


async def status(server: Server, *headers: str, source: str = "127.0.0.1", host: str | None = "localhost") -> int:
    """The HTTP status of a handshake."""
    peer = await server.tcp(source=source)
    line = b"" if host is None else b"Host: %b\r\n" % host.encode(errors="surrogateescape")
    await peer.send(handshake("/ws", *headers).replace(b"Host: localhost\r\n", line))
    head = await peer.read_head()
    peer.close()
    return int(head.split()[1])


HOSTS = [
    # rules, Host header, whether it is let in
    (["example.com"], "example.com", True),
    (["example.com"], "EXAMPLE.com", True),
    (["Example.COM"], "example.com", True),
    (["example.com"], "example.com:8080", True),
    (["example.com"], "evil.example", False),
    (["example.com"], "www.example.com", False),
    (["example.com"], "example.com.evil.example", False),
    (["example.com"], "evilexample.com", False),
    (["example.com"], "example.com.", False),
    (["example.com"], "example.com:", False),
    (["example.com"], "example.com:x", False),
    (["example.com"], "example.com:99999", False),
    (["example.com"], "user@example.com", False),
    (["example.com"], "example.com/x", False),
    (["example.com"], "example.com,evil.example", False),
    (["example.com"], "\udcffexample.com", False),
    (["example.com"], "\uff45xample.com", False),
    (["example.com"], "", False),
    (["example.com:8443"], "example.com:8443", True),
    (["example.com:8443"], "example.com", False),
    (["example.com:80"], "example.com", True),
    (["example.com:443"], "example.com", False),
    (["*.example.com"], "www.example.com", True),
    (["*.example.com"], "a.b.example.com:1", True),
    (["*.example.com"], "example.com", False),
    (["*.example.com"], "evilexample.com", False),
    (["*.example.com"], ".example.com", False),
    (["*.example.com:80"], "www.example.com:81", False),
    (["exämple.com"], "xn--exmple-cua.com", True),
    (["127.0.0.1"], "127.0.0.1:8080", True),
    (["127.0.0.1"], "127.1", False),
    (["[::1]"], "[::1]:8080", True),
    (["::1"], "[::1]", True),
    (["[0:0::1]:8080"], "[::1]:8080", True),
    (["::1"], "[0:0:0:0:0:0:0:1]", True),
    (["::1"], "::1", False),
    (["a.example", "b.example"], "b.example", True),
]


@rows(("rules", "host", "allowed"), HOSTS)
async def test_clients_are_judged_by_the_host_they_ask_for(rules: list[str], host: str, allowed: bool) -> None:
    """Only the named hosts are answered for: a page that pointed its own name here asks for that name."""
    async with serve(App(middlewares=[AllowHosts(*rules)])) as server:
        assert await status(server, host=host) in ({101} if allowed else {400, 403})


@rows("rule", ["", "exa mple.com", "http://example.com", "*", "*.", "h:0", "h:x", "*.1.2.3.4", "a..b"])
def test_what_is_no_host_is_refused_at_once(rule: str) -> None:
    """A wrong entry in AllowHosts is an error."""
    with pytest.raises(DeclarationError, match="AllowHosts"):
        AllowHosts(rule)


def test_no_host_at_all_is_refused_at_once() -> None:
    """AllowHosts without hosts would let nobody in."""
    with pytest.raises(DeclarationError, match="nobody"):
        AllowHosts()


REBINDING = """
from wampkit import AllowHosts, App

app = App()
named = App(middlewares=[AllowHosts("my.test", "localhost")])
"""


@pytest.mark.parametrize("option", ["--debug", "--reload"])
async def test_rebound_names_are_kept_out_while_developing(option: str, tmp_path: Path) -> None:
    """`run --debug` and `--reload` on a loopback address refuse pages whose own name was pointed there."""
    write(tmp_path, rebound=REBINDING)
    async with command("run", "rebound:app", "--port", "0", option, cwd=tmp_path) as running:
        port = int((await running.url()).rpartition(":")[2].partition("/")[0])
        rebound = await _page(port, "evil.example")
        assert rebound.startswith(b"HTTP/1.1 403 ")
        assert b"host name" in rebound
        for host in "localhost", "app.localhost", "127.0.0.1", "[::1]":
            assert (await _page(port, host)).startswith(b"HTTP/1.1 101 "), host
        assert (await _page(port, "evil.example", page=False)).startswith(b"HTTP/1.1 101 ")
        await running.said("AllowHosts")


async def test_names_of_ones_own_while_developing(tmp_path: Path) -> None:
    """Where the app names its hosts, those are the ones."""
    write(tmp_path, rebound=REBINDING)
    async with command("run", "rebound:named", "--port", "0", "--debug", cwd=tmp_path) as running:
        port = int((await running.url()).rpartition(":")[2].partition("/")[0])
        assert (await _page(port, "my.test")).startswith(b"HTTP/1.1 101 ")
        assert (await _page(port, "evil.example")).startswith(b"HTTP/1.1 403 ")


async def test_in_production_any_host_may_be_asked_for(tmp_path: Path) -> None:
    """Without these options a proxy on the same machine passes real host names on."""
    write(tmp_path, rebound=REBINDING)
    async with command("run", "rebound:app", "--port", "0", cwd=tmp_path) as running:
        port = int((await running.url()).rpartition(":")[2].partition("/")[0])
        assert (await _page(port, "example.com")).startswith(b"HTTP/1.1 101 ")


async def _page(port: int, host: str, *, page: bool = True) -> bytes:
    """The first answer to a page of a host that connects to that very host, and by DNS came here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    origin = [f"Origin: http://{host}:{port}"] if page else []
    writer.write(handshake("/ws", *origin).replace(b"Host: localhost", f"Host: {host}:{port}".encode()))
    answer = await asyncio.wait_for(reader.read(4096), 5)
    writer.close()
    await writer.wait_closed()
    return answer
