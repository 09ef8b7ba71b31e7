"""Who may connect, gate by gate, and why somebody is not let in: `wampkit check`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from .addresses import UNIX
from .app import DEFAULT_PATH, App
from .errors import one_line, quote
from .forwarded import HEADERS, TrustedProxies
from .gates import arranged
from .loading import USAGE, Mistake, describe
from .middleware import middleware_name
from .rehearsal import LET_IN, Attempt, Trial, is_gate, rehearse

__all__ = ["Report", "attempt_of", "check"]

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
        Mistake: HTTP cannot carry it.
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
            raise Mistake(f"the header {name} would hold a line break, which no header can", USAGE)
    return Attempt(target=target, headers=tuple(headers), address=given["address"] or LOCAL, secure=secure)


def _read_url(url: str | None) -> tuple[str, str, bool]:
    """Target, host and whether TLS is spoken."""
    local = f"{LOCAL}:8080"
    if url is None:
        return DEFAULT_PATH, local, False
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Mistake(f"--url {quote(url)} is no URL: escape spaces and what is not ASCII with %", USAGE)
    if url.startswith("/"):
        return url, local, False
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.netloc:
        raise Mistake(f"--url {quote(url)} is neither a path such as {DEFAULT_PATH} nor a WebSocket URL", USAGE)
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
        yield f"from {trial.address or 'a unix socket'}, {'with' if trial.secure else 'without'} TLS"
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
        Mistake: A middleware of the app cannot start, or cannot tell what it does.
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
        raise Mistake(f"{middleware_name(middleware)}.describe failed: {describe(error)}") from error
