"""`wampkit check`: what an app lets in, and a handshake tried without a server.

A handshake that is tried without a server.

Its bytes are real. They go through aiohttp's own parser, over a wire that ends in this process and says that it comes
from wherever it shall come from; then the app's own door judges it. Neither the app nor its broker is started, only the
middlewares' own `lifespan` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from ..access.proxies import HEADERS, TrustedProxies
from ..app import DEFAULT_PATH, App
from ..connection.connection import Connection
from ..dispatch.middleware import middleware_name
from ..errors import WampError, one_line, quote
from ..networks import UNIX, describe_address
from ..runner.loading import USAGE, CommandError, describe
from ..server.handshake import Door
from ..server.settings import arranged
from ..telemetry.http_logs import quiet_http_errors

__all__ = ["attempt_of", "check"]

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
        CommandError: A middleware of the app cannot start.
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
                raise CommandError(f"{middleware_name(each)} failed to start: {describe(error)}") from error


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


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "d2FtcGtpdCBjaGVja2luZw==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "wamp",
}

LOCAL = "127.0.0.1"


def attempt_of(options: Mapping[str, Any]) -> Attempt | None:
    """The handshake that some options describe, or None if they describe none.

    Args:
        options: `origin`, `address`, `host` and `url`, each a text or None; `cookie` and `header`, each a sequence of
            names and values.

    Raises:
        CommandError: HTTP cannot carry it.
    """
    given = {name: options[name] for name in ("origin", "address", "host", "url", "cookie", "header")}
    if not any(value or isinstance(value, str) for value in given.values()):
        return None
    target, host, secure = _read_url(given["url"])
    headers = [("Host", given["host"] if given["host"] is not None else host), *HANDSHAKE.items()]
    if given["origin"] is not None:
        headers.append(("Origin", given["origin"]))
    if given["cookie"]:
        headers.append(("Cookie", "; ".join(f"{name}={value}" for name, value in given["cookie"])))
    own = {name.lower() for name, _ in given["header"]} & {"host", *map(str.lower, HANDSHAKE)}
    headers = [(name, value) for name, value in headers if name.lower() not in own] + list(given["header"])
    for name, value in headers:
        if any(each in name + value for each in "\r\n\0"):
            raise CommandError(f"the header {name} would hold a line break, which no header can", USAGE)
    return Attempt(target=target, headers=tuple(headers), address=given["address"] or LOCAL, secure=secure)


def _read_url(url: str | None) -> tuple[str, str, bool]:
    """Target, host and whether TLS is spoken."""
    local = f"{LOCAL}:8080"
    if url is None:
        return DEFAULT_PATH, local, False
    if not url.isascii() or not url.isprintable() or " " in url:
        raise CommandError(f"--url {quote(url)} is no URL: escape spaces and what is not ASCII with %", USAGE)
    if url.startswith("/"):
        return url, local, False
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.netloc:
        raise CommandError(f"--url {quote(url)} is neither a path such as {DEFAULT_PATH} nor a WebSocket URL", USAGE)
    query = f"?{parts.query}" if parts.query else ""
    return (parts.path or "/") + query, parts.netloc, parts.scheme in ("wss", "https")


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate of the door.

    Attributes:
        name: What it is called.
        does: What it does, where it says so.
        default: Whether it is there without being named in the app's list.
    """

    name: str
    does: str
    default: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A door, and what became of a handshake if one was tried.

    Attributes:
        proxies: The trusted proxies.
        header: Where they name the client; None if none is trusted.
        gates: The gates in their order.
        trial: What was tried.
        ignored: The header in which the peer named a client although it is not trusted, or None.
    """

    proxies: list[str]
    header: str | None
    gates: list[Gate]
    trial: Trial | None
    ignored: str | None

    @property
    def let_in(self) -> bool:
        """Whether the handshake was let in, or none was tried."""
        return self.trial is None or self.trial.status == LET_IN

    def as_json(self) -> dict[str, Any]:
        """The same as JSON can carry it."""
        return asdict(self) | {"let_in": self.let_in}

    def as_text(self) -> list[str]:
        """The same in lines for people."""
        believed = f"the client's address is believed of {', '.join(self.proxies)} ({self.header})"
        lines = [f"proxies: {believed if self.header is not None else 'none is trusted'}"]
        width = max(len(gate.name) for gate in self.gates)
        for number, gate in enumerate(self.gates, 1):
            does = gate.does + (" (by default)" if gate.default else "")
            lines.append(f"{number}. {gate.name:{width}}  {does}")
        if self.trial is not None:
            ignored = f"{self.ignored} is ignored: the peer is no trusted proxy"
            lines += ["", *([ignored] if self.ignored is not None else []), *_tried(self.trial, width)]
        return [one_line(line).rstrip() if line else line for line in lines]


def _tried(trial: Trial, width: int) -> Iterable[str]:
    if trial.steps:
        yield f"from {describe_address(trial.address)}, {'with' if trial.secure else 'without'} TLS"
    for number, step in enumerate(trial.steps, 1):
        yield f"{number}. {step.gate:{width}}  {step.outcome}" + (f": {step.note}" if step.note else "")
    if trial.status == LET_IN:
        yield f"let in as user {trial.user}" if trial.user is not None else "let in; no gate says who it is"
    else:
        why = f" ({trial.why})" if trial.why else ""
        yield f"refused with HTTP {trial.status}: {trial.text}{why}"


def check(app: App, attempt: Attempt | None) -> Report:
    """An app's door, and what a handshake would meet there.

    Raises:
        DeclarationError: A declaration of the app cannot work.
        CommandError: A middleware of the app cannot start, or cannot tell what it does.
    """
    app.declarations()
    gates = [
        Gate(middleware_name(each), _does(each), default=each not in app.middlewares)
        for each in arranged(app.middlewares)
        if is_gate(each)
    ]
    proxies = app.trusted_proxies
    trial = asyncio.run(rehearse(app, attempt)) if attempt is not None else None
    return Report(
        proxies=list(proxies or ()),
        header=proxies.header if proxies is not None else None,
        gates=gates,
        trial=trial,
        ignored=_ignored(proxies, attempt) if attempt is not None else None,
    )


def _ignored(proxies: TrustedProxies | None, attempt: Attempt) -> str | None:
    peer = None if attempt.address == UNIX else attempt.address
    if proxies is not None and proxies.trusts(peer):
        return None
    names = {name.lower() for name, _ in attempt.headers}
    return next((name for name in HEADERS if name.lower() in names), None)


def _does(middleware: Any) -> str:
    says = getattr(middleware, "describe", None)
    if not callable(says):
        return ""
    try:
        return one_line(str(says()))
    except Exception as error:
        raise CommandError(f"{middleware_name(middleware)}.describe failed: {describe(error)}") from error
