"""The browser's client in Node, with Node's own WebSocket and with that of `ws`: calls, events and publishes."""

import pytest

from ..support.foreign import foreign
from ..support.javascript import OWN, PACKAGE, Demo, node, run
from ..support.wire import EVENT, PREFIX, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, eventually, serve

with_each_websocket = pytest.mark.parametrize("websocket", [OWN, PACKAGE])


# ---- calls


@with_each_websocket
async def test_calls_are_answered(websocket: str) -> None:
    """A call returns its result, by any prefix or in full, also if it was made before the connection was open."""
    body = """
    const client = connect(url, { prefixes: { c: "http://example.com/calc#" } });
    assert.equal(client.state, "connecting");
    assert.equal(await client.call("c:add", 2, 3), 5);
    assert.equal(await client.call("calc:add", 2, 3), 5);
    assert.equal(await client.call("http://example.com/calc#add", 2, 3), 5);
    assert.equal(await client.call({ uri: "c:add" }, 2, 3), 5);
    client.prefix("d", "http://example.com/calc#");
    assert.equal(await client.call("d:add", 2, 3), 5);
    assert.deepEqual(await client.call("echo"), []);
    const args = [null, true, 1.5, "grüße 🎉", [1, [2]], { a: { b: null } }];
    assert.deepEqual(await client.call("echo", ...args), args);
    assert.deepEqual(await client.call("echo", undefined, NaN), [null, null]);
    const many = Array.from({ length: 200 }, (_, number) => client.call("run", number));
    assert.deepEqual(await Promise.all(many), [...Array(200).keys()]);
    """
    async with serve(Demo().app) as server:
        await run(body, server.url, websocket)


@with_each_websocket
async def test_errors_carry_all_that_the_server_said(websocket: str) -> None:
    """CALLERROR becomes a `CallError` with the URI, the description and the details, null where there are none."""
    body = """
    const client = connect();
    const error = await client.call("fail", { code: 7 }).catch((error) => error);
    assert(error instanceof CallError && error instanceof Error);
    const uri = "http://example.com/calc#error";
    assert.deepEqual([error.uri, error.description, error.details], [uri, "it failed", { code: 7 }]);
    assert.equal(String(error), "CallError: http://example.com/calc#error: it failed");
    assert.equal((await failure(client.call("fail"))).details, null);
    assert.equal((await failure(client.call("nothing:here"))).uri, "http://api.wamp.ws/error#NoSuchRPCEndpoint");
    assert.equal((await failure(client.call("calc:add", 1))).uri, "http://api.wamp.ws/error#invalid-argument");
    """
    async with serve(Demo().app) as server:
        await run(body, server.url, websocket)


async def test_what_json_cannot_carry_is_refused() -> None:
    """BigInt and cycles are a TypeError of the caller's; what else is under way goes on."""
    body = """
    const client = await connect().opened;
    const cycle = {};
    cycle.self = cycle;
    const underWay = client.call("hold", "other");
    for (const bad of [1n, cycle]) {
      assert.equal((await failure(client.call("echo", bad))).name, "TypeError");
      assert.throws(() => client.publish("chat:lobby", bad), TypeError);
    }
    assert.deepEqual(await client.call("echo", 1), [1]);
    assert.equal(client.state, "open");
    say("ready");
    assert.equal(await underWay, "other");
    """
    demo = Demo()
    async with serve(demo.app) as server, node(body, server.url) as script:
        assert await script.said() == "ready"
        demo.release.set()
        await script.ended()


@with_each_websocket
async def test_calls_can_be_given_up(websocket: str) -> None:
    """By a signal, aborted before or during the call, or by a timeout; late answers harm nobody."""
    body = """
    const client = await connect(url, { callTimeout: 30 }).opened;
    const controller = new AbortController();
    const { signal } = controller;
    const aborted = failure(client.call({ uri: "hold", signal, timeout: 0 }, "aborted"));
    const other = client.call({ uri: "hold", timeout: 0 }, "other");
    const late = await failure(client.call({ uri: "hold", timeout: 10 }, "late"));
    assert.deepEqual([late.name, late.message], ["TimeoutError", "hold: no answer within 10 ms"]);
    assert.equal((await failure(client.call("hold", "by default"))).message, "hold: no answer within 30 ms");
    controller.abort();
    assert.equal((await aborted).name, "AbortError");
    const reason = new Error("not any more");
    const before = client.call({ uri: "run", signal: AbortSignal.abort(reason) }, "never");
    assert.equal(await before.catch((error) => error), reason);
    const during = new AbortController();
    const passed = client.call({ uri: "run", signal: during.signal, timeout: 0 }, "in time");
    assert.equal(await passed, "in time");
    during.abort();
    say("ready");
    assert.equal(await other, "other");
    assert.equal(await client.call({ uri: "calc:add", timeout: 600_000 }, 1, 1), 2);
    """
    demo = Demo()
    async with serve(demo.app) as server, node(body, server.url, websocket) as script:
        assert await script.said() == "ready"
        demo.release.set()
        await script.ended()
    assert demo.runs == ["aborted", "other", "late", "by default", "in time"]


# ---- events


@with_each_websocket
async def test_events_come_by_callback_and_by_iteration(websocket: str) -> None:
    """Two subscriptions of one topic are one at the server, and end there with the last of them."""
    body = """
    const client = connect(url, { prefixes: { room: "http://example.com/chat/" } });
    const heard = [];
    const stop = client.subscribe("room:lobby", (event, uri) => heard.push([event, uri]));
    assert.equal(await stop.ready, "http://example.com/chat/lobby");
    const events = client.subscribe("room:lobby");
    assert.equal(events.topic, "room:lobby");
    assert.equal(await events.ready, "http://example.com/chat/lobby");
    for (const number of [1, 2, 3]) client.publish("room:lobby", { number }, { excludeMe: false });
    for await (const event of events) if (event.number === 3) break;
    const uri = "http://example.com/chat/lobby";
    assert.deepEqual(heard, [1, 2, 3].map((number) => [{ number }, uri]));
    assert.equal(await ask("left the loop"), "still there");
    stop();
    stop();
    client.publish("room:lobby", "nobody", { excludeMe: false });
    assert.equal(await ask("stopped"), "gone");
    assert.equal(heard.length, 3);
    """
    demo = Demo()
    async with serve(demo.app) as server, node(body, server.url, websocket) as script:
        topic = "http://example.com/chat/lobby"
        assert await script.said() == "left the loop"
        assert len(demo.app.topics[topic]) == 1
        assert demo.left == []
        script.tell("still there")
        assert await script.said() == "stopped"
        await eventually(lambda: demo.left == ["lobby"])
        assert topic not in demo.app.topics
        script.tell("gone")
        await script.ended()


async def test_a_topic_by_a_prefix_of_the_server_is_found() -> None:
    """Events of a topic arrive though its prefix is the server's alone; of two names for it the last one leaves it."""
    body = """
    const client = await connect().opened;
    const heard = [];
    const short = client.subscribe("chat:lobby", (event, uri) => heard.push(["short", event, uri]));
    const full = client.subscribe("http://example.com/chat/lobby", (event) => heard.push(["full", event]));
    assert.equal(await short.ready, "http://example.com/chat/lobby");
    assert.equal(await full.ready, "http://example.com/chat/lobby");
    client.publish("chat:lobby", 1, { excludeMe: false });
    await client.call("echo");
    assert.deepEqual(heard, [["short", 1, "http://example.com/chat/lobby"], ["full", 1]]);
    short();
    await client.call("echo");
    client.publish("chat:lobby", 2, { excludeMe: false });
    await client.call("echo");
    assert.deepEqual(heard.slice(2), [["full", 2]]);
    full();
    say("left");
    await told();
    """
    demo = Demo()
    async with serve(demo.app) as server, node(body, server.url) as script:
        assert await script.said() == "left"
        await eventually(lambda: demo.left == ["lobby"])
        script.tell()
        await script.ended()
    assert demo.left == ["lobby"]


async def test_events_before_the_answer_are_kept_in_order() -> None:
    """What a server publishes to a newcomer before it tells the topic's full URI arrives before all later events."""
    body = """
    const client = await connect().opened;
    const heard = [];
    client.subscribe("n:first", (event) => heard.push(event));
    client.subscribe("n:second", () => {});
    await client.call("all");
    assert.deepEqual(heard, [1, 2, 3]);
    """
    async with foreign() as other:
        other.mark = ".wampkit"
        other.answers = {"wampkit:subscription": [], "all": []}
        async with node(body, other.url) as script:
            await eventually(lambda: len(other.sent(2)) == 3)
            first, _, last = other.sent(2)
            ws = other.sockets[0]
            frames = [
                [EVENT, "http://n/first", 1],
                [3, first[1], "http://n/first"],
                [EVENT, "http://n/first", 2],
                [EVENT, "http://n/first", 3],
                [3, last[1], None],
            ]
            for frame in frames:
                await ws.send_json(frame)
            await script.ended()


async def test_a_refused_subscription_says_so() -> None:
    """`ready` is null and the console has a warning; the subscription stays silent, and others are not harmed."""
    body = """
    const client = connect();
    assert.equal(await client.subscribe("secret", () => {}).ready, null);
    assert.equal(await client.subscribe("nowhere").ready, null);
    assert.equal(await client.subscribe("chat:lobby").ready, "http://example.com/chat/lobby");
    """
    async with serve(Demo().app) as server:
        script = await run(body, server.url)
    assert script.complaints == "wampkit: refused: secret\nwampkit: refused: nowhere\n"


async def test_a_failing_listener_harms_only_itself() -> None:
    """What a listener throws is reported as any uncaught error, and the others have their events."""
    body = """
    const caught = [];
    process.on("unhandledRejection", (error) => caught.push(error.message));
    const client = connect();
    client.on("state", () => { throw new Error("state") });
    const broken = client.subscribe("chat:a", () => { throw new Error("event") });
    const events = client.subscribe("chat:a");
    await Promise.all([broken.ready, events.ready]);
    for (const event of [1, 2]) client.publish("chat:a", event, { excludeMe: false });
    assert.deepEqual(await take(events, 2), [1, 2]);
    await client.call("echo");
    assert.deepEqual(caught, ["state", "event", "event"]);
    """
    async with serve(Demo().app) as server:
        await run(body, server.url)


async def test_nothing_comes_after_an_unsubscribe() -> None:
    """Neither to a listener that another one stops during an event, nor the event under way to one that it adds."""
    body = """
    const client = connect();
    const heard = [];
    const first = client.subscribe("chat:a", (event) => {
      heard.push(["first", event]);
      second();
      client.subscribe("chat:a", (event) => heard.push(["third", event]));
      first();
    });
    const second = client.subscribe("chat:a", (event) => heard.push(["second", event]));
    await second.ready;
    for (const event of [1, 2]) client.publish("chat:a", event, { excludeMe: false });
    await client.call("echo");
    assert.deepEqual(heard, [["first", 1], ["third", 2]]);
    """
    async with serve(Demo().app) as server:
        await run(body, server.url)


async def test_an_iteration_that_lags_loses_the_oldest() -> None:
    """`maxEvents` bounds what waits; `dropped` counts what was lost."""
    body = """
    const client = connect(url, { maxEvents: 3 });
    const events = client.subscribe("chat:a");
    await events.ready;
    for (const event of [1, 2, 3, 4, 5]) client.publish("chat:a", event, { excludeMe: false });
    await client.call("echo");
    assert.equal(events.dropped, 2);
    events.stop();
    const rest = [];
    for await (const event of events) rest.push(event);
    assert.deepEqual(rest, [3, 4, 5]);
    """
    async with serve(Demo().app) as server:
        await run(body, server.url)


async def test_an_iteration_can_be_ended_in_each_way() -> None:
    """By stop() while it waits, by return() at the start and while it waits, and by closing the client."""
    body = """
    const client = connect();
    const [stopped, unused, awaited, closed] = ["a", "b", "c", "d"].map((room) => client.subscribe(`chat:${room}`));
    await Promise.all([stopped, unused, awaited, closed].map(({ ready }) => ready));
    const end = { value: undefined, done: true };
    const waits = [stopped.next(), awaited.next(), awaited.next(), closed.next()];
    stopped.stop();
    assert.deepEqual(await waits[0], end);
    assert.deepEqual(await unused.return(), end);
    assert.deepEqual(await unused.next(), end);
    assert.deepEqual(await awaited.return(), end);
    assert.deepEqual([await waits[1], await waits[2]], [end, end]);
    assert.equal(await ask("left"), "gone");
    client.close();
    assert.deepEqual(await waits[3], end);
    assert.throws(() => client.subscribe("chat:a"), ConnectionLost);
    """
    demo = Demo()
    async with serve(demo.app) as server, node(body, server.url) as script:
        assert await script.said() == "left"
        await eventually(lambda: sorted(demo.left) == ["a", "b", "c"])
        script.tell("gone")
        await script.ended()


# ---- publishing


@with_each_websocket
async def test_who_receives_a_publish(websocket: str) -> None:
    """`excludeMe`, `exclude` and `eligible` choose among the subscribers, and a list goes together with `excludeMe`."""
    body = """
    const clients = [connect(), connect(), connect()];
    const heard = [[], [], []];
    const subscriptions = clients.map((each, index) => each.subscribe("chat:a", (event) => heard[index].push(event)));
    await Promise.all(subscriptions.map(({ ready }) => ready));
    const [me, second, third] = clients;
    me.publish("chat:a", "default");
    me.publish("chat:a", "all", { excludeMe: false });
    me.publish("chat:a", "others", { excludeMe: true });
    me.publish("chat:a", "not second", { exclude: [second.sessionId] });
    me.publish("chat:a", "third", { exclude: [second.sessionId], excludeMe: true });
    me.publish("chat:a", "second", { eligible: [second.sessionId] });
    me.publish("chat:a", "me", { eligible: [me.sessionId] });
    me.publish("chat:a", "nobody", { eligible: [me.sessionId], excludeMe: true });
    me.publish("chat:a", "end", { eligible: clients.map(({ sessionId }) => sessionId) });
    for (const each of clients) await each.call("echo");
    assert.deepEqual(heard, [
      ["all", "not second", "me", "end"],
      ["default", "all", "others", "second", "end"],
      ["default", "all", "others", "not second", "third", "end"],
    ]);
    """
    async with serve(Demo().app) as server:
        await run(body, server.url, websocket)


# ---- other servers


@with_each_websocket
async def test_other_servers_are_spoken_to(websocket: str) -> None:
    """Publishes go out in the shortest form, and events arrive by full URI or by the CURIE of their topic."""
    body = """
    const client = connect(url, { prefixes: { t: "http://t/" } });
    const heard = [];
    const stop = client.subscribe("t:a", (event, uri) => heard.push([event, uri]));
    assert.equal(await stop.ready, undefined);
    assert.deepEqual([client.serverIdent, client.sessionId], ["Other/1.0", "session-1"]);
    client.publish("t:b", 1);
    client.publish("t:b", 2, { excludeMe: true });
    client.publish("t:b", 3, { exclude: ["x"] });
    client.publish("t:b", 4, { exclude: ["x"], eligible: ["y"] });
    client.publish("t:b", 5, { eligible: ["y"], excludeMe: true });
    assert.deepEqual(await client.call("echo", 1), [1]);
    assert.equal((await failure(client.call("wrong"))).uri, "other:error");
    assert.equal((await failure(client.call("bare"))).description, "");
    await ask("ready");
    await client.call("echo");
    assert.deepEqual(heard, [["by full URI", "http://t/a"], ["by CURIE", "http://t/a"]]);
    stop();
    await ask("left");
    assert.equal((await failure(client.call("never"))).code, 1000);
    """
    async with foreign() as other, node(body, other.url, websocket) as script:
        other.answers["bare"] = [4, "other:error"]
        assert await script.said() == "ready"
        assert other.sent(PREFIX) == [[PREFIX, "t", "http://t/"]]
        assert other.sent(SUBSCRIBE) == [[SUBSCRIBE, "http://t/a"]]
        assert [message[2:] for message in other.sent(PUBLISH)] == [
            [1],
            [2, True],
            [3, ["x"]],
            [4, ["x"], ["y"]],
            [5, ["session-1"], ["y"]],
        ]
        for topic, event in (("http://t/a", "by full URI"), ("t:a", "by CURIE"), ("t:other", "of another topic")):
            await other.sockets[0].send_json([EVENT, topic, event])
        script.tell()
        assert await script.said() == "left"
        await eventually(lambda: other.sent(UNSUBSCRIBE) == [[UNSUBSCRIBE, "http://t/a"]])
        script.tell()
        await eventually(lambda: other.sent(2)[-1][2] == "never")
        await other.sockets[0].close()
        await script.ended()


@with_each_websocket
async def test_a_publish_can_be_confirmed(websocket: str) -> None:
    """With `confirm` a refusal is a `CallError`; what a wampkit server takes is true, and other servers cannot tell."""
    body = """
    const client = connect();
    const events = client.subscribe("chat:a");
    await events.ready;
    const rules = { confirm: true, excludeMe: false };
    assert.equal(await client.publish("chat:a", 1, rules), true);
    assert.equal((await events.next()).value, 1);
    assert.equal(client.publish("chat:a", 2), undefined);
    const refused = await failure(client.publish("nowhere", 1, { confirm: true }));
    assert.deepEqual([refused.name, refused.description], ["CallError", "no such topic"]);
    assert.equal((await failure(client.publish("chat:a", 1n, rules))).name, "TypeError");
    const abort = AbortSignal.abort(new Error("not any more"));
    assert.equal((await failure(client.publish("chat:a", 1, { ...rules, signal: abort }))).message, "not any more");
    const strange = connect(await ask("other"));
    const lists = { confirm: true, exclude: ["x"], eligible: ["y"] };
    assert.equal(await strange.publish("t", 1, lists), false);
    await strange.call("echo");
    client.close();
    assert.equal((await failure(client.publish("chat:a", 1, rules))).name, "ConnectionLost");
    """
    async with (
        serve(Demo(ident="my shop").app) as server,
        foreign() as other,
        node(body, server.url, websocket) as script,
    ):
        other.ident = "wampkit"
        assert await script.said() == "other"
        script.tell(other.url)
        await script.ended()
    assert other.sent(PUBLISH) == [[PUBLISH, "t", 1, ["x"], ["y"]]]
    assert [message[2] for message in other.sent(2)] == ["echo"]
