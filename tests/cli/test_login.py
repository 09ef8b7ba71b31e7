"""`wampkit call`, `publish` and `subscribe` log in, with a secret from anywhere but the command line."""

import asyncio
import os
import pty
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from wampkit import App, Connection, Cra, Credentials

from ..support.command import PATIENCE, command, environment, free_port, wampkit
from ..support.tables import rows
from ..support.wire import Server, serve


def members() -> AbstractAsyncContextManager[Server]:
    """A server for members, of whom there is one."""
    alice = Credentials("s3cr3t")
    app = App(cra=Cra(lambda authkey, extra: alice if authkey == "alice" else None))

    @app.rpc("whoami")
    async def whoami(connection: Connection) -> Any:
        return connection.user

    app.topic("room", relay=True)
    return serve(app)


async def run(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, run while this test's loop goes on."""
    return await asyncio.to_thread(wampkit, *args, cwd=cwd, env=env)


async def test_a_secret_from_the_environment(tmp_path: Path) -> None:
    """WAMPKIT_SECRET, and the key from --authkey or WAMPKIT_AUTHKEY."""
    async with members() as server:
        env = {"WAMPKIT_SECRET": "s3cr3t"}
        done = await run("call", "--authkey", "alice", server.url, "whoami", cwd=tmp_path, env=env)
        assert (done.stdout, done.stderr, done.returncode) == ('"alice"\n', "", 0)
        done = await run("call", server.url, "whoami", cwd=tmp_path, env={**env, "WAMPKIT_AUTHKEY": "alice"})
        assert (done.stdout, done.returncode) == ('"alice"\n', 0)


async def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """--secret-file beats the variable, and the end of its line is no part of the secret."""
    async with members() as server:
        (tmp_path / "secret").write_text("s3cr3t\n")
        args = ["--authkey", "alice", "--secret-file", "secret", server.url, "whoami"]
        done = await run("call", *args, cwd=tmp_path, env={"WAMPKIT_SECRET": "wrong"})
        assert (done.stdout, done.returncode) == ('"alice"\n', 0)


async def test_a_secret_that_is_typed(tmp_path: Path) -> None:
    """On a terminal it is asked for, and does not show."""
    async with members() as server:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wampkit", "call", "--authkey", "alice", server.url, "whoami"),
            cwd=tmp_path,
            env=environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        prompt = await asyncio.wait_for(process.stderr.readuntil(b": "), PATIENCE)
        assert prompt == b"secret of alice: "
        os.write(ours, b"s3cr3t\n")
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        os.set_blocking(ours, False)
        try:
            echoed = os.read(ours, 1000)
        except BlockingIOError:
            echoed = b""
        os.close(ours)
        os.close(theirs)
        assert (out, process.returncode) == (b'"alice"\n', 0)
        assert b"s3cr3t" not in err + echoed


async def test_publish_and_subscribe_log_in(tmp_path: Path) -> None:
    """What one member publishes another prints."""
    async with members() as server:
        env = {"WAMPKIT_SECRET": "s3cr3t", "WAMPKIT_AUTHKEY": "alice"}
        async with command("subscribe", "--count", "1", server.url, "room", cwd=tmp_path, env=env) as subscriber:
            await subscriber.said('subscribed to "room"')
            done = await run("publish", server.url, "room", '{"n": 1}', cwd=tmp_path, env=env)
            assert (done.stderr, done.returncode) == ("", 0)
            assert await subscriber.exit() == 0
            assert subscriber.out == ['{"n": 1}']


@rows(
    ("args", "secret", "said", "code"),
    [
        ("--authkey alice", "wr0ng", "wampkit: the server refused the login of 'alice': 'the signature is wrong", 1),
        ("--authkey bob", "wr0ng", "wampkit: the server refused the login of 'bob': 'the signature is wrong", 1),
        ("--authkey alice", None, "wampkit: --authkey needs a secret: set WAMPKIT_SECRET, or name a file with", 2),
        ("--authkey alice --secret-file nowhere", None, "wampkit: --secret-file nowhere: No such file or directory", 2),
        ("--authkey alice --secret-file binary", None, "wampkit: --secret-file binary: it is no UTF-8 text", 2),
        ("--secret-file binary", None, "wampkit: --secret-file needs --authkey: whose secret is it?", 2),
        ("--secret wr0ng", None, "wampkit call: ", 2),
        ("", "wr0ng", "http://api.wamp.ws/error#NoSuchRPCEndpoint: this does not exist before a login", 1),
    ],
)
async def test_a_login_that_fails_is_one_line(
    tmp_path: Path, args: str, secret: str | None, said: str, code: int
) -> None:
    """It says what was wrong, and nothing of the secret."""
    async with members() as server:
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        env = {} if secret is None else {"WAMPKIT_SECRET": secret}
        done = await asyncio.to_thread(wampkit, "call", *args.split(), server.url, "whoami", cwd=tmp_path, env=env)
        (line,) = done.stderr.splitlines()
        assert line.startswith(said)
        assert (done.stdout, done.returncode) == ("", code)
        assert "wr0ng" not in line or "--secret" in args


def test_the_secret_is_no_option_of_the_file(tmp_path: Path) -> None:
    """A secret in pyproject.toml is refused, since that file is shared; its variable is known."""
    (tmp_path / "pyproject.toml").write_text('[tool.wampkit]\nsecret = "s3cr3t"\n')
    url = f"ws://127.0.0.1:{free_port()}/ws"
    done = wampkit("call", "--authkey", "alice", url, "whoami", cwd=tmp_path, env={"WAMPKIT_SECRET": "x"})
    assert "has no key 'secret'" in done.stderr
    assert "is no option" not in done.stderr
    assert "s3cr3t" not in done.stderr
    assert done.returncode == 2
