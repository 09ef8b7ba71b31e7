"""The browser's client against servers that break WAMP v1: it ends well, says why, and keeps no more than it may."""

import json

import pytest
from aiohttp import web

from ..support.foreign import foreign
from ..support.hostile import EXPECTED, TRY_EACH, misbehave
from ..support.javascript import OWN, PACKAGE, node
from ..support.wire import CALL, eventually


@pytest.mark.parametrize("websocket", [OWN, PACKAGE])
async def test_no_message_is_thrown_where_nobody_catches(websocket: str) -> None:
    """After any text the call is answered, or rejected with ConnectionLost and the client closed; nothing else."""
    body = f"""
    const uncaught = [];
    const note = (error) => uncaught.push(String(error));
    process.on("uncaughtException", note).on("unhandledRejection", note);
    say(await ({TRY_EACH})(connect, url, {json.dumps(EXPECTED)}, uncaught));
    """
    async with foreign() as other, node(body, other.url, websocket) as script:
        other.script = misbehave
        assert await script.said() == []
        await script.ended()


async def test_events_of_unknown_topics_are_kept_within_bounds() -> None:
    """While the server owes the URI of a subscription, the last 1,000 events and 4 million characters are kept."""
    body = """
    const client = await connect().opened;
    for (const count of [1500, 100]) {
      const heard = [];
      const stop = client.subscribe(`t:${count}`, (event) => heard.push(event.n));
      await client.call("all");
      assert.equal(await stop.ready, `http://t/${count}`);
      say([heard.length, heard[0], heard.at(-1)]);
    }
    """
    async with foreign() as other:
        other.mark = ".wampkit"
        other.answers = {"wampkit:subscription": [], "all": []}
        async with node(body, other.url) as script:
            for count, size, expected in ((1500, 10, [1000, 500, 1499]), (100, 100_000, [39, 61, 99])):
                await eventually(lambda count=count: len(other.sent(CALL)) == (2 if count == 1500 else 4))
                asked, answered = other.sent(CALL)[-2:]
                for n in range(count):
                    await other.sockets[0].send_json([8, f"http://t/{count}", {"n": n, "x": "x" * size}])
                await other.sockets[0].send_json([3, answered[1], None])
                await other.sockets[0].send_json([3, asked[1], f"http://t/{count}"])
                assert await script.said() == expected
            await script.ended()


@pytest.mark.parametrize("answer", [[], [3, {"endsWith": 1}], [3, 5], [4, "wampkit:error", "no"]])
async def test_a_subscription_whose_fate_is_not_told_goes_on(answer: list[object]) -> None:
    """Without an answer that makes sense `ready` is undefined within `openTimeout`, and events come and can be left."""
    body = """
    const client = await connect(url, { openTimeout: 200 }).opened;
    const events = client.subscribe("t");
    assert.equal(await events.ready, undefined);
    client.publish("t", 1);
    assert.equal((await events.next()).value, 1);
    events.stop();
    await ask("left");
    """
    async with foreign() as other, node(body, other.url) as script:
        other.mark = ".wampkit"
        other.answers = {"wampkit:subscription": answer}
        assert await script.said() == "left"
        await eventually(lambda: other.sent(6) == [[6, "t"]])
        script.tell()
        await script.ended()


async def test_a_server_without_welcome_is_spoken_to() -> None:
    """With `welcome: false` the connection is open at once, and empty texts are signs of life; else neither is so."""
    body = """
    const client = await connect(url, { welcome: false, reconnect: false }).opened;
    assert.equal(client.sessionId, "");
    const events = client.subscribe("OnJsonApiEvent");
    assert.equal((await events.next()).value.uri, "/lol");
    client.close();
    const strict = connect(url, { reconnect: false, openTimeout: 3000 });
    const lost = await strict.opened.catch((error) => error);
    assert.equal(lost.message, "the server does not speak WAMP v1");
    """

    async def league(ws: web.WebSocketResponse) -> None:
        await ws.send_str("")
        async for frame in ws:
            if frame.data == '[5,"OnJsonApiEvent"]':
                await ws.send_str("")
                await ws.send_str('[8,"OnJsonApiEvent",{"data":1,"eventType":"Update","uri":"/lol"}]')

    async with foreign() as other, node(body, other.url) as script:
        other.script = league
        await script.ended()


async def test_names_that_a_server_shortened_are_understood() -> None:
    """The error URI of a CALLERROR and the topic of an EVENT may be CURIEs of the client's own prefixes."""
    body = """
    const client = connect(url, { prefixes: { err: "http://err/", t: "http://t/", http: "no" } });
    assert.equal((await failure(client.call("teapot"))).uri, "http://err/teapot");
    assert.equal((await failure(client.call("full"))).uri, "http://err/full");
    const heard = [];
    client.subscribe("http://t/a", (event, uri) => heard.push([event, uri]));
    await ask("ready");
    await client.call("echo");
    assert.deepEqual(heard, [[1, "http://t/a"]]);
    """
    async with foreign() as other, node(body, other.url) as script:
        other.answers = {"teapot": [4, "err:teapot", "short"], "full": [4, "http://err/full", "and stout"]}
        assert await script.said() == "ready"
        await other.sockets[0].send_json([1, "t", "http://theirs/"])
        await other.sockets[0].send_json([8, "t:a", 1])
        script.tell()
        await script.ended()


async def test_a_message_that_is_too_large_is_not_parsed() -> None:
    """Beyond `maxMessageSize`, 4 Mi characters by default, the client leaves with 1009; below it, the answer is had."""
    body = """
    const client = await connect(url, { reconnect: false, maxMessageSize: 6 << 20 }).opened;
    assert.equal((await client.call("large")).length, 5 << 20);
    const other = await connect(url, { reconnect: false }).opened;
    const lost = await failure(other.call("large"));
    assert.deepEqual(lost, { name: "ConnectionLost", message: "the server sent over 4194304 characters", code: 1009 });
    """
    async with foreign() as other, node(body, other.url, PACKAGE) as script:
        other.answers = {"large": [3, "x" * (5 << 20)]}
        await script.ended()
