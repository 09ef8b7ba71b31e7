"""`wampkit call`, `publish` and `subscribe` against a running server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

from ..support.cli_project import run, serving
from ..support.command import PATIENCE, command, environment, free_port


async def test_call(project: Path) -> None:
    """`call` prints the result as JSON, with --json in one line; arguments are JSON, negative numbers too."""
    async with serving(project) as (_, url):
        done = await run("call", url, "calc:add", "2", "-3.5", cwd=project)
        assert (done.stdout, done.stderr, done.returncode) == ("-1.5\n", "", 0)
        options = ["--json", "--header", "X-Test: a: b", "--origin", "https://example.com"]
        done = await run("call", url, *options, "echo", '{"ü": "\\u001b[31m\\u202e"}', cwd=project)
        assert done.stdout == '[{"ü": "\\u001b[31m\\u202e"}, "a: b", "https://example.com"]\n'
        done = await run("call", url, "--prefix", "c=http://example.com/calc#", "c:add", "1", cwd=project)
        assert done.stdout == "2.0\n"


async def test_a_call_that_fails(project: Path) -> None:
    """A CALLERROR is its URI and description, then its details as JSON, on stderr, fit for a terminal; exit code 1."""
    async with serving(project) as (_, url):
        done = await run("call", url, "fail", cwd=project)
        assert done.stderr == 'http://example.com/error#no: no \\x1b[31mway out\n{"why": "\\u001b[2J"}\n'
        assert (done.stdout, done.returncode) == ("", 1)


async def test_a_handshake_that_is_refused(project: Path) -> None:
    """A refused handshake is one line with the HTTP status, and exit code 1."""
    async with serving(project) as (_, url):
        done = await run("call", url, "--origin", "http://evil.example", "echo", "1", cwd=project)
        (line,) = done.stderr.splitlines()
        assert "refused" in line
        assert "HTTP 403" in line
        assert done.returncode == 1


async def test_a_server_that_says_nothing(project: Path) -> None:
    """A call whose answer does not come in time is one line, and exit code 1."""

    async def mute(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("wamp",))
        await socket.prepare(request)
        await socket.send_json([0, "session", 1, "mute"])
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT
        return socket

    site = web.Application()
    site.router.add_get("/ws", mute)
    runner = web.AppRunner(site)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        done = await run("call", f"ws://127.0.0.1:{port}/ws", "f", "--timeout", "0.3", cwd=project)
    finally:
        await runner.cleanup()
    assert done.stderr == "wampkit: f: no answer within 0.3 s (--timeout)\n"
    assert done.returncode == 1


async def test_publish_and_subscribe(project: Path) -> None:
    """`subscribe` prints a line an event, flushed; what `publish` sends reaches it; Ctrl-C ends it quietly with 0."""
    async with serving(project) as (_, url), command("subscribe", url, "room/1", cwd=project) as listener:
        await listener.said('subscribed to "room/1"')
        done = await run("publish", url, "room/1", '{"text": "hi\\u001b[2J"}', cwd=project)
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
        await listener.printed("hi")
        assert listener.out == ['{"room": "1", "text": "hi\\u001b[2J"}']
        listener.signal(signal.SIGINT)
        assert await listener.exit() == 0
    assert len(listener.err) == 1


async def test_subscribe_to_several(project: Path) -> None:
    """Of several topics each line tells the topic; --count ends after so many events; a refusal is told on stderr."""
    async with (
        serving(project) as (_, url),
        command("subscribe", url, "lobby", "secret", "news", "--count", "2", cwd=project) as listener,
    ):
        await listener.said(r"refused.*secret")
        await listener.said('subscribed to "news"')
        assert (await run("call", url, "say", '"news"', "1", cwd=project)).returncode == 0
        assert (await run("publish", url, "lobby", "null", cwd=project)).returncode == 0
        assert await listener.exit() == 0
        assert [json.loads(line) for line in listener.out] == [
            {"topic": "news", "event": 1},
            {"topic": "lobby", "event": None},
        ]


async def test_subscribe_survives_a_restart(project: Path) -> None:
    """A lost connection is told, made again, and events go on."""
    port = str(free_port())
    args = ("run", "shop:app", "--port", port)
    url = f"ws://127.0.0.1:{port}/ws"
    async with command(*args, cwd=project) as server:
        await server.url()
        async with command("subscribe", url, "news", "--json", "--count", "1", cwd=project) as listener:
            await listener.said("subscribed to")
            server.signal(signal.SIGTERM)
            await listener.said("the connection is lost; trying to make it again")
            async with command(*args, cwd=project) as again:
                await again.url()
                await listener.said("connected again")
                assert (await run("call", url, "say", '"news"', '"after"', cwd=project)).returncode == 0
                assert await listener.exit() == 0
            assert listener.out == ['{"topic": "news", "event": "after"}']


async def test_a_reader_that_leaves(project: Path) -> None:
    """When whoever reads the events has gone, `subscribe` ends without a complaint."""
    read, written = os.pipe()
    async with serving(project) as (_, url):
        listener = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wampkit", "subscribe", url, "news"),
            cwd=project,
            env=environment(),
            stdout=written,
            stderr=subprocess.PIPE,
        )
        os.close(written)
        assert listener.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                assert b"subscribed" in await listener.stderr.readline()
                assert (await run("call", url, "say", '"news"', "1", cwd=project)).returncode == 0
                assert await asyncio.to_thread(os.read, read, 100) == b"1\n"
                os.close(read)
                assert (await run("call", url, "say", '"news"', "2", cwd=project)).returncode == 0
                assert await listener.stderr.read() == b""
                assert await listener.wait() == 0
        finally:
            if listener.returncode is None:
                listener.kill()
                await listener.wait()
