"""`wampkit check`: show the gates of an app, and try a handshake without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from ..access.proxies import HEADERS, TrustedProxies
from ..app import DEFAULT_PATH, App, lifecycle_of
from ..dispatch.middleware import middleware_name
from ..errors import one_line, quote
from ..networks import UNIX, describe_address, read_address
from ..runner.errors import USAGE, CommandError, describe_error
from ..runner.loading import load_app
from ..runner.serve import trust
from .dry_run import SWITCHING_PROTOCOLS, DryRun, HandshakeAttempt, dry_run, is_gate
from .options import COMMAND, Command, Pair, ParamType, app_argument, level_option, option, proxies_option
from .output import inspecting, json_text

__all__ = ["attempt_from", "check", "report_on"]


# ---- the command


class PeerAddress(ParamType):
    """An address, or the word "unix"."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != UNIX:
            try:
                read_address(value)
            except ValueError:
                self.fail(f"{value!r} is no address, and not the word {UNIX}", param, ctx)
        return str(value)


def try_option(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option of the command line alone: a variable such as WAMPKIT_HOST belongs to another command."""
    return click.option(name, allow_from_autoenv=False, **attributes)


@click.command(context_settings=COMMAND)
@app_argument
@try_option("--origin", help="The Origin header, as a browser would send it.")
@try_option("--address", type=PeerAddress(), help='The address of the socket\'s peer, or "unix".')
@try_option("--host", help="The Host header.")
@try_option("--url", help="Path and query, or a whole URL: it tells the host, and TLS by wss://.")
@try_option("--cookie", type=Pair("=", "NAME=VALUE"), multiple=True, help="A cookie.")
@try_option("--header", type=Pair(":", "'Name: value'"), multiple=True, help="Another HTTP header.")
@proxies_option
@option("--json", is_flag=True, help="Print JSON.")
@level_option
def check(
    app: str | None, trusted_proxies: tuple[str, ...] | None, log_level: str, json: bool, **handshake: Any
) -> int:
    """Show who may connect, gate by gate, and try it: what a handshake would meet, and why.

    The app's own gates judge a handshake that is made up of what is given; the app is not started, and nothing
    listens. Exit code 1 if it is refused.
    """
    with inspecting(log_level):
        attempt = attempt_from(**handshake)
        loaded = load_app(app, Path.cwd())
        if trusted_proxies is not None:
            trust(loaded, trusted_proxies)
        report = report_on(loaded, attempt)
    for line in [json_text(report.as_json())] if json else report.as_text():
        click.echo(line)
    return 0 if report.let_in else 1


# ---- what is tried

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "d2FtcGtpdCBjaGVja2luZw==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "wamp",
}

LOCAL = "127.0.0.1"


def attempt_from(
    *,
    origin: str | None = None,
    address: str | None = None,
    host: str | None = None,
    url: str | None = None,
    cookie: Sequence[tuple[str, str]] = (),
    header: Sequence[tuple[str, str]] = (),
) -> HandshakeAttempt | None:
    """The handshake that the options of the command describe, or None if none is given.

    Raises:
        CommandError: HTTP cannot carry it.
    """
    if all(each is None for each in (origin, address, host, url)) and not cookie and not header:
        return None
    target, url_host, secure = _read_url(url)
    headers = {"Host": host if host is not None else url_host, **HANDSHAKE}
    if origin is not None:
        headers["Origin"] = origin
    if cookie:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookie)
    replaced = {name.lower() for name, _ in header} & {"host", *map(str.lower, HANDSHAKE)}
    lines = [*((name, value) for name, value in headers.items() if name.lower() not in replaced), *header]
    for name, value in lines:
        if any(each in name + value for each in "\r\n\0"):
            raise CommandError(f"the header {name} would hold a line break, which no header can", USAGE)
    return HandshakeAttempt(target=target, headers=tuple(lines), address=address or LOCAL, secure=secure)


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


# ---- what is printed


@dataclass(frozen=True, slots=True)
class Gate:
    """A middleware that judges handshakes.

    Attributes:
        name: Its name.
        does: Its own description, possibly empty.
        default: Whether it is there without being named in the app's list.
    """

    name: str
    does: str
    default: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The gates of an app, and the outcome of a handshake if one was tried.

    Attributes:
        proxies: The trusted proxies.
        header: Where they name the client; None if none is trusted.
        gates: The gates in their order.
        trial: The outcome of the handshake, or None.
        ignored: The header in which the peer named a client although it is no trusted proxy, or None.
    """

    proxies: list[str]
    header: str | None
    gates: list[Gate]
    trial: DryRun | None
    ignored: str | None

    @property
    def let_in(self) -> bool:
        """Whether the handshake was let in, or none was tried."""
        return self.trial is None or self.trial.status == SWITCHING_PROTOCOLS

    def as_json(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return asdict(self) | {"let_in": self.let_in}

    def as_text(self) -> list[str]:
        """The report in lines for people."""
        believed = f"the client's address is believed of {', '.join(self.proxies)} ({self.header})"
        lines = [f"proxies: {believed if self.header is not None else 'none is trusted'}"]
        width = max(len(gate.name) for gate in self.gates)
        for number, gate in enumerate(self.gates, 1):
            does = gate.does + (" (by default)" if gate.default else "")
            lines.append(f"{number}. {gate.name:{width}}  {does}")
        if self.trial is not None:
            lines.append("")
            if self.ignored is not None:
                lines.append(f"{self.ignored} is ignored: the peer is no trusted proxy")
            lines += _outcome(self.trial, width)
        return [one_line(line).rstrip() for line in lines]


def _outcome(trial: DryRun, width: int) -> Iterable[str]:
    if trial.steps:
        yield f"from {describe_address(trial.address)}, {'with' if trial.secure else 'without'} TLS"
    for number, step in enumerate(trial.steps, 1):
        yield f"{number}. {step.gate:{width}}  {step.outcome}" + (f": {step.note}" if step.note else "")
    if trial.status == SWITCHING_PROTOCOLS:
        yield f"let in as user {trial.user}" if trial.user is not None else "let in; no gate says who it is"
    else:
        why = f" ({trial.why})" if trial.why else ""
        yield f"refused with HTTP {trial.status}: {trial.text}{why}"


def report_on(app: App, attempt: HandshakeAttempt | None) -> Report:
    """Describe the gates of an app, and try a handshake if there is one.

    Raises:
        DeclarationError: A declaration of the app cannot work.
        CommandError: A middleware of the app cannot start, or cannot describe itself.
    """
    lifecycle = lifecycle_of(app)
    lifecycle.routes()
    gates = [
        Gate(middleware_name(each), _description(each), default=each not in app.middlewares)
        for each in lifecycle.settings.with_default_gates
        if is_gate(each)
    ]
    proxies = app.trusted_proxies
    return Report(
        proxies=list(proxies or ()),
        header=proxies.header if proxies is not None else None,
        gates=gates,
        trial=asyncio.run(dry_run(app, attempt)) if attempt is not None else None,
        ignored=_ignored_header(proxies, attempt) if attempt is not None else None,
    )


def _ignored_header(proxies: TrustedProxies | None, attempt: HandshakeAttempt) -> str | None:
    peer = None if attempt.address == UNIX else attempt.address
    if proxies is not None and proxies.trusts(peer):
        return None
    names = {name.lower() for name, _ in attempt.headers}
    return next((name for name in HEADERS if name.lower() in names), None)


def _description(middleware: Any) -> str:
    describe_itself = getattr(middleware, "describe", None)
    if not callable(describe_itself):
        return ""
    try:
        return one_line(str(describe_itself()))
    except Exception as error:
        raise CommandError(f"{middleware_name(middleware)}.describe failed: {describe_error(error)}") from error
