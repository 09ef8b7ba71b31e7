"""The browser's client in Node when its server goes away: it comes back by itself, with all put back that was there."""

import asyncio
import itertools
import signal
import time
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.fernet import Fernet

from wampkit import Tickets

from ..support.command import command, free_port, write
from ..support.foreign import foreign
from ..support.javascript import OWN, PACKAGE, Demo, node, run
from ..support.restartable import restartable
from ..support.wire import PREFIX, SUBSCRIBE, UNSUBSCRIBE, eventually

with_each_websocket = pytest.mark.parametrize("websocket", [OWN, PACKAGE])

APP = """
import asyncio

from wampkit import App

app = App(ident="my shop", prefixes={"chat": "http://example.com/chat/"})
app.topic("chat:{room}", relay=True)
log = open("begun.log", "a", buffering=1)


@app.rpc("http://example.com/hold")
async def hold() -> None:
    await asyncio.Event().wait()


@app.rpc("work")
async def work(number: int) -> int:
    log.write(f"{number}\\n")
    await asyncio.sleep(0.01 * (number % 5))
    return number
"""


# ---- servers that end


@with_each_websocket
async def test_a_killed_server_is_found_again(tmp_path: Path, websocket: str) -> None:
    """Calls in flight fail, and after the restart prefixes and both kinds of subscription are as before."""
    body = """
    const client = connect(url, { prefixes: { e: "http://example.com/" } });
    const states = [];
    const off = client.on("state", (state, error) => states.push([state, error?.code ?? null]));
    const heard = [];
    const stop = client.subscribe("chat:a", (event) => heard.push(event));
    const events = client.subscribe("e:chat/a");
    client.subscribe("e:chat/left", () => {})();
    await stop.ready;
    client.prefix("f", "http://example.com/");
    const first = client.sessionId;
    const inFlight = client.call("e:hold");
    say("ready");
    const lost = await failure(inFlight);
    assert.deepEqual(lost, { name: "ConnectionLost", message: "the connection was lost", code: 1006 });
    assert.equal(client.state, "reconnecting");
    const now = await failure(client.call("work", 1));
    assert.equal(now.message, "the client is reconnecting: the connection was lost");
    assert.throws(() => client.publish("chat:a", 1), ConnectionLost);
    const later = client.subscribe("chat:b");
    say("lost");
    await until(client, "open");
    assert.notEqual(client.sessionId, first);
    assert.equal(client.error, null);
    assert.equal(await later.ready, "http://example.com/chat/b");
    assert.equal(await client.call("work", 1), 1);
    client.publish("f:chat/a", "back", { excludeMe: false });
    client.publish("chat:b", "later", { excludeMe: false });
    assert.deepEqual(await take(events, 1), ["back"]);
    assert.deepEqual(await take(later, 1), ["later"]);
    assert.deepEqual(heard, ["back"]);
    assert.deepEqual(states, [["open", null], ["reconnecting", 1006], ["open", null]]);
    off();
    """
    write(tmp_path, app=APP)
    port = str(free_port())
    serve = ("run", "app:app", "--port", port)
    async with command(*serve, cwd=tmp_path) as server, node(body, await server.url(), websocket) as script:
        assert await script.said() == "ready"
        server.signal(signal.SIGKILL)
        assert await script.said() == "lost"
        await server.exit()
        async with command(*serve, cwd=tmp_path):
            await script.ended()


async def test_a_frozen_server_is_noticed(tmp_path: Path) -> None:
    """A stopped process keeps its connections open; keepalive gives them up, and finds it when it goes on."""
    body = """
    const client = await connect(url, { keepalive: 600, openTimeout: 600 }).opened;
    const inFlight = failure(client.call("http://example.com/hold"));
    await ask("ready");
    assert.equal((await inFlight).message, "the server does not answer");
    assert.equal(client.state, "reconnecting");
    say("lost");
    await until(client, "open");
    assert.equal(await client.call("work", 1), 1);
    """
    write(tmp_path, app=APP)
    async with (
        command("run", "app:app", "--port", "0", cwd=tmp_path) as server,
        node(body, await server.url()) as script,
    ):
        assert await script.said() == "ready"
        server.signal(signal.SIGSTOP)
        script.tell()
        assert await script.said() == "lost"
        server.signal(signal.SIGCONT)
        await script.ended()


async def test_a_restarting_server_loses_no_call(tmp_path: Path) -> None:
    """Calls that are made all the time, through two restarts with 1012, are all answered, and each ran once."""
    body = """
    const client = await connect().opened;
    const calls = [];
    const make = setInterval(() => calls.push(client.call("work", calls.length)), 1);
    const states = [];
    client.on("state", (state, error) => {
      states.push(state);
      if (state === "reconnecting") say(error.code);
    });
    await ask("ready");
    await until(client, "open");
    clearInterval(make);
    const answers = await Promise.all(calls);
    assert.deepEqual(answers, [...answers.keys()]);
    assert.deepEqual(states, ["reconnecting", "open", "reconnecting", "open"]);
    say("called", answers.length);
    """
    write(tmp_path, app=APP)
    port = str(free_port())
    serve = ("run", "app:app", "--port", port)
    async with command(*serve, cwd=tmp_path) as first, node(body, await first.url()) as script:
        assert await script.said() == "ready"
        first.signal(signal.SIGTERM)
        assert await script.said() == 1012
        assert await first.exit() == 0
        async with command(*serve, cwd=tmp_path) as second:
            begun = len((tmp_path / "begun.log").read_text().split())
            await eventually(lambda: len((tmp_path / "begun.log").read_text().split()) > begun)
            second.signal(signal.SIGTERM)
            assert await script.said() == 1012
            assert await second.exit() == 0
            async with command(*serve, cwd=tmp_path) as third:
                await third.url()
                script.tell()
                name, count = await script.said()
                await script.ended()
    assert (name, count > 100) == ("called", True)
    assert sorted(map(int, (tmp_path / "begun.log").read_text().split())) == list(range(count))


async def test_calls_wait_for_a_restart_and_no_longer() -> None:
    """For `restartTimeout`; a signal and a timeout end the waiting of one call, which then never runs."""
    body = """
    const client = await connect().opened;
    const hasty = await connect(url, { restartTimeout: 50 }).opened;
    say("ready");
    await Promise.all([until(client, "reconnecting"), until(hasty, "reconnecting")]);
    const waits = client.call("run", "waits");
    const controller = new AbortController();
    const aborted = failure(client.call({ uri: "run", signal: controller.signal }, "aborted"));
    const late = failure(client.call({ uri: "run", timeout: 20 }, "late"));
    controller.abort();
    assert.equal((await aborted).name, "AbortError");
    assert.equal((await late).name, "TimeoutError");
    assert.match((await failure(hasty.call("run", "too long"))).message, /^the client is reconnecting: /);
    assert.equal((await failure(hasty.call("run", "at once"))).name, "ConnectionLost");
    say("waited");
    assert.equal(await waits, "waits");
    await until(hasty, "open");
    assert.equal(await hasty.call("run", "again"), "again");
    """
    demo = Demo()
    async with restartable(demo.app) as server, node(body, server.url) as script:
        assert await script.said() == "ready"
        await server.stop()
        assert await script.said() == "waited"
        await server.start()
        await script.ended()
    assert demo.runs == ["waits", "again"]


# ---- what is put back, and what is kept


@with_each_websocket
async def test_each_connection_subscribes_once(websocket: str) -> None:
    """However often the wire is cut, prefixes and subscriptions are sent once, and not what was left meanwhile."""
    body = """
    const client = connect(url, { prefixes: { p: "http://p/" } });
    const first = client.subscribe("p:kept", () => {});
    client.subscribe("p:kept", () => {});
    const left = client.subscribe("p:left", () => {});
    for (let cut = 0; cut < 10; cut++) {
      await until(client, "open");
      await client.call("echo");
      say("open");
      await until(client, "reconnecting");
      if (cut === 4) left();
    }
    first();
    await until(client, "open");
    await client.call("echo");
    """
    async with foreign() as other, node(body, other.url, websocket) as script:
        for _ in range(10):
            assert await script.said() == "open"
            await other.cut()
        await script.ended()
    assert len(other.handshakes) == 11
    assert other.sent(PREFIX) == [[PREFIX, "p", "http://p/"]] * 11
    kept, left = [SUBSCRIBE, "http://p/kept"], [SUBSCRIBE, "http://p/left"]
    assert other.sent(SUBSCRIBE) == [kept, left] * 5 + [kept] * 6
    assert other.sent(UNSUBSCRIBE) == []


async def test_publishes_are_kept_where_that_is_asked_for() -> None:
    """Up to `keepPublishes`, as they were, in order, before the first connection too; without it they are refused."""
    body = """
    const strict = connect();
    assert.throws(() => strict.publish("chat:a", 1), { name: "ConnectionLost" });
    const client = connect(url, { keepPublishes: 2 });
    const events = client.subscribe("chat:a");
    const event = { number: 1 };
    client.publish("chat:a", event, { excludeMe: false });
    event.number = "changed";
    client.publish("chat:a", 2, { excludeMe: false });
    assert.throws(() => client.publish("chat:a", 3), { name: "ConnectionLost", message: /^the client is connecting/ });
    assert.throws(() => connect(url, { keepPublishes: 2 }).publish("chat:a", 1n), TypeError);
    assert.deepEqual(await take(events, 2), [{ number: 1 }, 2]);
    say("cut");
    await until(client, "reconnecting");
    client.publish("chat:a", 4, { excludeMe: false });
    await until(client, "open");
    client.publish("chat:a", 5, { excludeMe: false });
    assert.deepEqual(await take(events, 2), [4, 5]);
    client.close();
    assert.throws(() => client.publish("chat:a", 6), { name: "ConnectionLost", message: /^the client is closed/ });
    """
    async with restartable(Demo().app) as server, node(body, server.url) as script:
        assert await script.said() == "cut"
        server.cut()
        await script.ended()


# ---- each attempt


async def test_each_attempt_has_a_fresh_url() -> None:
    """A function gives it; one that fails, one that never settles, and one that gives nonsense are asked again."""
    body = """
    let asked = 0;
    const fresh = async () => {
      asked += 1;
      if (asked === 1) throw new Error("no ticket today");
      if (asked === 2) await new Promise(() => {});
      return `${url}?n=${asked}`;
    };
    const client = connect(fresh, { openTimeout: 500 });
    const errors = [];
    client.on("state", (state, error) => errors.push([state, error && error.message]));
    await client.opened;
    say("open");
    await until(client, "reconnecting");
    await until(client, "open");
    assert.equal(asked, 4);
    assert.deepEqual(errors, [
      ["reconnecting", "Error: no ticket today"],
      ["open", null],
      ["reconnecting", "the connection was lost"],
      ["open", null],
    ]);
    const plain = connect(() => new URL(url.replace("ws:", "http:")));
    await plain.opened;
    """
    async with foreign() as other, node(body, other.url) as script:
        assert await script.said() == "open"
        await other.cut()
        await script.ended()
    assert [handshake.query.get("n") for handshake in other.handshakes] == ["3", "4", None]


@with_each_websocket
async def test_a_ticket_that_expires(websocket: str) -> None:
    """Whoever brings an old ticket is refused and asks for a new one; each is good for one connection."""
    body = """
    const client = connect(async () => `${url}?ticket=${await ask("ticket")}`);
    assert.equal((await client.opened).state, "open");
    assert.equal(await client.call("whoami"), "ann");
    say("cut");
    await until(client, "reconnecting");
    await until(client, "open");
    assert.equal(await client.call("whoami"), "bob");
    """
    demo = Demo(middlewares=[Tickets(Fernet.generate_key(), required=True)])
    async with restartable(demo.app) as server, node(body, server.url, websocket) as script:
        expired = demo.app.tickets.issue("eve", ttl=0.001)
        ann = demo.app.tickets.issue("ann")
        await asyncio.sleep(0.002)
        for ticket in (expired, ann):
            assert await script.said() == "ticket"
            script.tell(ticket)
        assert await script.said() == "cut"
        server.cut()
        for ticket in (ann, demo.app.tickets.issue("bob")):
            assert await script.said() == "ticket"
            script.tell(ticket)
        await script.ended()


@pytest.mark.parametrize("how", ["refused", "welcomed and closed"])
async def test_attempts_are_spread_and_bounded(how: str) -> None:
    """The delay is drawn below a bound that doubles up to the longest, also where each connection ends at once."""
    body = """
    const dice = [1, 1, 1, 1, 1, 1, 0, 0, 0.5];
    Math.random = () => dice.shift() ?? 1;
    const client = connect(url, { backoff: [20, 160] });
    while (dice.length) await new Promise((resolve) => setTimeout(resolve, 5));
    """
    times: list[float] = []

    async def hang_up(ws: web.WebSocketResponse) -> None:
        times.append(time.monotonic())
        if how == "refused":
            assert ws._req is not None
            assert ws._req.transport is not None
            ws._req.transport.abort()
        else:
            await ws.send_json([0, "s", 1, "Other/1.0"])
            await ws.close()

    async with foreign() as other:
        other.script = hang_up
        await run(body, other.url)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    bounds = [0.02, 0.04, 0.08, 0.16, 0.16, 0.16]
    assert all(gap >= bound - 0.002 for gap, bound in zip(gaps, bounds, strict=False)), gaps
    # A delay that were not bounded would have come to many seconds by then, and the dice of 0 to half a minute.
    assert sum(gaps) < sum(bounds) + 10, gaps
