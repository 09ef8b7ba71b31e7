"""An unknown authkey gets the same answers as a known one, so that keys cannot be probed."""

import hmac
import json
from typing import Any

import pytest

from wampkit import Credentials

from ..support.login_app import ADDING, NOTHING, demo
from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in
from ..support.wire import Server, serve


async def transcript(server: Server, authkey: str) -> list[Any]:
    """All that a client sees of a login with a wrong secret, its random parts replaced by their form."""
    peer = await server.peer()
    answers = [await peer.call(AUTHREQ, authkey, {"app": "x"}), await peer.call(AUTH, "A" * 43 + "=")]
    challenge = json.loads(answers[0][2])
    extra = challenge.get("authextra", {"salt": ""})
    random = {
        "authid": challenge["authid"],
        "authkey": challenge["authkey"],
        "timestamp": challenge["timestamp"],
        "sessionid": challenge["sessionid"],
        "salt": extra["salt"],
    }
    assert challenge["authkey"] == authkey
    assert challenge["sessionid"] == peer.id
    text = json.dumps(answers)
    for name, value in random.items():
        if value:
            text = text.replace(value, f"<{name}: {len(value)} characters>")
    return [text, all(each in "0123456789abcdef" for each in extra["salt"])]


@pytest.mark.parametrize("kind", ["unsalted", "salted", "derives"])
async def test_an_unknown_key_looks_like_a_known_one(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The two transcripts differ in their random parts alone, whichever way the app keeps its secrets."""
    salt = "0123456789abcdef" * 2
    salting: dict[str, Any] = {"salt": salt, "iterations": 2000, "keylen": 48} if kind != "unsalted" else {}
    known = Credentials("key", derived=kind != "derives", permissions=ADDING, **salting)
    options: dict[str, Any] = {"salted": (2000, 48)} if salting else {}
    app = demo(lambda authkey, extra: known if authkey == "known" else None, derives=kind == "derives", **options)
    async with serve(app) as server:
        seen = await transcript(server, "known")
        for authkey in ("nobody", "nobod2"):
            assert await transcript(server, authkey) == [seen[0].replace("5 characters", "6 characters"), seen[1]]
        assert app.counters.failed_logins == 3
    assert "can be told from" not in caplog.text


async def test_nothing_is_permitted_in_a_challenge() -> None:
    """What a login would grant is told to whoever has proved the secret, and to nobody before."""
    async with serve(demo()) as server:
        assert json.loads(await ask(await server.peer(), "dave"))["permissions"] == NOTHING


async def test_an_unknown_key_keeps_its_salt() -> None:
    """Asked for again it is the same, in another process that has the same decoy key too; other keys have others."""

    async def salts(decoy_key: bytes | None) -> list[str]:
        options = {"salted": (1000, 32), "decoy_key": decoy_key}
        async with serve(demo(**options)) as server:
            asked = ["mallory", "mallory", "oscar"]
            return [json.loads(await ask(await server.peer(), each))["authextra"]["salt"] for each in asked]

    first, again = await salts(b"sixteen bytes or more"), await salts(b"sixteen bytes or more")
    assert first == again
    assert first[0] == first[1] != first[2]
    assert await salts(b"sixteen other bytes...") != first
    assert await salts(None) != await salts(None)


async def test_an_unknown_key_never_gets_in() -> None:
    """Not even with the secret that its challenge is compared with."""
    decoy_key = b"sixteen bytes or more"
    async with serve(demo(decoy_key=decoy_key)) as server:
        for authkey in ("mallory", "alice"):
            secret = hmac.new(decoy_key, f"secret {authkey}".encode(), "sha256").hexdigest()
            assert code_of(await log_in(await server.peer(), authkey, secret)) == "invalid-signature"


async def test_keys_that_are_not_alike_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns once that unknown keys can be told from known ones, and what to write instead."""
    async with serve(demo()) as server:
        for authkey in ("alice", "bob", "bob"):
            await ask(await server.peer(), authkey)
    lines = [record.message for record in caplog.records if "can be told from" in record.message]
    assert len(lines) == 1
    assert "'bob'" in lines[0]
    assert "salted=(1000, 32)" in lines[0]


async def test_the_old_answers_are_an_option() -> None:
    """`hide_unknown_keys=False` names unknown keys, and counts them as failures."""
    app = demo(hide_unknown_keys=False, attempts=3, salted=None)
    async with serve(app) as server:
        peer = await server.peer()
        assert json.loads(await ask(await server.peer(), "dave"))["permissions"] == ADDING.as_json()
        for _ in range(3):
            assert code_of(await peer.call(AUTHREQ, "nobody")) == "no-such-authkey"
        assert (await peer.closed())[0] == 1008
        assert app.counters.failed_logins == 3
