"""A handshake that is tried without a server.

Its bytes are real. They go through aiohttp's own parser, over a wire that ends in this process and says that it comes
from wherever it shall come from; then the app's own door judges it. Neither the app nor its broker is started, only the
middlewares' own `lifespan` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .addresses import UNIX
from .app import App
from .connection import Connection
from .door import Door
from .errors import WampError, one_line, quote
from .httplog import quiet_http_errors
from .loading import Mistake, describe
from .middleware import middleware_name

__all__ = ["LET_IN", "Attempt", "Step", "Trial", "is_gate", "rehearse"]

LET_IN = 101
PORT = 54321


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
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
        """The request as it stands on the wire."""
        lines = [f"GET {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Step:
    """What one gate said.

    Attributes:
        gate: Its name.
        outcome: "passes", "refuses" or "fails".
        note: Why, where it says so.
    """

    gate: str
    outcome: str
    note: str


@dataclass(slots=True)
class Trial:
    """What a handshake met.

    Attributes:
        address: Where it was sent from, as far as the gates know; None for a unix socket.
        secure: Whether they take it for TLS.
        steps: What each gate said that was asked.
        status: The HTTP status of the answer; 101 lets in.
        text: What the client reads if it is refused.
        why: What the log would say besides, where no gate said it.
        user: Who the client is if it is let in, or None.
    """

    address: str | None = None
    secure: bool = False
    steps: list[Step] = field(default_factory=list)
    status: int = LET_IN
    text: str = ""
    why: str = ""
    user: str | None = None


def is_gate(middleware: Any) -> bool:
    """Whether a middleware acts on handshakes."""
    return getattr(middleware, "connect", None) is not None


async def rehearse(app: App, attempt: Attempt) -> Trial:
    """Send a handshake to the door of an app that is not running.

    Raises:
        DeclarationError: A declaration of the app cannot work.
        Mistake: A middleware of the app cannot start.
        RuntimeError: The app is running.
    """
    trial = Trial()
    watched = tuple(_Witness(each, trial) for each in app.settings().middlewares if is_gate(each))
    # Middlewares may ask a running app for its connections in their `lifespan`.
    async with app.rehearsal(watched) as door, contextlib.AsyncExitStack() as stack:
        await _enter(app, stack)
        await _send(attempt, door, trial)
    return trial


async def _enter(app: App, stack: contextlib.AsyncExitStack) -> None:
    for each in app.middlewares:
        if hasattr(each, "lifespan"):
            try:
                await stack.enter_async_context(each.lifespan(app))
            except Exception as error:
                raise Mistake(f"{middleware_name(each)} failed to start: {describe(error)}") from error


class _Witness:
    """Asks a gate, and writes down what it says."""

    def __init__(self, gate: Any, trial: Trial) -> None:
        self._gate = gate
        self._trial = trial

    async def connect(self, connection: Connection) -> None:
        self._trial.address, self._trial.secure = connection.remote, connection.secure
        try:
            note = await self._gate.connect(connection)
        except web.HTTPException as refusal:
            self._write("refuses", getattr(refusal, "why", "") or refusal.text or "")
            raise
        except WampError as refusal:
            self._write("refuses", refusal.description)
            raise
        except Exception as error:
            self._write("fails", describe(error))
            raise
        self._write("passes", note if isinstance(note, str) else "")

    def _write(self, outcome: str, note: str) -> None:
        self._trial.steps.append(Step(middleware_name(self._gate), outcome, one_line(note)))


async def _send(attempt: Attempt, door: Door, trial: Trial) -> None:
    """Put a handshake on a wire that ends at a door."""
    answered = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            user = (await door.admit(request)).user
            trial.user = quote(user) if user is not None else None
        except web.HTTPException as refusal:
            trial.status, trial.text = refusal.status, one_line(refusal.text or "")
            if not trial.steps or trial.steps[-1].outcome == "passes":
                trial.why = one_line(getattr(refusal, "why", ""))
        answered.set()
        return web.Response()

    site = web.Application()
    site.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(site, access_log=None, handle_signals=False, shutdown_timeout=0)
    quiet_http_errors()
    await runner.setup()
    assert runner.server is not None
    wire, protocol = _Wire(attempt, answered), runner.server()
    protocol.connection_made(wire)
    protocol.data_received(attempt.as_bytes())
    await answered.wait()
    if trial.status == LET_IN and not trial.steps:
        _read_refusal(wire.written, trial)
    protocol.connection_lost(None)
    await runner.cleanup()


def _read_refusal(written: bytes, trial: Trial) -> None:
    """aiohttp has answered itself: what was sent is no HTTP."""
    head, _, body = written.decode("latin-1").partition("\r\n\r\n")
    trial.status, trial.text = int(head.split()[1]), one_line(body)


class _Wire(asyncio.Transport):
    """A connection that comes from anywhere and goes nowhere."""

    def __init__(self, attempt: Attempt, answered: asyncio.Event) -> None:
        peername: Any = "" if attempt.address == UNIX else (attempt.address, PORT)
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

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0
