"""A handshake tried on an app that is not running, for `wampkit check`.

The request goes as bytes through aiohttp's own parser, over a transport in this process whose peer address can be
chosen; then the app's own gates judge it. Neither the app nor its broker is started, only the middlewares' `lifespan`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ..app import App, lifecycle_of
from ..connection.connection import Connection
from ..dispatch.middleware import middleware_name
from ..errors import WampError, one_line, quote
from ..networks import UNIX
from ..runner.errors import CommandError, describe_error
from ..server.handshake import HandshakeHandler
from ..telemetry.http_logs import quiet_http_errors

__all__ = ["SWITCHING_PROTOCOLS", "DryRun", "HandshakeAttempt", "dry_run", "is_gate"]

SWITCHING_PROTOCOLS = 101
"""The HTTP status that lets a client in."""

PEER_PORT = 54321


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeAttempt:
    """A handshake to be tried.

    Attributes:
        target: Path and query.
        headers: All headers, in their order.
        address: The address of the socket's peer, or "unix".
        secure: Whether the socket speaks TLS.
    """

    target: str
    headers: tuple[tuple[str, str], ...]
    address: str
    secure: bool

    def as_bytes(self) -> bytes:
        """The HTTP request."""
        lines = [f"GET {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Step:
    """One gate's judgement.

    Attributes:
        gate: The gate's name.
        outcome: "passes", "refuses" or "fails".
        note: The reason, possibly empty.
    """

    gate: str
    outcome: str
    note: str


@dataclass(slots=True)
class DryRun:
    """The outcome of a handshake that was tried.

    Attributes:
        address: The client's address as the gates see it; None for a unix socket.
        secure: Whether the gates take it for TLS.
        steps: The judgement of each gate that was asked.
        status: The HTTP status of the answer; 101 lets in.
        text: The response body for a client that is refused.
        why: The further reason for the log, where no gate refused it.
        user: The user, quoted, if the client is let in and a gate named one.
    """

    address: str | None = None
    secure: bool = False
    steps: list[Step] = field(default_factory=list)
    status: int = SWITCHING_PROTOCOLS
    text: str = ""
    why: str = ""
    user: str | None = None


def is_gate(middleware: Any) -> bool:
    """Whether a middleware acts on handshakes."""
    return getattr(middleware, "connect", None) is not None


async def dry_run(app: App, attempt: HandshakeAttempt) -> DryRun:
    """Send a handshake to an app that is not running.

    Raises:
        DeclarationError: A declaration of the app cannot work.
        CommandError: A middleware of the app cannot start.
        RuntimeError: The app is running.
    """
    result = DryRun()
    lifecycle = lifecycle_of(app)
    gates = tuple(_RecordingGate(each, result) for each in lifecycle.settings.with_default_gates if is_gate(each))
    async with lifecycle.dry_run(gates) as handler, contextlib.AsyncExitStack() as stack:
        # Here, as a lifespan may use the app as if it ran.
        await _enter_lifespans(app, stack)
        await _send(attempt, handler, result)
    return result


async def _enter_lifespans(app: App, stack: contextlib.AsyncExitStack) -> None:
    for each in app.middlewares:
        if hasattr(each, "lifespan"):
            try:
                await stack.enter_async_context(each.lifespan(app))
            except Exception as error:
                raise CommandError(f"{middleware_name(each)} failed to start: {describe_error(error)}") from error


class _RecordingGate:
    """Asks a gate and records its judgement."""

    def __init__(self, gate: Any, result: DryRun) -> None:
        self._gate = gate
        self._result = result

    async def connect(self, connection: Connection) -> None:
        self._result.address, self._result.secure = connection.remote, connection.secure
        try:
            note = await self._gate.connect(connection)
        except web.HTTPException as refusal:
            self._record("refuses", getattr(refusal, "why", "") or refusal.text or "")
            raise
        except WampError as refusal:
            self._record("refuses", refusal.description)
            raise
        except Exception as error:
            self._record("fails", describe_error(error))
            raise
        self._record("passes", note if isinstance(note, str) else "")

    def _record(self, outcome: str, note: str) -> None:
        self._result.steps.append(Step(middleware_name(self._gate), outcome, one_line(note)))


async def _send(attempt: HandshakeAttempt, handler: HandshakeHandler, result: DryRun) -> None:
    """Pass the request to an aiohttp server that asks `handler`, and wait for its answer."""
    answered = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            user = (await handler.admit(request)).user
            result.user = quote(user) if user is not None else None
        except web.HTTPException as refusal:
            result.status, result.text = refusal.status, one_line(refusal.text or "")
            if not result.steps or result.steps[-1].outcome == "passes":
                result.why = one_line(getattr(refusal, "why", ""))
        answered.set()
        return web.Response()

    site = web.Application()
    site.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(site, access_log=None, handle_signals=False, shutdown_timeout=0)
    quiet_http_errors()
    await runner.setup()
    assert runner.server is not None
    transport, protocol = _FakeTransport(attempt, answered), runner.server()
    protocol.connection_made(transport)
    protocol.data_received(attempt.as_bytes())
    await answered.wait()
    if result.status == SWITCHING_PROTOCOLS and not result.steps:
        _read_refusal(transport.written, result)
    protocol.connection_lost(None)
    await runner.cleanup()


def _read_refusal(written: bytes, result: DryRun) -> None:
    """Read aiohttp's own answer: the request was no valid HTTP."""
    head, _, body = written.decode("latin-1").partition("\r\n\r\n")
    result.status, result.text = int(head.split()[1]), one_line(body)


class _FakeTransport(asyncio.Transport):
    """A transport with a chosen peer address that records what is written."""

    def __init__(self, attempt: HandshakeAttempt, answered: asyncio.Event) -> None:
        peername: Any = "" if attempt.address == UNIX else (attempt.address, PEER_PORT)
        super().__init__({"peername": peername, "sslcontext": True if attempt.secure else None})
        self.written = b""
        self._answered = answered
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self._answered.set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return 0
