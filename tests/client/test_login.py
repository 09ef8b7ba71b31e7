"""The client logs in: on every connection that it makes, before anything else, and not where too much is asked."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from wampkit import (
    App,
    AuthenticationFailed,
    CallError,
    ClientError,
    Connection,
    ConnectionLost,
    Cra,
    Credentials,
    Permissions,
    ProcedurePermission,
    State,
    TopicPermission,
    connect,
)
from wampkit.testing import drop

from ..support.foreign import Foreign, foreign
from ..support.logins import AUTH, AUTHREQ, signature_of
from ..support.tables import rows
from ..support.wire import eventually, serve

FAST = (0.01, 0.05)

GRANTED = Permissions(
    rpc=(ProcedurePermission("whoami"),), pubsub=(TopicPermission(uri="room/", prefix=True, pub=True, sub=True),)
)


class Members:
    """An app whose members can be changed while it runs."""

    def __init__(self, **options: Any) -> None:
        self.keys: dict[str, Credentials] = {
            "alice": Credentials("s3cr3t", permissions=GRANTED),
            "bob": Credentials("p4ss", derived=False, salt="0bs4lt", iterations=1000, keylen=48),
        }
        self.extras: list[dict[str, Any]] = []
        self.lookups = 0
        self.broken = 0
        self.app = App(cra=Cra(self.lookup, **options))

        @self.app.rpc("whoami")
        async def whoami(connection: Connection) -> Any:
            return connection.user

        self.app.topic("room/{name}", relay=True)

    async def lookup(self, authkey: str, extra: dict[str, Any]) -> Credentials | None:
        self.lookups += 1
        self.extras.append(extra)
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the database is down")
        return self.keys.get(authkey)


# ---- getting in


@pytest.mark.parametrize(("authkey", "secret"), [("alice", "s3cr3t"), ("bob", "p4ss")])
async def test_a_client_logs_in(authkey: str, secret: str) -> None:
    """With a plain or a salted secret; what it may do is told."""
    members = Members()
    async with serve(members.app) as server:
        async with connect(server.url, authkey=authkey, secret=secret) as client:
            assert await client.call("whoami") == authkey
            granted = GRANTED if authkey == "alice" else Permissions()
            assert client.permissions == granted.as_json()
        assert client.permissions is None


async def test_a_secret_may_come_from_a_function() -> None:
    """Plain or async, asked anew for each connection; `authextra` reaches the lookup."""
    members = Members()
    asked = 0

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        return "s3cr3t"

    async with serve(members.app) as server:
        options: dict[str, Any] = {"authkey": "alice", "authextra": {"app": "x"}, "backoff": FAST}
        async with connect(server.url, secret=fetch, **options) as client:
            await drop(client)
            await client.wait_for(State.OPEN, 5)
            assert await client.call("whoami") == "alice"
        async with connect(server.url, secret=lambda: "s3cr3t", **options) as client:
            assert await client.call("whoami") == "alice"
    assert asked == 2
    assert members.extras == [{"app": "x"}] * 3


async def test_an_anonymous_login() -> None:
    """`anonymous=True` logs in as nobody, with what the app grants."""
    async with (
        serve(Members(anonymous=GRANTED).app) as server,
        connect(server.url, anonymous=True) as client,
    ):
        assert client.permissions == GRANTED.as_json()
        assert await client.call("whoami") is None


async def test_without_a_login_nothing_is_asked() -> None:
    """A client that says nothing of a login sends none, and is refused as nobody."""
    members = Members()
    async with serve(members.app) as server, connect(server.url) as client:
        assert client.permissions is None
        with pytest.raises(CallError, match="NoSuchRPCEndpoint"):
            await client.call("whoami")
    assert members.lookups == 0


@pytest.mark.parametrize(
    "options",
    [{"authkey": "alice"}, {"secret": "s3cr3t"}, {"authkey": "a", "secret": "s", "anonymous": True}],
    ids=lambda options: "+".join(options),
)
def test_the_parts_of_a_login_go_together(options: dict[str, Any]) -> None:
    """A key without a secret, a secret without a key, and an anonymous key are refused at once."""
    with pytest.raises(TypeError, match="authkey"):
        connect("ws://127.0.0.1:1/", **options)


async def test_a_secret_does_not_show() -> None:
    """Neither in what the client prints of itself nor in its errors."""
    members = Members()
    async with serve(members.app) as server:
        client = connect(server.url, authkey="alice", secret="not-the-s3cr3t")
        with pytest.raises(AuthenticationFailed) as failed:
            await client.open()
        shown = f"{client!r} {client._options!r} {failed.value!r} {failed.value}"
        assert "not-the-s3cr3t" not in shown


# ---- again after a lost wire


async def test_a_new_wire_is_logged_in_before_it_is_used() -> None:
    """The login is made again, and subscriptions that need it are put back."""
    members = Members()
    async with serve(members.app) as server:
        client = connect(server.url, authkey="alice", secret="s3cr3t", prefixes={"x": "room/"}, backoff=FAST)
        async with client, client.subscribe("x:lobby") as events:
            assert events.accepted
            for number in range(3):
                await drop(client)
                await client.wait_for(State.OPEN, 5)
                assert client.permissions == GRANTED.as_json()
                await client.publish("x:lobby", number, exclude_me=False)
                assert await events.get(5) == number
        assert members.lookups == 4
        assert members.app.counters.logins == 4


async def test_the_login_comes_before_prefixes_and_subscriptions(other: Foreign) -> None:
    """On the wire, at the first connection and at the next."""
    client = connect(other.url, authkey="alice", secret="s3cr3t", prefixes={"x": "room/"}, backoff=FAST)
    async with client, client.subscribe("x:lobby"):
        first = [message[0] for message in other.received]
        await drop(client)
        await client.wait_for(State.OPEN, 5)
        again = [message[0] for message in other.received[len(first) :]]
    assert first == again == [2, 2, 1, 5]


async def test_a_login_that_was_taken_away_ends_the_client() -> None:
    """A reconnecting client whose secret no longer counts gives up after one attempt, and says why."""
    members = Members()
    async with serve(members.app) as server:
        async with connect(server.url, authkey="alice", secret="s3cr3t", backoff=FAST) as client:
            members.keys.pop("alice")
            await drop(client)
            with pytest.raises(ConnectionLost):
                await client.wait_for(State.OPEN, 5)
            assert client.state is State.CLOSED
            assert isinstance(client.error, AuthenticationFailed)
            assert client.error.uri == "http://api.wamp.ws/error#invalid-signature"
        assert members.lookups == 2


async def test_a_server_in_trouble_is_asked_again() -> None:
    """What says nothing about the secret, such as a lookup that fails for a while, does not end the client."""
    members = Members()
    async with serve(members.app) as server:
        async with connect(server.url, authkey="alice", secret="s3cr3t", backoff=FAST) as client:
            members.broken = 3
            await drop(client)
            await client.wait_for(State.OPEN, 5)
            assert await client.call("whoami") == "alice"
        assert members.lookups == 5


async def test_a_secret_function_that_fails_is_asked_again() -> None:
    """A vault that is away for a moment does not end a client that was connected; at first it is the caller's error."""
    members = Members()
    away = 0

    def fetch() -> str:
        nonlocal away
        away -= 1
        if away >= 0:
            raise OSError("the vault is away")
        return "s3cr3t"

    async with serve(members.app) as server:
        async with connect(server.url, authkey="alice", secret=fetch, backoff=FAST) as client:
            away = 2
            await drop(client)
            await client.wait_for(State.OPEN, 5)
            assert await client.call("whoami") == "alice"
        away = 1
        with pytest.raises(OSError, match="the vault is away"):
            await connect(server.url, authkey="alice", secret=fetch).open()
        with pytest.raises(TypeError, match="the secret must be a text, not bytes"):
            await connect(server.url, authkey="alice", secret=lambda: b"s3cr3t").open()  # type: ignore[arg-type,return-value]


# ---- being refused


async def refused(url: str, **options: Any) -> AuthenticationFailed:
    """The error of a login that must fail, and of a client that must be closed then."""
    client = connect(url, **options)
    with pytest.raises(AuthenticationFailed) as failed:
        await client.open()
    assert client.state is State.CLOSED
    assert client.error is failed.value
    return failed.value


async def test_a_wrong_secret_says_so() -> None:
    """The error names the key and the server's answer, and is one of the client's kinds."""
    async with serve(Members().app) as server:
        error = await refused(server.url, authkey="alice", secret="wrong")
    assert error.uri == "http://api.wamp.ws/error#invalid-signature"
    assert "'alice'" in error.reason
    assert "the signature is wrong" in error.reason
    assert isinstance(error, ConnectionLost)
    assert isinstance(error, ClientError)


async def test_a_server_without_cra_or_without_strangers_says_so() -> None:
    """So does one that knows no logins, and one that lets nobody in as nobody."""
    async with serve(App()) as server:
        assert (await refused(server.url, authkey="a", secret="s")).uri.endswith("#NoSuchRPCEndpoint")
    async with serve(Members().app) as server:
        assert (await refused(server.url, anonymous=True)).uri.endswith("#anonymous-auth-forbidden")


async def test_hostile_words_are_quoted(other: Foreign) -> None:
    """What a server says is shown escaped."""
    other.answers[AUTHREQ] = [4, "x:\x1b[2J", "no\nway"]
    error = await refused(other.url, authkey="al\x07ice", secret="s3cr3t")
    assert error.uri == "x:\x1b[2J"
    assert error.reason.isprintable()


async def test_a_client_that_was_refused_may_try_again() -> None:
    """`open` works once the secret does."""
    members = Members()
    secrets = ["wrong", "s3cr3t"]
    async with serve(members.app) as server:
        client = connect(server.url, authkey="alice", secret=lambda: secrets.pop(0))
        with pytest.raises(AuthenticationFailed):
            await client.open()
        await client.open()
        assert await client.call("whoami") == "alice"
        await client.close()


async def test_a_close_during_the_login_is_told(other: Foreign) -> None:
    """A server that hangs up in the middle is a lost connection, with its code."""

    async def hang_up(ws: web.WebSocketResponse) -> None:
        await ws.send_str(json.dumps([0, "session", 1, "Other/1.0"]))
        await ws.receive()
        await ws.close(code=4000)

    other.script = hang_up
    with pytest.raises(ConnectionLost) as lost:
        await connect(other.url, authkey="alice", secret="s3cr3t").open()
    assert lost.value.code == 4000
    assert not isinstance(lost.value, AuthenticationFailed)


async def test_a_server_that_does_not_answer_is_not_waited_for(other: Foreign) -> None:
    """A login has the time of an opening."""
    other.answers[AUTHREQ] = []
    client = connect(other.url, authkey="alice", secret="s3cr3t", open_timeout=0.2)
    with pytest.raises(ConnectionLost, match=r"did not answer the login of 'alice' within 0.2 s"):
        await client.open()
    assert client.state is State.CLOSED


# ---- servers that ask too much


CHALLENGE = json.dumps({"authid": "x", "authkey": "alice", "sessionid": "s", "extra": {}})


@pytest.fixture
async def other() -> AsyncIterator[Foreign]:
    """A server that is not wampkit and lets everybody in."""
    async with foreign() as server:
        server.answers = {AUTHREQ: [3, CHALLENGE], AUTH: [3, {"rpc": [], "pubsub": []}]}
        yield server


def signatures(server: Foreign) -> list[Any]:
    """What clients answered to the challenges of a foreign server."""
    return [message[3] for message in server.sent(2) if message[2] == AUTH]


async def test_a_client_signs_what_it_received(other: Foreign) -> None:
    """The challenge as it came, byte for byte, whatever else is in it."""
    challenge = ' {"authextra":null,  "authkey": "\u00e9", "authkey": "zoë"}\n'
    other.answers[AUTHREQ] = [3, challenge]
    async with connect(other.url, authkey="alice", secret="pässwörd") as client:
        assert client.permissions == {"rpc": [], "pubsub": []}
    assert signatures(other) == [signature_of(challenge, "pässwörd")]
    assert other.sent(2)[0][2:] == [AUTHREQ, "alice", None]


async def test_wampsharps_texts_are_numbers(other: Foreign) -> None:
    """`authextra` with numbers in texts salts as with numbers."""
    extra = {"salt": "0bs4lt", "iterations": 1000, "keylen": 32}
    other.answers[AUTHREQ] = [3, json.dumps({"authextra": {key: str(value) for key, value in extra.items()}})]
    async with connect(other.url, authkey="alice", secret="p4ss"):
        pass
    (given,) = signatures(other)
    assert given == resigned(other.answers[AUTHREQ][1], extra)


def resigned(challenge: str, extra: dict[str, Any]) -> str:
    key = base64.b64encode(
        hashlib.pbkdf2_hmac("sha256", b"p4ss", extra["salt"].encode(), extra["iterations"], extra["keylen"])
    )
    return base64.b64encode(hmac.digest(key, challenge.encode(), "sha256")).decode()


@rows(
    ("challenge", "wanted"),
    [
        ({"authextra": {"salt": "s", "iterations": 10**9, "keylen": 32}}, "iterations must be a whole number from 1"),
        ({"authextra": {"salt": "s", "iterations": "1000000000", "keylen": 32}}, "iterations must be"),
        ({"authextra": {"salt": "s", "iterations": 1_000_001}}, "iterations must be"),
        ({"authextra": {"salt": "s", "iterations": -1}}, "iterations must be"),
        ({"authextra": {"salt": "s", "keylen": 10**9}}, "keylen must be a whole number from 1 to 1024"),
        ({"authextra": {"salt": "s", "iterations": 1_000_000, "keylen": 1024}}, "rounds of hashing"),
        ({"authextra": {"salt": 5}}, "salt of the challenge is no text"),
        ({"authextra": "s"}, "no JSON object"),
        ("not JSON", "not JSON"),
        ("x" * 70_000, "longer than 65536 characters"),
        (None, "no text"),
        (5, "no text"),
    ],
)
async def test_a_server_that_asks_too_much_is_refused_at_once(other: Foreign, challenge: Any, wanted: str) -> None:
    """No work is done and no signature given; the error says what the server wanted."""
    text = json.dumps(challenge) if isinstance(challenge, dict) else challenge
    other.answers[AUTHREQ] = [3, text]
    error = await refused(other.url, authkey="alice", secret="s3cr3t")
    assert wanted in error.reason
    assert error.uri == ""
    assert signatures(other) == []


async def test_a_signature_is_not_given_as_nobody(other: Foreign) -> None:
    """A challenge for an anonymous login is refused."""
    assert "wants a signature" in (await refused(other.url, anonymous=True)).reason
    assert signatures(other) == []


async def test_hashing_leaves_the_loop_alone(other: Foreign) -> None:
    """While a password is hashed the loop runs, and the hashing is done elsewhere."""
    extra = {"salt": "0bs4lt", "iterations": 1_000_000, "keylen": 32}
    other.answers[AUTHREQ] = [3, json.dumps({"authextra": extra})]
    turns = 0
    opening = asyncio.ensure_future(connect(other.url, authkey="alice", secret="p4ss").open())
    await eventually(lambda: other.sent(2))
    while not opening.done():
        turns += 1
        await asyncio.sleep(0)
    client = await opening
    await client.close()
    assert turns > 100
    assert signatures(other) == [resigned(other.answers[AUTHREQ][1], extra)]
