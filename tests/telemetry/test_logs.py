"""The log: no line can be forged, and nobody can fill it."""

import ast
import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import wampkit
from wampkit import App, Connection, NotAllowed, WampError
from wampkit.dispatch.middleware import Refused
from wampkit.networks import client_network
from wampkit.telemetry.logs import LogThrottle, logger_of

from ..support.wire import PUBLISH, SUBSCRIBE, Peer, eventually, handshake, serve

PACKAGE = Path(wampkit.__file__).parent

NASTY = "\r\n2026-01-01 00:00:00,000 CRITICAL root: FORGED\x1b[31m\x07\x9b\x7f\u2028\u2029\u202e\u2066\ud800\x00"
"""Ends a line and begins one that looks like another, then commands a terminal and turns the direction of writing."""


logger = logger_of("wampkit.connection.outbox")

# ---- one line is one line


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a user's own handler writes, in the format of `wampkit run`."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    target = logging.getLogger("wampkit")
    level = target.level
    target.addHandler(handler)
    target.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        target.removeHandler(handler)
        target.setLevel(level)


def _lines(written: io.StringIO) -> list[str]:
    """The lines of a log, each of which must be one of wampkit's or belong to a traceback."""
    text = written.getvalue()
    assert text.endswith("\n"), text
    lines = text[:-1].split("\n")
    strange = [line for line in lines if not re.match(r"[-0-9]{10} [0-9:,]{12} [A-Z]+ wampkit\.[a-z]+: |  ", line)]
    assert strange == []
    assert [line for line in lines if not line.isprintable()] == []
    return lines


async def test_no_text_of_a_client_or_an_app_forges_a_line(written: io.StringIO) -> None:
    """Each way by which a text comes into the server's log keeps it on its line, tracebacks too."""
    app = App(prefixes={"t": "http://example.com/"}, malformed="ignore")
    refuse: list[Exception] = []

    class Gate:
        async def connect(self, connection: Connection) -> None:
            if refuse:
                raise refuse.pop()

    app.middlewares = (Gate(),)

    @app.rpc("t:fail")
    async def fail() -> None:
        raise ValueError(f"no such room: {NASTY}")

    @app.rpc("t:group")
    def group() -> None:
        raise ExceptionGroup(NASTY, [ValueError(NASTY), KeyError(NASTY)])

    @app.topic("t:refusing")
    def refusing(event: int) -> int:
        raise NotAllowed(f"there is no room {NASTY}")

    @app.on_connect
    async def greet(connection: Connection) -> None:
        if "greet" in connection.request.query:
            raise RuntimeError(NASTY)

    @app.on_disconnect
    async def leave(connection: Connection) -> None:
        raise LookupError(NASTY)

    async with serve(app) as server:
        for refusal in (
            NotAllowed(f"there is no room {NASTY}"),
            WampError("http://example.com/e", NASTY),
            web.HTTPForbidden(text=NASTY.replace("\ud800", "")),
            Refused(NASTY.replace("\ud800", ""), why=NASTY),
            RuntimeError(NASTY),
        ):
            refuse.append(refusal)
            status = (await server.ask(handshake(server.path))).split()[1]
            assert status in (b"403", b"500")
        peer = await server.peer()
        assert (await peer.call("t:fail"))[0] == 4
        assert (await peer.call("t:group"))[0] == 4
        for message in ([PUBLISH, "t:refusing", 1], [SUBSCRIBE, f"t:{NASTY[:-2]}"], [99, NASTY[:-2]]):
            await peer.send(*message)
        await peer.send_text(f'{{"{NASTY[:-2]}')
        await peer.settle()
        await peer.socket.close(code=4000, message=NASTY.encode("utf-8", "replace")[:100])
        late = await Peer.open(f"{server.url}?greet=1")
        await eventually(lambda: late.close_code == 1011)
        await late.close()
        await eventually(lambda: written.getvalue().count("LookupError: ") >= 2, "both farewells are logged")
    lines = _lines(written)
    for seen in ("HTTP 403: there is no room", "no such room", "KeyError", "refused: there is no room", "RuntimeError"):
        assert any(seen in line for line in lines), seen
    assert sum("FORGED" in line for line in lines) > 10


async def test_no_text_forges_a_line_of_the_client(written: io.StringIO) -> None:
    """What the app's own functions raise, which may repeat what a server said, is one line in the client's log too."""
    attempts = 0

    def on_state(state: Any) -> None:
        raise RuntimeError(NASTY)

    async with serve(App()) as server:

        def url() -> str:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                raise RuntimeError(NASTY)
            return server.url

        async with wampkit.connect(url, on_state=on_state) as client:
            for connection in server.app.connections:
                connection.close(4000, NASTY)
            await eventually(lambda: attempts == 3)
            await client.wait_for(wampkit.State.OPEN)
    lines = _lines(written)
    assert any("a reconnect attempt failed: RuntimeError: " in line and "FORGED" in line for line in lines)
    assert any("RuntimeError: " in line and line.startswith("  ") for line in lines)


def test_any_handler_and_formatter_gets_safe_lines() -> None:
    """The record itself is safe: a handler needs no part in it, and one without anything strange is left as it was."""
    seen: list[logging.LogRecord] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Collecting()
    logger.addHandler(handler)
    try:
        logger.warning("%s from %s", NASTY, "x" * 10_000)
        logger.warning("%d of %s", 1, "a", extra={"mine": 1})
        try:
            raise ValueError("a\n" * 100_000 + NASTY)
        except ValueError:
            logger.exception("100% failed")
    finally:
        logger.removeHandler(handler)
    hostile, plain, failed = seen
    assert hostile.getMessage().isprintable()
    assert 4096 <= len(hostile.getMessage()) < 4400
    assert (plain.msg, plain.args) == ("%d of %s", (1, "a"))
    assert failed.getMessage() == "100% failed"
    assert failed.exc_info is not None
    assert failed.exc_text is not None
    assert len(failed.exc_text) < 300_000
    lines = failed.exc_text.split("\n")
    assert lines[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert "FORGED" in lines[-1]


def test_each_room_has_its_logger() -> None:
    """The logger of a module is that of its room, below `wampkit`, so that one room can be turned down."""
    assert logger.name == "wampkit.connection"
    assert logger_of("wampkit.router").name == "wampkit.router"
    assert logger.parent is logging.getLogger("wampkit")


def test_loggers_are_made_in_one_place() -> None:
    """No module makes a logger of its own or logs past it: what `logs` does for safety cannot be forgotten."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if path.stem == "logs":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = node.func.value, node.func.attr
            of_logging = isinstance(owner, ast.Name) and owner.id == "logging"
            # A filter or a handler of somebody else's logger may be touched.
            own = [each for each in node.args if ast.unparse(each) == "__name__" or "wampkit" in ast.unparse(each)]
            if of_logging and ((name == "getLogger" and own) or name in LOG_METHODS):
                wrong.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
            source = ast.unparse(owner)
            may_be_one = isinstance(owner, ast.Name) or "log" in source.lower()
            if name in LOG_METHODS and node.args and may_be_one and source not in ("logging", "logger"):
                wrong.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


LOG_METHODS = ("debug", "info", "warning", "error", "exception", "critical", "log")


# ---- how often


def _messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_ten_thousand_lines_of_a_kind_are_two(caplog: pytest.LogCaptureFixture) -> None:
    """The first is written at once; of what follows the last, with a count of the others."""
    throttle = LogThrottle(logger)
    for number in range(12_345):
        throttle.add("malformed", f"bad message {number}", owner="192.0.2.1")
    throttle.close()
    assert _messages(caplog) == ["bad message 0", "bad message 12344 (12343 more like this)"]


def test_lines_of_different_kinds_are_different_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind has its first line at once, and its own count at the end."""
    throttle = LogThrottle(logger)
    for number in range(20):
        throttle.add("a", "one")
        if number % 2:
            throttle.add("b", "two")
    throttle.close()
    assert _messages(caplog) == ["one", "two", "one (18 more like this)", "two (8 more like this)"]


async def test_what_was_counted_is_written_after_a_pause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more need come: the rest of a kind is written by itself, and pauses grow while it goes on."""
    monkeypatch.setattr("wampkit.telemetry.logs.PAUSE", 0.05)
    throttle = LogThrottle(logger)
    throttle.add("a", "one")
    throttle.add("a", "two")
    throttle.add("a", "three")
    await eventually(lambda: len(caplog.records) == 2)
    assert _messages(caplog) == ["one", "three (1 more like this)"]
    (kind,) = throttle._owners[None].values()
    assert kind._pause == pytest.approx(0.2)


def test_inventing_kinds_and_addresses_does_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds beyond some of one address, and addresses beyond many, are counted together; memory is bounded."""
    throttle = LogThrottle(logger)
    for number in range(10_000):
        throttle.add(number, f"mistake {number}", owner="192.0.2.1")
    assert len(caplog.records) < 40
    for number in range(10_000):
        throttle.add("a", f"mistake of {number}", owner=f"192.0.{number >> 8}.{number & 255}")
    assert len(throttle) < 600
    assert len(caplog.records) < 600
    throttle.close()
    told = sum(1 + int(found[1]) if (found := re.search(r"\((\d+) more", line)) else 1 for line in _messages(caplog))
    assert told == 20_000


def test_what_clients_do_wrong_hides_no_error_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """When there are too many kinds of warnings, the next error is still written at once, with its traceback."""
    throttle = LogThrottle(logger)
    for number in range(1000):
        throttle.add(number, f"mistake {number}")
    throttle.add("gate", "a middleware failed", level=logging.ERROR, error=ValueError("boom"))
    record = caplog.records[-1]
    assert (record.getMessage(), record.exc_info is not None) == ("a middleware failed", True)


def test_what_was_quiet_for_long_makes_room(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old kinds and old addresses are forgotten for new ones, which have their lines again."""
    clock = time.monotonic()
    monkeypatch.setattr("wampkit.telemetry.logs.time.monotonic", lambda: clock)
    throttle = LogThrottle(logger)
    for round in range(3):
        for number in range(40):
            throttle.add(number, f"{round} {number}", owner="192.0.2.1")
        for number in range(600):
            throttle.add("a", f"{round} of {number}", owner=f"10.0.{number >> 8}.{number & 255}")
        throttle.close()
        clock += 1000
    for round in range(3):
        assert f"{round} 0" in _messages(caplog)
        assert f"{round} of 0" in _messages(caplog)


def test_an_error_brings_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The line that is written at once has the traceback, the count that follows has none."""
    throttle = LogThrottle(logger)
    for _ in range(10):
        throttle.add("a", "failed", level=logging.ERROR, error=ValueError("boom"))
    throttle.close()
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_who_reconnects_writes_no_line_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred connections that make the same mistakes are as many lines as one, with a count."""
    app = App(prefixes={"t": "http://example.com/"})

    @app.rpc("t:fail/{name}")
    async def fail(name: str) -> None:
        raise ValueError("always")

    async with serve(app) as server:
        for number in range(50):
            peer = await server.peer()
            assert (await peer.call(f"t:fail/{number}"))[0] == 4
            await peer.send_text("no JSON")
            await eventually(lambda peer=peer: peer.close_code is not None)  # type: ignore[misc]  # mypy knows no default here
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 4, _messages(caplog)
    assert len([each for each in lines if each.exc_info]) == 1
    assert len([each for each in lines if each.getMessage().endswith("(48 more like this)")]) == 2


async def test_each_different_mistake_of_a_topic_message_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """WAMP v1 answers no PUBLISH, so the log tells each: another topic, and another reason, is another line."""
    app = App(debug=True)

    @app.topic("http://example.com/number")
    async def number(event: int) -> int:
        return event

    async with serve(app) as server:
        peer = await server.peer()
        for topic, event in (("nowhere", 1), ("number", "a"), ("number", [1]), ("elsewhere", 2), ("number", "a")):
            await peer.send(PUBLISH, f"http://example.com/{topic}", event)
        for number_ in range(100):
            await peer.send(PUBLISH, f"http://example.com/{number_}", 1)
        await peer.settle()
        lines = _messages(caplog)
    assert len(lines) == 104, lines
    for told in ("/nowhere' refused", 'expected int, got "a"', "expected int, got [1]", "/elsewhere' refused", "/99'"):
        assert any(told in line for line in lines), (told, lines[:6])
    assert len([line for line in _messages(caplog) if "more like this" in line]) == 0


def test_one_reading_of_addresses() -> None:
    """Limits, failed logins and the log count by the same: the IPv4 address, or the network of an IPv6 client."""
    same = [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1"), ("fe80::1%eth0", "fe80::2")]
    assert [client_network(one) == client_network(other) for one, other in same] == [True] * 3
    assert client_network("2001:db8::1") != client_network("2001:db8:0:1::1")
    assert client_network(None) is None
    assert sys.getsizeof(client_network("nonsense")) > 0
