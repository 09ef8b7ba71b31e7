"""The browser's client in Node: what its state says, which ends are final, and servers that misbehave."""

import struct

import pytest
from aiohttp import WSMessage, web

from ..support.foreign import foreign
from ..support.javascript import OWN, PACKAGE, Demo, node, run
from ..support.restartable import restartable
from ..support.wire import CALL, SUBSCRIBE, eventually

with_each_websocket = pytest.mark.parametrize("websocket", [OWN, PACKAGE])


@pytest.mark.parametrize(
    ("code", "options", "final"),
    [
        (1000, "", False),
        (1011, "", False),
        (1012, "", False),
        (1008, "", True),
        (4401, "", True),
        (1011, "{ reconnect: false }", True),
    ],
)
async def test_which_closes_are_final(code: int, options: str, final: bool) -> None:
    """A close for policy, and one because the session ended, where nothing fresh could be brought; others are not."""
    body = f"""
    const client = await connect(url, {options or "{}"}).opened;
    const seen = [];
    client.on("state", (state, error) => seen.push([state, error && error.message, error && error.code]));
    const events = client.subscribe("t");
    const inFlight = failure(client.call("never"));
    await ask("ready");
    assert.equal((await inFlight).message, "the server closed the connection: go away");
    const [state, message, code] = seen[0];
    assert.deepEqual([message, code], ["the server closed the connection: go away", {code}]);
    if (state === "closed") for await (const event of events) assert.fail(event);
    else await until(client, "open");
    say(state);
    """
    async with foreign() as other, node(body, other.url) as script:
        assert await script.said() == "ready"
        script.tell()
        await eventually(lambda: other.sent(CALL))
        await other.sockets[0].close(code=code, message=b"go away")
        assert await script.said() == ("closed" if final else "reconnecting")
        await script.ended()
    assert len(other.handshakes) == (1 if final else 2)


async def test_a_session_that_ended_is_followed_by_a_fresh_url() -> None:
    """Close code 4401 is not final where a function gives each attempt what it needs."""
    body = """
    const client = await connect(() => url).opened;
    say("ready");
    await until(client, "reconnecting");
    assert.equal(client.error.code, 4401);
    await until(client, "open");
    """
    async with foreign() as other, node(body, other.url) as script:
        assert await script.said() == "ready"
        await other.sockets[0].close(code=4401)
        await script.ended()


async def test_states_are_told() -> None:
    """`opened` and the state's listeners, where there is no server, no WebSocket, no URL, and after close()."""
    body = """
    const nobody = connect("ws://127.0.0.1:9/", { reconnect: false });
    const waiting = failure(nobody.call("echo"));
    const lost = { name: "ConnectionLost", message: "no server, or it refuses", code: 1006 };
    assert.deepEqual(await failure(nobody.opened), lost);
    assert.equal(nobody.state, "closed");
    assert.equal((await waiting).message, "the client is closed: no server, or it refuses");

    const patient = connect("ws://127.0.0.1:9/");
    assert.equal((await failure(patient.call("echo"))).message, "the client is reconnecting: no server, or it refuses");
    const { ready } = patient.subscribe("chat:a", () => {});
    patient.close();
    assert.equal(await ready, undefined);
    assert.deepEqual([patient.state, patient.error], ["closed", null]);
    assert.equal((await failure(patient.opened)).message, "the client is closed: no connection");
    assert.equal((await failure(patient.call("echo"))).message, "the client is closed: no connection");

    for (const bad of ["not a url", "ftp://127.0.0.1/"]) {
      const client = connect(bad);
      assert.match((await failure(client.opened)).name, /^(TypeError|SyntaxError)$/);
      assert.equal(client.state, "closed");
    }
    const own = globalThis.WebSocket;
    delete globalThis.WebSocket;
    assert.throws(() => connect(url, { WebSocket: undefined }), /no WebSocket: give { WebSocket } of 'ws'/);
    globalThis.WebSocket = own;

    const client = connect();
    const states = [];
    const off = client.on("state", (state) => states.push(state));
    const quiet = client.on("state", () => assert.fail());
    quiet();
    assert.deepEqual([client.sessionId, client.serverIdent, client.permissions], ["", "", null]);
    assert.equal(await client.opened, client);
    assert.deepEqual([client.sessionId.length > 5, client.serverIdent], [true, "wampkit"]);
    const inFlight = failure(client.call("hold"));
    client.close();
    client.close();
    assert.deepEqual(await inFlight, { name: "ConnectionLost", message: "the client is closed", code: 1000 });
    assert.equal(await client.opened, client);
    assert.deepEqual(states, ["open", "closed"]);

    const early = connect();
    early.close();
    assert.equal(early.state, "closed");
    const midway = connect(async () => { midway.close(); return url; });
    await failure(midway.opened);
    """
    async with restartable(Demo().app) as server:
        await run(body, server.url)


# ---- servers that misbehave

TWICE = '[0, "again", 1, "x"]'
GARBAGE = [
    "",
    "not json",
    "{}",
    "null",
    "[8]",
    "[8, 5, 1]",
    '"text"',
    TWICE,
    '[2, "0", "call me"]',
    '[9, "0", 1]',
    '["3", "0", 1]',
    "[" * 100_000,
    b"\x00",
]


@pytest.mark.parametrize("code", [1000, 1012])
async def test_a_listener_may_close_the_client(code: int) -> None:
    """When it hears that the connection is lost: no attempt follows, and nothing is left that would run."""
    body = """
    let asked = 0;
    const client = await connect(() => (asked++, url), { backoff: [60_000, 60_000] }).opened;
    client.on("state", () => client.close());
    await ask("ready");
    await until(client, "closed");
    assert.deepEqual([asked, client.error], [1, null]);
    """
    async with foreign() as other, node(body, other.url) as script:
        assert await script.said() == "ready"
        await other.sockets[0].close(code=code)
        script.tell()
        await script.ended()


def send_at_once(ws: web.WebSocketResponse, *payloads: str | bytes) -> None:
    """Send frames in one piece, so that the client reads them in one go."""
    assert ws._req is not None
    assert ws._req.transport is not None
    data = b""
    for payload in payloads:
        raw = payload.encode() if isinstance(payload, str) else payload
        size = bytes([len(raw)]) if len(raw) < 126 else b"\x7f" + struct.pack(">Q", len(raw))
        data += (b"\x81" if isinstance(payload, str) else b"\x82") + size + raw
    ws._req.transport.write(data)


@with_each_websocket
async def test_servers_that_break_wamp_are_left(websocket: str) -> None:
    """Whatever they send, before WELCOME, in one go with it, and after it, the client says that it is no WAMP v1."""
    body = f"""
    for (const when of ["first", "with", "after"]) {{
      for (let number = 0; number < {len(GARBAGE)}; number++) {{
        const client = connect(`${{url}}?when=${{when}}&number=${{number}}`, {{ reconnect: false }});
        const call = failure(client.call("echo"));
        const message = /the server does not speak WAMP v1/;
        assert.match((await call).message, message, `${{when}} ${{number}}`);
        assert.deepEqual([client.state, client.error.code], ["closed", 1002]);
      }}
    }}
    const late = connect(`${{url}}?when=late`);
    late.subscribe("t", () => assert.fail("an event of a connection that was given up"));
    await until(late, "reconnecting");
    await until(late, "open");
    late.close();
    const mute = connect(`${{url}}?when=never`, {{ openTimeout: 30, reconnect: false }});
    assert.equal((await failure(mute.opened)).message, "not open in time");
    const odd = connect(`${{url}}?when=odd`, {{ reconnect: false }});
    assert.equal(await odd.call("echo"), "answered");
    """

    async def misbehave(ws: web.WebSocketResponse) -> None:
        assert ws._req is not None
        when = ws._req.query["when"]
        welcome = '[0, "s", 1, "Other/1.0"]'
        if when == "odd":
            await ws.send_str(welcome)
            await ws.send_str('[3, "unknown", 1]')
            await ws.send_str('[4, "unknown", "uri", "text"]')
            await ws.send_str('[8, "unknown", 1]')
            call = (await ws.receive()).json()
            await ws.send_json([3, call[1], "answered", "and more"])
        elif when == "late":
            await ws.send_str(welcome)
            assert (await ws.receive()).json() == [SUBSCRIBE, "t"]
            await ws.send_str("{}")
            await ws.send_str('[8, "t", 1]')
        elif when != "never":
            text = GARBAGE[int(ws._req.query["number"])]
            frames = [welcome] if when != "first" or text == TWICE else []
            if when == "after":
                send_at_once(ws, *frames)
                frames = []
                assert isinstance(await ws.receive(), WSMessage)
            send_at_once(ws, *frames, text)
        await ws.receive()

    async with foreign() as other:
        other.script = misbehave
        await run(body, other.url, websocket)


async def test_keepalive_asks_a_server_that_is_silent() -> None:
    """A wampkit server is asked again and again while nothing else comes, and left when it does not answer."""
    body = """
    const client = await connect(url, { keepalive: 400, reconnect: false }).opened;
    await ask("ready");
    assert.equal(client.state, "open");
    say("silent");
    await until(client, "closed");
    assert.equal(client.error.message, "the server does not answer");
    const off = await connect(url, { keepalive: 0 }).opened;
    """
    async with foreign() as other, node(body, other.url) as script:
        other.mark = ".wampkit"
        other.answers = {"wampkit:subscription": [3, None]}
        assert await script.said() == "ready"
        await eventually(lambda: len(other.sent(CALL)) >= 3)
        script.tell()
        assert await script.said() == "silent"
        other.answers = {"wampkit:subscription": []}
        await script.ended()
    assert {message[2] for message in other.sent(CALL)} == {"wampkit:subscription"}
