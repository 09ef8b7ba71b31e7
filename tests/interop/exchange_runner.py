"""Plays one scripted exchange against a server: who sends what, and what must come back.

The script's language: a step names a client and one action (`send`, `expect`, `sync`, `open`, `close`, …); in what
is sent, `$SESSION:A` is a client's session id and `$VAR:x` a captured value; in what is expected, `$ANY`, `$STR` and
so on are patterns, and objects such as `{"$re": ...}` operators, which must all hold.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import struct
from typing import Any

import aiohttp
from aiohttp import WSMsgType

TIMEOUT = 5.0
OPCODES = {"text": 1, "binary": 2}


class Mismatch(AssertionError):
    """The server did something else than the script says."""


class Player:
    """Plays the steps of one exchange, on fresh connections.

    Args:
        http: The aiohttp session to connect with.
        url: The server's socket.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self._sockets: dict[str, aiohttp.ClientWebSocketResponse] = {}
        self._sessions: dict[str, str] = {}
        self._captured: dict[str, Any] = {}
        self._syncs = 0

    async def play(self, exchange: dict[str, Any]) -> None:
        """Play an exchange to its end. Raises Mismatch that names the step."""
        try:
            if exchange.get("autoconnect", True):
                for name in exchange.get("clients", ["A"]):
                    await self._open(name, {})
            for number, step in enumerate(exchange["steps"], 1):
                try:
                    await self._step(step)
                except (Mismatch, TimeoutError, ConnectionError, aiohttp.ClientError) as error:
                    raise Mismatch(f"step {number} {_short(step)}: {error or type(error).__name__}") from error
        finally:
            for socket in self._sockets.values():
                self._wire(socket).abort()
                await socket.close()

    # ---- steps

    async def _step(self, step: dict[str, Any]) -> None:
        if "client" not in step:
            await asyncio.sleep(step["wait_ms"] / 1000)
            return
        name = step["client"]
        action = next(key for key in step if hasattr(self, f"_do_{key}"))
        async with asyncio.timeout(step.get("timeout_ms", TIMEOUT * 1000) / 1000):
            await getattr(self, f"_do_{action}")(name, step)

    async def _do_open(self, name: str, step: dict[str, Any]) -> None:
        if "expect_http" in step:
            try:
                await self._connect(name, step["open"])
            except aiohttp.WSServerHandshakeError as refusal:
                _check(refusal.status in step["expect_http"], f"HTTP {refusal.status}")
                return
            raise Mismatch("the handshake was accepted")
        await self._open(name, step["open"], welcome=step.get("welcome", True))
        if "expect_protocol" in step:
            chosen = self._sockets[name].protocol
            _check(chosen == step["expect_protocol"], f"subprotocol {chosen!r}")

    async def _do_send(self, name: str, step: dict[str, Any]) -> None:
        await self._sockets[name].send_str(json.dumps(self._filled(step["send"])))

    async def _do_send_raw(self, name: str, step: dict[str, Any]) -> None:
        await self._sockets[name].send_str(step["send_raw"])

    async def _do_send_parts(self, name: str, step: dict[str, Any]) -> None:
        text = "".join(part * times for part, times in step["send_parts"])
        # A server may refuse a long message before it has all of it.
        with contextlib.suppress(ConnectionError):
            await self._sockets[name].send_str(text)

    async def _do_send_frame(self, name: str, step: dict[str, Any]) -> None:
        frame = step["send_frame"]
        self._wire(self._sockets[name]).write(_frame(OPCODES[frame["opcode"]], bytes.fromhex(frame["hex"])))

    async def _do_send_fragments(self, name: str, step: dict[str, Any]) -> None:
        pieces = step["send_fragments"]
        for index, piece in enumerate(pieces):
            frame = _frame(0 if index else 1, piece.encode(), final=index == len(pieces) - 1)
            self._wire(self._sockets[name]).write(frame)

    async def _do_ping(self, name: str, step: dict[str, Any]) -> None:
        payload = bytes.fromhex(step["ping"])
        await self._sockets[name].ping(payload)
        answer = await self._sockets[name].receive()
        _check((answer.type, answer.data) == (WSMsgType.PONG, payload), f"no such pong: {answer}")

    async def _do_expect(self, name: str, step: dict[str, Any]) -> None:
        message = await self._message(name)
        if step.get("welcome"):
            self._sessions[name] = message[1]
        self._match(step["expect"], message)

    async def _do_expect_unordered(self, name: str, step: dict[str, Any]) -> None:
        patterns = list(step["expect_unordered"])
        while patterns:
            message = await self._message(name)
            fitting = next((pattern for pattern in patterns if self._fits(pattern, message)), None)
            _check(fitting is not None, f"unexpected {_short(message)}")
            patterns.remove(fitting)

    async def _do_sync(self, name: str, step: dict[str, Any]) -> None:
        """Prove that nothing else was sent: the very next message is the answer to a call."""
        self._syncs += 1
        call_id = f"sync-{self._syncs}"
        await self._sockets[name].send_str(json.dumps([2, call_id, "ping"]))
        message = await self._message(name)
        _check(message == [3, call_id, "pong"], f"something else came first: {_short(message)}")

    async def _do_expect_close(self, name: str, step: dict[str, Any]) -> None:
        socket = self._sockets[name]
        received = await socket.receive()
        closing = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
        _check(received.type in closing, f"expected the close, got {_short(received.data)}")
        code = received.data if received.type is WSMsgType.CLOSE else (socket.close_code or 1006)
        _check(step["expect_close"] == "any" or code in step["expect_close"], f"close code {code}")

    async def _do_close(self, name: str, step: dict[str, Any]) -> None:
        await self._sockets[name].close(code=step["close"])

    async def _do_drop(self, name: str, step: dict[str, Any]) -> None:
        self._wire(self._sockets[name]).abort()

    # ---- connections

    async def _open(self, name: str, spec: dict[str, Any], *, welcome: bool = True) -> None:
        await self._connect(name, spec)
        if welcome:
            message = await asyncio.wait_for(self._message(name), TIMEOUT)
            self._match([0, "$NONEMPTY", 1, "$STR"], message)
            self._sessions[name] = message[1]

    async def _connect(self, name: str, spec: dict[str, Any]) -> None:
        protocols = spec.get("protocols", ["wamp"])
        self._sockets[name] = await self._http.ws_connect(
            self._url, protocols=protocols, autoping=False, autoclose=False, max_msg_size=0
        )

    @staticmethod
    def _wire(socket: aiohttp.ClientWebSocketResponse) -> Any:
        """The transport, for what aiohttp would not send: cut wires and frames made by hand."""
        connection = socket._response.connection
        return connection.transport if connection is not None and connection.transport is not None else _Gone()

    async def _message(self, name: str) -> Any:
        socket = self._sockets[name]
        received = await socket.receive()
        while received.type is WSMsgType.PING:
            await socket.pong(received.data)
            received = await socket.receive()
        _check(received.type is WSMsgType.TEXT, f"expected a message, got {received.type!r} {_short(received.data)}")
        return json.loads(received.data, parse_constant=_no_constant)

    # ---- values and patterns

    def _filled(self, value: Any) -> Any:
        match value:
            case str() if value.startswith("$$"):
                return value[1:]
            case str() if value.startswith("$SESSION:"):
                return self._sessions[value.removeprefix("$SESSION:")]
            case str() if value.startswith("$VAR:"):
                return self._captured[value.removeprefix("$VAR:")]
            case list():
                return [self._filled(item) for item in value]
            case {"$sign": dict(order)}:
                return _signature({key: self._filled(item) for key, item in order.items()})
            case dict():
                return {key: self._filled(item) for key, item in value.items()}
        return value

    def _fits(self, pattern: Any, value: Any) -> bool:
        try:
            self._match(pattern, value)
        except Mismatch:
            return False
        return True

    def _match(self, pattern: Any, value: Any) -> None:
        _check(self._holds(pattern, value), f"expected {_short(pattern)}, got {_short(value)}")

    def _holds(self, pattern: Any, value: Any) -> bool:
        if isinstance(pattern, str) and pattern in _KINDS:
            return _KINDS[pattern](value)
        pattern = self._filled(pattern) if isinstance(pattern, str) else pattern
        if isinstance(pattern, dict) and any(key.startswith("$") for key in pattern):
            return all(self._operator(key, argument, value) for key, argument in pattern.items())
        if isinstance(pattern, list):
            return isinstance(value, list) and self._lists_match(pattern, value)
        if isinstance(pattern, dict):
            return (
                isinstance(value, dict)
                and pattern.keys() == value.keys()
                and all(self._holds(pattern[key], value[key]) for key in pattern)
            )
        # 3 equals 3.0, but 1 is not true.
        return isinstance(pattern, bool) == isinstance(value, bool) and bool(pattern == value)

    def _lists_match(self, patterns: list[Any], values: list[Any]) -> bool:
        required = [each for each in patterns if not (isinstance(each, dict) and "$opt" in each)]
        if not len(required) <= len(values) <= len(patterns):
            return False
        plain = [each["$opt"] if isinstance(each, dict) and "$opt" in each else each for each in patterns]
        return all(self._holds(pattern, value) for pattern, value in zip(plain, values, strict=False))

    def _operator(self, name: str, argument: Any, value: Any) -> bool:
        match name:
            case "$re":
                return isinstance(value, str) and re.search(argument, value) is not None
            case "$not":
                return not self._holds(argument, value)
            case "$oneof":
                return any(self._holds(each, value) for each in argument)
            case "$superset":
                return isinstance(value, dict) and all(
                    key in value and self._holds(argument[key], value[key]) for key in argument
                )
            case "$nokey":
                return isinstance(value, dict) and argument not in value
            case "$json":
                return isinstance(value, str) and self._holds(argument, json.loads(value))
            case "$match":
                return self._holds(argument, value)
            case "$capture":
                self._captured[argument] = value
                return True
        raise ValueError(f"unknown operator {name}")


def _signature(order: dict[str, Any]) -> str:
    """What a client answers to a challenge of WAMP-CRA, salted if the challenge says so and the order allows."""
    challenge, key = order["challenge"], order["secret"].encode()
    extra = json.loads(challenge).get("authextra") if order.get("authextra") == "from-challenge" else None
    if extra and extra.get("salt"):
        numbers = int(extra["iterations"]), int(extra["keylen"])
        key = base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, extra["salt"].encode(), *numbers))
    return base64.b64encode(hmac.digest(key, challenge.encode(), "sha256")).decode()


class _Gone:
    """A transport that is closed already."""

    def write(self, data: bytes) -> None:
        raise ConnectionResetError("the connection is gone")

    def abort(self) -> None:
        pass


_KINDS = {
    "$ANY": lambda value: True,
    "$STR": lambda value: isinstance(value, str),
    "$NONEMPTY": lambda value: isinstance(value, str) and value != "",
    "$INT": lambda value: type(value) is int,
    "$NUM": lambda value: type(value) in (int, float),
    "$BOOL": lambda value: isinstance(value, bool),
    "$LIST": lambda value: isinstance(value, list),
    "$OBJ": lambda value: isinstance(value, dict),
}


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise Mismatch(problem)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)})"


def _no_constant(name: str) -> Any:
    raise Mismatch(f"the server sent {name}, which is no JSON")


def _frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A masked client frame with exactly these bytes, right or wrong."""
    mask = b"\x0a\x0b\x0c\x0d"
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    else:
        head += b"\xfe" + struct.pack(">H", len(payload))
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
