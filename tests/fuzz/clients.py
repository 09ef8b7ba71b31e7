"""The clients under attack: whatever a server says, each promise ends, and in one of the ways that are documented."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.javascript import node
from wampkit import CallError, Client, ConnectionLost, connect

from .hostile import hostile_server
from .report import Report, Until, watched

__all__ = ["fuzz_javascript", "fuzz_python"]

AT_ONCE = 16

DOCUMENTED = (CallError, ConnectionLost, TimeoutError)
"""What calls, subscriptions and publishes may raise; refused handshakes and logins are kinds of ConnectionLost."""


async def fuzz_python(seed: str, seconds: float, only: int | None = None) -> Report:
    """Let Python clients use a hostile server.

    Args:
        seed: What decides what the server says.
        seconds: How long.
        only: The number of the one connection to make again, or None.
    """
    report, numbers = Report(), Until(seconds, only)
    running = Until(seconds, only)
    with watched(report):
        async with hostile_server(seed, numbers, report) as url:
            before = asyncio.all_tasks()
            await asyncio.gather(*[_use_python(url, seed, running, report) for _ in range(AT_ONCE)])
            # The tasks of the server are not the client's.
            others = asyncio.all_tasks() - before
            left = [task for task in others if "hostile_server" not in repr(task)]
            if left and (await asyncio.wait(left, timeout=5))[1]:
                report.add("tasks are left", f"{seed}: {left}")
    return report


async def _use_python(url: str, seed: str, running: Until, report: Report) -> None:
    for number in running:
        try:
            async with asyncio.timeout(20):
                await _session(url, number, report)
        except DOCUMENTED:
            report.answers += 1
        except Exception as error:
            report.add(f"undocumented: {type(error).__name__}", f"{seed}, about {number}: {error!r}")


async def _session(url: str, number: int, report: Report) -> None:
    options: dict[str, Any] = {
        "reconnect": number % 3 == 0,
        "backoff": (0.001, 0.01),
        "open_timeout": 0.3,
        "close_timeout": 0.1,
        "call_timeout": 0.1,
        "prefixes": {"err": "http://example.com/error#"},
    }
    async with connect(url, **options) as client:
        uses = [client.call("echo", number), client.call("add", 1, 2), _events(client), client.publish("relay", number)]
        for result in await asyncio.gather(*uses, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, DOCUMENTED):
                raise result
            report.answers += 1


async def _events(client: Client) -> None:
    async with client.subscribe("room/a") as events:
        for _ in range(5):
            await events.get(timeout=0.05)


SCRIPT = """
const documented = ["CallError", "ConnectionLost", "TimeoutError", "AuthenticationFailed", "HandshakeRefused"];
const problem = (what, error) => say({ problem: [`${what}: ${error}`, `${error?.stack}`] });
process.on("uncaughtException", (error) => problem("uncaught", error));
process.on("unhandledRejection", (error) => problem("unhandled", error));
let answers = 0, over = false;

async function ends(what, promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("it does not end")), 10000); });
  try {
    await Promise.race([promise, late]);
    answers += 1;
  } catch (error) {
    if (documented.includes(error?.name)) answers += 1;
    else problem(what, error);
  } finally {
    clearTimeout(timer);
  }
}

async function session(number) {
  const client = connect(url, { prefixes: { err: "http://example.com/error#" }, backoff: [1, 10] });
  const events = client.subscribe("room/a");
  // Without this a client would try for ever to reach a server that has stopped.
  const giveUp = setTimeout(() => client.close(), 2000);
  const reading = (async () => { for await (const event of events) if (event === number) break; })();
  await Promise.all([
    ends("opened", client.opened),
    ends("call", client.call({ uri: "echo", timeout: 100 }, number)),
    ends("call", client.call({ uri: "add", timeout: 100 }, 1, 2)),
    ends("publish", (async () => client.publish("relay", number))()),
  ]);
  clearTimeout(giveUp);
  client.close();
  await ends("reading", reading);
}

async function worker(first) {
  for (let number = first; !over; number += 16) await session(number);
}

const all = Promise.all(Array.from({ length: 16 }, (_, index) => worker(index)));
await told();
over = true;
await all;
say({ answers });
"""


async def fuzz_javascript(seed: str, seconds: float, only: int | None = None) -> Report:
    """Let the browser's client use a hostile server, in Node.

    Args:
        seed: What decides what the server says.
        seconds: How long.
        only: The number of the one connection to make again, or None.
    """
    report = Report()
    async with hostile_server(seed, Until(seconds, only), report) as url, node(SCRIPT, url) as script:
        asyncio.get_running_loop().call_later(seconds, script.tell)
        while True:
            news = await script.said(within=seconds + 30)
            if "answers" in news:
                report.answers = news["answers"]
                return report
            report.add(*news["problem"])
