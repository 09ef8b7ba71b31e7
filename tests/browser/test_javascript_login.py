"""The browser's client logs in with WAMP-CRA in Node, as old clients do, and not where too much is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from wampkit import Cra, Credentials, Permissions, ProcedurePermission, TopicPermission, derive_key

from ..support.foreign import foreign
from ..support.javascript import OWN, PACKAGE, Demo, node, run
from ..support.logins import AUTH, AUTHREQ, signature_of
from ..support.restartable import restartable
from ..support.wire import CALL, PREFIX, SUBSCRIBE, serve

with_each_websocket = pytest.mark.parametrize("websocket", [OWN, PACKAGE])

GRANTED = Permissions(
    rpc=(ProcedurePermission("whoami"),),
    pubsub=(TopicPermission(uri="http://example.com/chat/", prefix=True, pub=True, sub=True),),
)


class Members:
    """An app with logins, whose members can be changed while it runs."""

    def __init__(self) -> None:
        self.keys = {
            "alice": Credentials("s3cr3t", permissions=GRANTED),
            "bob": Credentials(derive_key("p4ss", "0bs4lt", 1000, 48), salt="0bs4lt", iterations=1000, keylen=48),
            "zoë": Credentials("pässwörd ☃", permissions=GRANTED),
        }
        self.extras: list[dict[str, Any]] = []
        self.broken = 0
        self.demo = Demo(cra=Cra(self.lookup, anonymous=GRANTED))

    async def lookup(self, authkey: str, extra: dict[str, Any]) -> Credentials | None:
        self.extras.append(extra)
        if self.broken:
            self.broken -= 1
            raise RuntimeError("the database is down")
        return self.keys.get(authkey)


async def test_keys_and_signatures_are_those_of_autobahn() -> None:
    """All vectors on which old clients agree, with Web Crypto."""
    vectors = Path(__file__).parents[1] / "protocol" / "cra_vectors.json"
    body = f"""
    import {{ readFileSync }} from "node:fs";
    const {{ derive, sign: signs, full }} = JSON.parse(readFileSync({json.dumps(str(vectors))}));
    assert.deepEqual([derive.length, signs.length, full.length], [16, 10, 2]);
    for (const each of derive) assert.equal(await deriveKey(each.secret, each.authextra), each.key);
    for (const each of signs) assert.equal(await sign(each.challenge, each.key), each.signature);
    for (const {{ secret, challenge, signature }} of full) {{
      assert.equal(await sign(challenge, await deriveKey(secret, JSON.parse(challenge).authextra)), signature);
    }}
    assert.equal(await deriveKey("as it is"), "as it is");
    """
    await run(body)


@with_each_websocket
async def test_members_and_visitors_log_in(websocket: str) -> None:
    """By secret, by salted password, or as nobody; the secret may come from a function, and what is granted is told."""
    body = """
    const granted = await told();
    const alice = connect(url, { authkey: "alice", secret: async () => "s3cr3t", authextra: { app: "x" } });
    assert.equal(await alice.call("whoami"), "alice");
    assert.deepEqual(alice.permissions, granted);
    assert.equal(await alice.subscribe("chat:a").ready, "http://example.com/chat/a");
    const bob = connect(url, { authkey: "bob", secret: "p4ss" });
    assert.equal((await bob.opened).permissions.rpc.length, 0);
    const zoe = connect(url, { authkey: "zoë", secret: "pässwörd ☃" });
    assert.equal(await zoe.call("whoami"), "zoë");
    const visitor = connect(url, { anonymous: true });
    assert.equal(await visitor.call("whoami"), null);
    assert.deepEqual(visitor.permissions, granted);
    const nobody = await connect(url).opened;
    assert.equal(nobody.permissions, null);
    assert.match((await failure(nobody.call("whoami"))).uri, /#NoSuchRPCEndpoint$/);
    """
    members = Members()
    async with serve(members.demo.app) as server, node(body, server.url, websocket) as script:
        script.tell(GRANTED.as_json())
        await script.ended()
    assert members.extras == [{"app": "x"}, {}, {}]


async def test_a_wrong_secret_ends_the_client() -> None:
    """With the server's error, after one attempt; what says nothing of the secret is tried again."""
    body = """
    const wrong = connect(url, { authkey: "alice", secret: "guess" });
    const call = failure(wrong.call("whoami"));
    const error = await wrong.opened.catch((error) => error);
    assert(error instanceof CallError);
    assert.equal(error.uri, "http://api.wamp.ws/error#invalid-signature");
    assert.deepEqual([wrong.state, wrong.error], ["closed", error]);
    assert.match((await call).message, /^the client is closed: http:..api.wamp.ws.error#invalid-signature: /);
    assert.equal(await ask("break"), "broken");

    const states = [];
    let asked = 0;
    const secret = () => {
      if (++asked === 1) throw new Error("the vault is away");
      return "s3cr3t";
    };
    const client = connect(url, { authkey: "alice", secret });
    client.on("state", (state, error) => states.push([state, error && (error.uri ?? error.message)]));
    await client.opened;
    assert.deepEqual(states, [["reconnecting", "Error: the vault is away"], ["open", null]]);
    assert.equal(asked, 3);
    say("remove");
    await until(client, "closed");
    assert.equal(client.error.uri, "http://api.wamp.ws/error#invalid-signature");
    """
    members = Members()
    async with restartable(members.demo.app) as server, node(body, server.url) as script:
        assert await script.said() == "break"
        assert len(members.extras) == 1
        members.broken = 1
        script.tell("broken")
        assert await script.said() == "remove"
        del members.keys["alice"]
        server.cut()
        await script.ended()


async def test_the_login_comes_first_on_each_connection() -> None:
    """Before prefixes, subscriptions and kept publishes; the challenge is signed as it came."""
    body = """
    const client = connect(url, { authkey: "alice", secret: "s3cr3t", prefixes: { p: "http://p/" }, keepPublishes: 1 });
    client.subscribe("p:a", () => {});
    client.publish("p:a", 1);
    await client.opened;
    assert.deepEqual(client.permissions, { rpc: [], pubsub: [] });
    await client.call("echo");
    say("open");
    await until(client, "reconnecting");
    await until(client, "open");
    await client.call("echo");
    """
    challenge = '{"authkey":  "alice", "extra": "\\u00fc"}'
    async with foreign() as other, node(body, other.url) as script:
        other.answers = {AUTHREQ: [3, challenge], AUTH: [3, {"rpc": [], "pubsub": []}]}
        assert await script.said() == "open"
        first, other.received = other.received, []
        await other.cut()
        await script.ended()
    assert [message[0] for message in first] == [CALL, CALL, PREFIX, SUBSCRIBE, 7, CALL]
    assert [message[0] for message in other.received] == [CALL, CALL, PREFIX, SUBSCRIBE, CALL]
    assert first[0][2:] == [AUTHREQ, "alice", None]
    assert first[1][2:] == [AUTH, signature_of(challenge, "s3cr3t")]


@pytest.mark.parametrize(
    "challenge",
    [
        "no json",
        "null",
        None,
        {"authextra": {"salt": "s", "iterations": 64_000_000, "keylen": 1}},
        {"authextra": {"salt": "s", "iterations": 1000, "keylen": 1_000_000}},
        {"authextra": {"salt": "s", "iterations": "many"}},
        {"authextra": {"salt": "s", "iterations": 0}},
        {"authextra": {"salt": "s", "keylen": -1}},
    ],
    ids=str,
)
async def test_challenges_that_make_no_sense_are_refused(challenge: Any) -> None:
    """Whoever sends one, or asks for too much hashing, gets no signature, and the client closes at once."""
    body = """
    const client = connect(url, { authkey: "alice", secret: "s3cr3t", openTimeout: 3000 });
    const error = await client.opened.catch((error) => error);
    assert(error instanceof CallError, error);
    assert.match(error.message, /^the login was given up: ./);
    assert.equal(client.state, "closed");
    """
    async with foreign() as other:
        other.answers = {AUTHREQ: [3, json.dumps(challenge) if isinstance(challenge, dict) else challenge]}
        await run(body, other.url)
    assert [message[2] for message in other.sent(CALL)] == [AUTHREQ]


async def test_a_login_has_its_time() -> None:
    """`openTimeout` holds for the login too."""
    body = """
    const client = connect(url, { authkey: "alice", secret: "s3cr3t", openTimeout: 50, reconnect: false });
    assert.equal((await failure(client.opened)).message, "not open in time");
    """
    async with foreign() as other:
        other.answers = {AUTHREQ: []}
        await run(body, other.url)


async def test_a_login_needs_web_crypto() -> None:
    """Pages without https have none; the error says what is missing."""
    body = """
    Object.defineProperty(globalThis.crypto, "subtle", { value: undefined });
    const client = connect(url, { authkey: "alice", secret: "s3cr3t" });
    const { uri, description } = await failure(client.opened);
    assert.deepEqual([uri, description], ["", "the login was given up: a login needs https or localhost"]);
    """
    async with foreign() as other:
        other.answers = {AUTHREQ: [3, "{}"]}
        await run(body, other.url)
