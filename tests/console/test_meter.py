"""The console's live figures: rates, failures, connections, and what they cost the app."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest

from wampkit import App, Connection, WampError

from ..support.tables import rows
from ..support.wire import ERROR, EVENT, PUBLISH, RESULT, SUBSCRIBE, Peer, eventually, serve

NO_SUCH = "http://api.wamp.ws/error#NoSuchRPCEndpoint"


class Claims:
    """Takes the user from the query, as a session or a ticket would give it."""

    async def connect(self, connection: Connection) -> None:
        connection.user = connection.request.query.get("user")
        connection.roles = frozenset(connection.request.query.getall("role", []))


async def _figures(peer: Peer) -> dict[str, Any]:
    """The next figures."""
    event = await peer.next()
    assert event[:2] == [EVENT, "wampkit:live"]
    figures: dict[str, Any] = event[2]
    return figures


async def test_figures_come_each_second() -> None:
    """Whoever is subscribed is told what happened: calls, errors, events, connections, and how long calls took."""
    app = App(console=True)

    @app.rpc("t/echo")
    async def echo(value: Any) -> Any:
        return value

    @app.rpc("t/no")
    async def no() -> None:
        raise WampError("t/no", "no")

    app.topic("t/relay", relay=True)
    async with serve(app) as server:
        watcher, peer = await server.peer(), await server.peer()
        await peer.send(SUBSCRIBE, "t/relay")
        assert await peer.result("wampkit:subscription", "t/relay")
        await watcher.send(SUBSCRIBE, "wampkit:live")
        await _figures(watcher)
        for number in range(20):
            assert await peer.result("t/echo", number) == number
        for _ in range(5):
            await peer.call("t/no")
        for number in range(3):
            await peer.send(PUBLISH, "t/relay", number, False)
        for number in range(3):
            assert (await peer.next())[2] == number
        await server.app.publish("t/relay", "news")
        total: dict[str, float] = dict.fromkeys(["calls", "failures", "publishes", "events", "sent"], 0)
        while total["events"] < 4:
            figures = await _figures(watcher)
            for name in total:
                total[name] += figures[name]
            if figures["calls"]:
                assert 0 < figures["p50"] <= figures["p99"] < 10_000
            else:
                assert figures["p50"] is figures["p99"] is None
        assert total == {"calls": 25, "failures": 5, "publishes": 3, "events": 4, "sent": 4}
        quiet = await _figures(watcher)
        assert {name: quiet[name] for name in total} == dict.fromkeys(total, 0)
        assert (figures["connections"], figures["topics"], figures["failed"]) == (2, 1, 5)
        assert figures["counters"]["connections"] == 2
        history = (await watcher.result("wampkit:console"))["figures"]
        assert sum(each["calls"] for each in history) == 25


async def test_nobody_publishes_figures() -> None:
    """A client cannot publish to the console's topic."""
    async with serve(App(console=True)) as server:
        watcher, peer = await server.peer(), await server.peer()
        await watcher.send(SUBSCRIBE, "wampkit:live")
        assert await watcher.result("wampkit:subscription", "wampkit:live")
        await peer.send(PUBLISH, "wampkit:live", {"calls": "<b>many</b>"})
        await peer.nothing()
        assert (await _figures(watcher))["calls"] == 0


@pytest.mark.parametrize("debug", [False, True])
async def test_failures(debug: bool) -> None:
    """The last failures are told with who met them; texts and tracebacks of unexpected ones in debug alone."""
    app = App(console=True, debug=debug, middlewares=[Claims()])

    @app.rpc("t/crash")
    async def crash() -> None:
        raise RuntimeError("secret")

    @app.rpc("t/slow", timeout=0.01)
    async def slow() -> None:
        await asyncio.Event().wait()

    async with serve(app) as server:
        peer = await Peer.open(f"{server.url}?user=ann")
        await peer.call("t/crash")
        await peer.call("t/slow")
        await peer.call("t:" + "x" * 900)
        await peer.send(PUBLISH, "t/nowhere", 1)
        await peer.nothing()
        publish, unknown, timeout, crashed = await peer.result("wampkit:failures")
        assert (publish["message"], publish["error"]) == ("publish", NO_SUCH)
        assert (unknown["message"], unknown["error"], len(unknown["uri"])) == ("call", NO_SUCH, 500)
        assert (timeout["route"], timeout["error"]) == ("t/slow", "cancelled")
        assert (crashed["route"], crashed["error"], crashed["user"]) == ("t/crash", "RuntimeError", "ann")
        assert crashed["description"] == ("secret" if debug else "")
        assert crashed["traceback"] is debug
        assert len(await peer.result("wampkit:failures", crashed["number"])) == 3
        whole = await peer.result("wampkit:failure", crashed["number"])
        if debug:
            assert whole["traceback"].endswith("RuntimeError: secret\n")
            assert "in crash" in whole["traceback"]
        else:
            assert whole["traceback"] is None
        assert (await peer.call("wampkit:failure", 99))[0] == ERROR
        await peer.close()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("debug", [False, True])
@rows(
    "error",
    [
        Unprintable(),
        WampError("t/odd", 5, object()),  # type: ignore[arg-type]
        WampError("t/e", "\ud800"),
        BaseExceptionGroup("x", [SystemExit(), ValueError()]),
        SystemExit(3),
        asyncio.CancelledError("x"),
    ],
)
async def test_whatever_a_handler_raises(error: BaseException, debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Errors that hardly can be told are answered and logged as without the console, and are in its list."""
    answers, logs = [], []
    for console in (False, True):
        app = App(console=console, debug=debug)

        @app.rpc("t/fail")
        async def fail() -> None:
            raise error

        caplog.clear()
        async with serve(app) as server:
            peer = await server.peer()
            answers.append((await peer.call("t/fail"))[2:])
            logs.append([record.exc_info and record.exc_info[0] for record in caplog.records])
            if console:
                [failure] = await peer.result("wampkit:failures")
                assert failure["route"] == "t/fail"
                assert (await peer.result("wampkit:failure", 1))["number"] == 1
    assert answers[0] == answers[1]
    assert logs[0] == logs[1]


async def test_a_user_that_cannot_be_told() -> None:
    """A user that has no text does not keep the others from being listed."""

    class User:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Everybody:
        async def connect(self, connection: Connection) -> None:
            connection.user = User()

    async with serve(App(console=True, middlewares=[Everybody()])) as server:
        peer = await server.peer()
        [row] = (await peer.result("wampkit:connections"))["rows"]
        assert row["user"].endswith("User)")


async def test_only_the_last_failures_are_remembered() -> None:
    """However many fail, the list stays short."""
    async with serve(App(console=True)) as server:
        peer = await server.peer()
        for _ in range(150):
            await peer.call("t:none")
        failures = await peer.result("wampkit:failures")
        assert [each["number"] for each in failures] == list(range(150, 50, -1))


async def test_connections_are_searched_ordered_and_turned_over() -> None:
    """A long list of connections is told by windows: searched, ordered, with who they are and what waits for them."""
    app = App(console=True, middlewares=[Claims()])
    app.topic("t/{name}", relay=True)
    async with serve(app) as server, AsyncExitStack() as stack:
        # A blank is in no session id, so that the search below finds users alone.
        peers = [await Peer.open(f"{server.url}?user=U+{number}&role=r") for number in range(7)]
        for peer in peers:
            stack.push_async_callback(peer.close)
        for number, peer in enumerate(peers):
            for topic in range(number):
                await peer.send(SUBSCRIBE, f"t/{topic}")
            await peer.nothing()
        ask = peers[0].result
        found = await ask("wampkit:connections", "", "subscriptions", 0, 3)
        assert (found["total"], found["found"]) == (7, 7)
        assert [row["subscriptions"] for row in found["rows"]] == [6, 5, 4]
        rest = await ask("wampkit:connections", "", "subscriptions", 6, 3)
        assert [row["subscriptions"] for row in rest["rows"]] == [0]
        found = await ask("wampkit:connections", "u 4")
        assert (found["total"], found["found"]) == (7, 1)
        [row] = found["rows"]
        assert (row["user"], row["roles"], row["address"], row["queued"]) == ("U 4", ["r"], "127.0.0.1", 0)
        one = await ask("wampkit:connection", row["id"])
        assert one["topics"] == ["t/0", "t/1", "t/2", "t/3"]
        assert (await peers[0].call("wampkit:connection", "nobody"))[0] == ERROR
        topics = await ask("wampkit:topics", "", 0, 2)
        assert topics == {
            "total": 6,
            "found": 6,
            "rows": [{"uri": "t/0", "subscribers": 6}, {"uri": "t/1", "subscribers": 5}],
        }
        assert (await ask("wampkit:topics", "t/5"))["rows"] == [{"uri": "t/5", "subscribers": 1}]
        assert (await ask("wampkit:connections", "", "", -5, -1))["rows"] == []
        assert (await peers[0].call("wampkit:connections", "", "", "x"))[0] == ERROR


async def test_what_waits_for_a_client_is_told() -> None:
    """The bytes that a client does not read are in the list."""
    app = App(console=True)
    app.topic("t/relay", relay=True)
    async with serve(app) as server:
        sleeper, peer = await server.raw(), await server.peer()
        await sleeper.send_message(SUBSCRIBE, "t/relay")

        async def queued() -> int:
            rows = (await peer.result("wampkit:connections", "", "queued"))["rows"]
            most: int = rows[0]["queued"]
            return most

        await eventually(lambda: "t/relay" in server.app.topics)
        while await queued() < 100_000:
            await server.app.publish("t/relay", "x" * 50_000)
        assert 100_000 <= await queued() <= 1 << 20


async def test_its_calls_are_not_counted_and_pass_no_middleware() -> None:
    """What the console asks is neither in its figures nor seen by the app's middlewares."""
    seen: list[str] = []

    async def watch(message: Any, call_next: Any) -> Any:
        seen.append(message.uri)
        return await call_next(message)

    async with serve(App(console=True, middlewares=[watch])) as server:
        peer = await server.peer()
        await peer.send(SUBSCRIBE, "wampkit:live")
        assert (await _figures(peer))["calls"] == 0
        await peer.result("wampkit:topics")
        assert (await _figures(peer))["calls"] == 0
        assert seen == []


async def test_an_app_that_starts_again_counts_anew() -> None:
    """Figures and failures are those of one run."""
    app = App(console=True)
    for _ in range(2):
        async with serve(app) as server:
            peer = await server.peer()
            assert await peer.result("wampkit:failures") == []
            await peer.send(SUBSCRIBE, "wampkit:live")
            first = await _figures(peer)
            assert (first["calls"], first["failures"], first["failed"]) == (0, 0, 0)
            assert (await peer.call("t:none"))[0] == ERROR
            assert len(await peer.result("wampkit:failures")) == 1


async def test_results_are_the_same_with_the_console(caplog: pytest.LogCaptureFixture) -> None:
    """An app answers, and logs, with its console as it does without."""
    told = []
    for console in (False, True):
        app = App(console=console)

        @app.rpc("t/add")
        async def add(x: float, y: float = 1) -> float:
            return x + y

        @app.rpc("t/crash")
        def crash() -> None:
            raise RuntimeError("x")

        caplog.clear()
        with caplog.at_level(logging.INFO, "wampkit"):
            async with serve(app) as server:
                peer = await server.peer()
                answers = [await peer.call("t/add", 1, 2), await peer.call("t/add"), await peer.call("t/crash")]
        told.append(([each[2:] for each in answers], [record.levelname for record in caplog.records]))
        assert answers[0][0] == RESULT
    assert told[0] == told[1]
