"""Load an app, listen, serve it, and stop on a signal: calls that began are answered before the sockets close."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from aiohttp import web, web_response

from ..access.origins import AllowOrigins
from ..access.proxies import TrustedProxies
from ..app import App, lifecycle_of
from ..concurrency.background import BackgroundTask
from ..console.console import console_is_open
from ..errors import DeclarationError
from ..lifecycle import hide_versions
from ..server.processes import Processes, obstacles
from ..sessions.middleware import key_fingerprints
from ..telemetry.logs import logger_of
from .errors import CommandError, describe_error
from .loading import load_app
from .process import Signals, first_of, loop_factory, run_loop, set_up_logging
from .watchdog import BLOCKED, BLOCKED_IN_DEVELOPMENT, Watchdog

__all__ = ["RunOptions", "ServerInfo", "bind", "serve", "socket_url", "trust"]

logger: logging.Logger = logger_of(__name__)

BACKLOG = 1024
"""Clients that may wait in the kernel to be taken in."""

ACCEPTS_PER_TURN = 16
"""Clients that asyncio takes in before others have their turn. It is also how often it tries at a time when no
descriptor is left, with a log record for each."""

BEATS = 8
"""Signs of life of a worker in each `worker_timeout`."""

HANDSHAKE_TIMEOUT = 15.0
"""Seconds in which a new connection must have sent its request; aiohttp's own default is an hour."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds that aiohttp gives what is left after the drain: handshakes that the gates still hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `wampkit run`, and what a supervisor adds for its children.

    Each attribute that is not listed here is an option of that command, which its `--help` describes.

    Attributes:
        shared: Whether other processes listen on the same port.
        first: Whether this is the first of several workers.
    """

    app: str | None
    host: str
    port: int
    path: str
    drain: float
    worker_timeout: float
    broker: str | None
    trusted_proxies: tuple[str, ...] | None
    debug: bool
    reload: bool
    loop: Literal["auto", "asyncio", "uvloop"]
    log_level: str
    workers: int
    shared: bool = False
    first: bool = True

    @property
    def development(self) -> bool:
        """Whether this server is for its developer alone."""
        return self.reload or self.debug


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server that accepts clients.

    Attributes:
        url: The URL that clients connect to.
        procedures: The number of procedures.
        topics: The number of declared topics.
        any_origin: Whether the pages of any site may connect.
        console: The URL of the console, or None without one.
        exposed: Whether the console is open to every client, in production or from other machines.
        keys: A fingerprint of the keys of its sessions and tickets, which differs where they do.
    """

    url: str
    procedures: int
    topics: int
    any_origin: bool
    console: str | None = None
    exposed: bool = False
    keys: str = ""


def serve(
    options: RunOptions, announce: Callable[[ServerInfo], None], *, beat: Callable[[], None] | None = None
) -> None:
    """Serve an app in this process until a signal ends it; end the process with `exit_process` afterwards.

    Args:
        options: What to serve, and where.
        announce: Called once when clients can connect.
        beat: Tells a supervisor that the loop is alive; it decides about signals then, see `Signals`. None without.

    Raises:
        CommandError: The app cannot be served, or it failed to stop.
    """
    with contextlib.suppress(KeyboardInterrupt):
        signals = Signals(supervised=beat is not None)
        new_loop = loop_factory(options.loop)
        app = _load(options)
        counts = _count(app)
        if options.workers > 1:
            obstacle = next(obstacles(lifecycle_of(app).settings, topics=counts["topic"] > 0), None)
            if obstacle is not None:
                raise CommandError(f"--workers {options.workers}: {obstacle}, or leave out --workers")
        sockets = bind(options.host, options.port, shared=options.shared)
        loopback_only = options.development and all(map(_is_loopback, sockets))
        lifecycle_of(app).configure("loopback_only", loopback_only)
        serving = _serve(app, options, sockets, signals, lambda url: announce(_info(app, url, counts)))
        run_loop(new_loop(), serving if beat is None else _beating(beat, options.worker_timeout, serving))


def _load(options: RunOptions) -> App:
    """The app, with what the command line says of it."""
    app = load_app(options.app, Path.cwd())
    set_up_logging(options.log_level)
    app.debug = app.debug or options.debug
    if app.console is None:
        app.console = options.development
    if options.broker is not None:
        try:
            app.broker = options.broker
        except DeclarationError as error:
            raise CommandError(f"--broker: {error}") from None
    if options.workers > 1:
        lifecycle_of(app).processes = Processes(options.workers, options.first, f"--workers {options.workers}")
    if options.trusted_proxies is not None:
        trust(app, options.trusted_proxies)
    return app


def trust(app: App, networks: tuple[str, ...]) -> None:
    """Let an app trust these proxies in place of its own, in the header that it has chosen."""
    header = app.trusted_proxies.header if app.trusted_proxies is not None else "X-Forwarded-For"
    app.trusted_proxies = TrustedProxies(*networks, header=header) if networks else None


def _count(app: App) -> Counter[str]:
    """The number of the app's procedures and topics, by kind. Raises CommandError if a declaration cannot work."""
    try:
        return Counter(each.kind for each in lifecycle_of(app).routes())
    except DeclarationError as error:
        raise CommandError(describe_error(error)) from error


def _info(app: App, url: str, counts: Counter[str]) -> ServerInfo:
    settings = lifecycle_of(app).settings
    origins = [each for each in app.middlewares if isinstance(each, AllowOrigins)]
    return ServerInfo(
        url=url,
        procedures=counts["procedure"],
        topics=counts["topic"],
        any_origin=bool(origins) and all(gate.any for gate in origins),
        console=url.replace("ws", "http", 1) if app.console else None,
        exposed=console_is_open(settings) and not settings.loopback_only,
        keys=key_fingerprints(app.middlewares),
    )


def _is_loopback(listener: socket.socket) -> bool:
    address, _, _ = listener.getsockname()[0].partition("%")
    return ip_address(address).is_loopback


# ---- listening


def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Bind a socket to each address of a host, all to one port; they do not listen yet.

    Args:
        host: An address or a name.
        port: The port; 0 takes a free one.
        shared: Whether other processes may bind the same port in the same way (SO_REUSEPORT).

    Raises:
        CommandError: The address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CommandError(f"host {host!r}: {getattr(error, 'strerror', None) or 'this is no host name'}") from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bound(family, (address[0], port, *address[2:]), shared))
        except OSError as error:
            # A name may have an IPv6 address where the machine has none.
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            port = sockets[0].getsockname()[1]
    if failure is not None and (not sockets or failure.errno == errno.EADDRINUSE):
        for each in sockets:
            each.close()
        raise _cannot_listen(failure, host, port) from None
    return sockets


def _bound(family: int, address: tuple[Any, ...], shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _cannot_listen(error: OSError, host: str, port: int) -> CommandError:
    match error.errno:
        case errno.EADDRINUSE:
            return CommandError(
                f"port {port} of {host} is in use; stop what listens there, or choose another with --port"
            )
        case errno.EACCES:
            return CommandError(f"port {port} is not for this user; choose one from 1024 up with --port")
        case errno.EADDRNOTAVAIL:
            return CommandError(f"host {host!r} is no address of this machine; choose another with --host")
    return CommandError(f"cannot listen on {host} port {port}: {error.strerror}")


def socket_url(host: str, port: int, path: str) -> str:
    """The WebSocket URL by which a client on this machine reaches a server that listens on a host.

    A server that listens on every address (`0.0.0.0`, `::`) is reached by the loopback address, since the unspecified
    one is no destination.
    """
    with contextlib.suppress(ValueError):
        if ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
    return f"ws://{f'[{host}]' if ':' in host else host}:{port}{path}"


# ---- serving


async def _serve(
    app: App, options: RunOptions, sockets: list[socket.socket], signals: Signals, announce: Callable[[str], None]
) -> None:
    stop = signals.attach()
    site = web.Application()
    # What could be answered has been when aiohttp shuts down: `app.drain` below comes first.
    app.setup(site, options.path, drain=0.0)
    if options.development:
        _serve_hints(site, options.path, bool(app.console))
    hide_versions(site, app.ident)
    _hide_versions_in_bad_requests(app.ident)
    runner = web.AppRunner(
        site,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=HANDSHAKE_TIMEOUT,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    timeout = BLOCKED_IN_DEVELOPMENT if options.development or app.debug else BLOCKED
    watchdog = Watchdog(asyncio.get_running_loop(), timeout)
    try:
        await first_of(stop.wait(), _start(runner))
        if not stop.is_set():
            _tune_collector()
            await _listen(runner, sockets, options)
            announce(socket_url(options.host, sockets[0].getsockname()[1], options.path))
            watchdog.start()
            await stop.wait()
        logger.info("%s: stopping; a second signal stops at once", signals.name)
        # In this order: aiohttp's cleanup stops reading, and calls could not be answered any more.
        for each in list(runner.sites):
            await each.stop()
        await app.drain(options.drain)
    finally:
        watchdog.stop()
        for socket_ in sockets:
            socket_.close()
        await _clean_up(runner)


def _serve_hints(site: web.Application, path: str, console: bool) -> None:
    """Answer other paths than the socket's with where to look; `/` leads to the console."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        if console and request.path == "/":
            raise web.HTTPTemporaryRedirect(path)
        raise web.HTTPNotFound(text=f"there is no page here; the socket is at {path}\n")

    site.router.add_get("/{path:.*}", elsewhere)


async def _beating(beat: Callable[[], None], timeout: float, serving: Coroutine[Any, Any, None]) -> None:
    """Serve, and call `beat` several times in `timeout` seconds meanwhile."""
    pause = min(1.0, timeout / BEATS) if timeout else 1.0

    async def beat_on() -> None:
        while True:
            beat()
            await asyncio.sleep(pause)

    async with BackgroundTask("the sign of life for the supervisor", beat_on):
        await serving


def _hide_versions_in_bad_requests(ident: str) -> None:
    """Name no versions in the answers that aiohttp gives to invalid HTTP without asking the application."""
    if hasattr(web_response, "SERVER_SOFTWARE"):
        web_response.SERVER_SOFTWARE = ident


async def _start(runner: web.AppRunner) -> None:
    try:
        await runner.setup()
    except Exception as error:
        raise CommandError(f"the app failed to start: {describe_error(error)}") from error


async def _clean_up(runner: web.AppRunner) -> None:
    try:
        await runner.cleanup()
    except Exception as error:
        raise CommandError(f"the app failed to stop: {describe_error(error)}") from error


async def _listen(runner: web.AppRunner, sockets: list[socket.socket], options: RunOptions) -> None:
    try:
        for each in sockets:
            await web.SockSite(runner, each, backlog=ACCEPTS_PER_TURN).start()
            each.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(error, options.host, options.port) from None


def _tune_collector() -> None:
    """Tune Python's garbage collector for a process that only serves.

    What has been loaded is not examined any more, and a collection is due after 50,000 new objects, not 700 or 2,000:
    connections that end leave no cycles but those of asyncio's transports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
