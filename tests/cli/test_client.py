"""Which server `wampkit call`, `publish` and `subscribe` talk to, and what it is sent: cookies, certificates."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from wampkit import App, Connection

from ..support.certificates import server_context, write_certificate
from ..support.command import command, free_port, wampkit, write

APP = """
from wampkit import App

app = App()


@app.rpc("add")
async def add(x: int, y: int) -> int:
    return x + y


app.topic("news", relay=True)
"""


async def test_without_a_url_the_server_of_this_directory_is_meant(tmp_path: Path) -> None:
    """Host, port and path come from [tool.wampkit], as they do for `wampkit run`; a variable beats the file."""
    write(tmp_path, shop=APP)
    port = free_port()
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.wampkit]\napp = "shop:app"\nhost = "0.0.0.0"\nport = {port}\npath = "/socket"\n'
    )
    async with command("run", cwd=tmp_path) as server:
        assert await server.url() == f"ws://127.0.0.1:{port}/socket"
        async with command("subscribe", "news", "--count", "1", cwd=tmp_path) as subscriber:
            await subscriber.said("subscribed")
            for args in (["call", "add", "1", "2"], ["publish", "news", '"hello"']):
                done = await asyncio.to_thread(wampkit, *args, cwd=tmp_path)
                assert (done.stderr, done.returncode) == ("", 0)
                if args[0] == "call":
                    assert json.loads(done.stdout) == 3
            await subscriber.printed("hello")
        elsewhere = free_port()
        done = await asyncio.to_thread(wampkit, "call", "add", cwd=tmp_path, env={"WAMPKIT_PORT": str(elsewhere)})
        assert done.stderr == f"wampkit: ws://127.0.0.1:{elsewhere}/socket: Connection refused\n"


async def test_a_subscriber_whose_topics_are_all_refused_ends(tmp_path: Path) -> None:
    """A script learns of it by the exit code instead of waiting for ever; one topic that is left is waited for."""
    write(tmp_path, shop=APP)
    async with command("run", "--port", "0", "shop:app", cwd=tmp_path) as server:
        url = await server.url()
        done = await asyncio.to_thread(wampkit, "subscribe", url, "nowhere", "nor-here", cwd=tmp_path)
        assert done.returncode == 1
        assert "refused the subscription to 'nowhere'" in done.stderr
        assert done.stderr.endswith("wampkit: no subscription is left to wait for\n")
        async with command("subscribe", url, "nowhere", "news", "--count", "1", cwd=tmp_path) as subscriber:
            await subscriber.said("subscribed")
            await asyncio.to_thread(wampkit, "publish", url, "news", "1", cwd=tmp_path)
            await subscriber.printed("1")


async def test_a_server_without_tls_is_told(tmp_path: Path) -> None:
    """What OpenSSL calls a wrong version number is a server that speaks no TLS."""
    write(tmp_path, shop=APP)
    async with command("run", "--port", "0", "shop:app", cwd=tmp_path) as server:
        url = (await server.url()).replace("ws://", "wss://")
        done = await asyncio.to_thread(wampkit, "call", url, "add", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (
            1,
            f"wampkit: {url}: there is no TLS; is it ws:// instead of wss://?\n",
        )


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "ws://127.0.0.1:"), ("::", "ws://[::1]:")])
async def test_a_server_on_every_address_tells_one_that_opens(tmp_path: Path, host: str, url: str) -> None:
    """No browser and no client can connect to 0.0.0.0 or ::."""
    write(tmp_path, shop=APP)
    async with command("run", "--host", host, "--port", "0", "--debug", "shop:app", cwd=tmp_path) as server:
        assert (await server.url()).startswith(url)
        assert (await server.printed(r"open (\S+) in a browser"))[1].startswith(url.replace("ws", "http", 1))


async def test_another_path_than_the_sockets_leads_there(tmp_path: Path) -> None:
    """In development / shows the console and other paths name the socket's; the client asks after the path."""
    write(tmp_path, shop=APP)
    seen = {}
    for options in ([], ["--debug"]):
        async with command("run", *options, "--port", "0", "shop:app", cwd=tmp_path) as server:
            url = await server.url()
            root = url.replace("ws", "http", 1).removesuffix("/ws")
            async with aiohttp.ClientSession() as http:
                for path in ("/", "/other"):
                    async with http.get(root + path) as answer:
                        shown = "console" if answer.url.path == "/ws" else await answer.text()
                        seen[*options, path] = (answer.status, shown)
                async with http.post(f"{root}/ws") as answer:
                    assert answer.status == 405
            done = await asyncio.to_thread(wampkit, "call", f"{url}s", "add", "1", "2", cwd=tmp_path)
            assert done.stderr.endswith("HTTP 404 Not Found; is the socket at another path, such as /ws?\n")
    plain = (404, "404: Not Found")
    assert seen == {
        ("/",): plain,
        ("/other",): plain,
        ("--debug", "/"): (200, "console"),
        ("--debug", "/other"): (404, "there is no page here; the socket is at /ws\n"),
    }


MISTAKES = [
    (["call"], "wampkit call: Missing argument 'PROCEDURE'."),
    (["call", "ws://127.0.0.1:9/ws"], "wampkit call: Missing argument 'PROCEDURE'."),
    (["publish", "news"], "wampkit publish: Missing argument 'EVENT'."),
    (["publish", "news", "1", "2"], "wampkit publish: one EVENT is published at a time; 2 came"),
    (["subscribe"], "wampkit subscribe: Missing argument 'TOPICS'."),
    (["call", "ws://:1/ws", "f"], "wampkit call: 'ws://:1/ws' is no WebSocket URL; write ws://host:port/path"),
    (
        ["call", "http://127.0.0.1:8080/ws", "f"],
        "wampkit call: 'http://127.0.0.1:8080/ws' is no WebSocket URL; write ws://host:port/path",
    ),
    (["call", "localhost:8080", "f"], "wampkit call: 'localhost:8080' is no WebSocket URL; write ws://host:port/path"),
    (["call", "--cafile", "nowhere.pem", "f"], "wampkit: --cafile nowhere.pem: No such file or directory"),
    (["call", "--cafile", "shop.py", "f"], "wampkit: --cafile shop.py: there is no certificate (PEM) in it"),
    (
        ["call", "--cafile", "shop.py", "--insecure", "f"],
        "wampkit: --insecure accepts any certificate; leave out --cafile",
    ),
    (["call", "--cookie", "token", "f"], "wampkit call: Invalid value for '--cookie': 'token' must have the form"),
]


async def test_each_mistake_is_one_line(tmp_path: Path) -> None:
    """A wrong word, URL or file is told in one line, with exit code 2, before anything is sent."""
    write(tmp_path, shop=APP)
    wrong = []
    for args, line in MISTAKES:
        done = await asyncio.to_thread(wampkit, *args, cwd=tmp_path)
        if done.returncode != 2 or not done.stderr.startswith(line) or done.stderr.count("\n") != 1:
            wrong.append((args, done.returncode, done.stderr))
    (tmp_path / "pyproject.toml").write_text("[tool.wampkit]\nport = 0\n")
    done = await asyncio.to_thread(wampkit, "call", "add", cwd=tmp_path)
    assert done.stderr.startswith("wampkit: the port of `wampkit run` is 0, a free one; begin with the URL")
    assert wrong == []


# ---- cookies and certificates


@asynccontextmanager
async def served_over_tls(app: App, certificate: Path) -> AsyncIterator[str]:
    runner = web.AppRunner(app.web_app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(certificate))
    await site.start()
    try:
        yield f"wss://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


async def test_certificates_and_cookies(tmp_path: Path) -> None:
    """An unknown certificate is refused; --cafile names it, --insecure accepts any; --cookie is sent."""
    certificate = write_certificate(tmp_path / "here.pem")
    app = App()

    @app.rpc("cookies")
    async def cookies(conn: Connection) -> dict[str, str]:
        return dict(conn.request.cookies)

    async with served_over_tls(app, certificate) as url:

        async def call(*options: str) -> tuple[int, str, str]:
            done = await asyncio.to_thread(wampkit, "call", *options, url, "cookies", "--json", cwd=tmp_path)
            return done.returncode, done.stdout, done.stderr

        code, _, complaint = await call()
        assert code == 1
        assert complaint.startswith(f"wampkit: {url}: ")
        assert "certificate" in complaint
        assert complaint.count("\n") == 1
        sent = ["--cookie", "lang=de", "--cookie", "sid=1"]
        assert await call("--cafile", str(certificate), *sent) == (0, '{"lang": "de", "sid": "1"}\n', "")
        assert await call("--insecure") == (0, "{}\n", "")
