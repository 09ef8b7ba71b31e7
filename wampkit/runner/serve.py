"""What running means: load the app, listen, serve, and on a signal answer what began before the sockets close."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from aiohttp import web, web_response

from ..access.hosts import is_loopback, socket_url
from ..access.origins import AllowOrigins
from ..access.proxies import TrustedProxies
from ..app import DEFAULT_PATH, App
from ..auth.tickets import Tickets, is_shared
from ..concurrency.background import BackgroundTask
from ..errors import DeclarationError
from ..pubsub.broker import SCHEMES
from ..server.mounting import hide_versions
from ..server.processes import Processes, stays_in_process
from ..sessions.middleware import key_fingerprints
from ..telemetry.logs import logger_of
from .loading import CommandError, describe, load_app
from .process import Signals, loop_factory, run_loop, set_up_logging
from .watchdog import BLOCKED, BLOCKED_IN_DEVELOPMENT, Watchdog

__all__ = ["RunOptions", "ServerInfo", "bind", "run", "settle_collector", "trust"]

logger = logger_of(__name__)

BACKLOG = 1024
"""Clients that may wait in the kernel to be taken in."""

ACCEPTS_A_TURN = 16
"""Clients that asyncio takes in before others have their turn. It is also how often it tries at a time when no
descriptor is left, with a log record for each."""

BEATS = 8
"""Signs of life that a worker gives in its timeout."""

HANDSHAKE_TIMEOUT = 15.0
"""Seconds in which a new connection must have sent its request; aiohttp's own default is an hour."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds that aiohttp gives what is left after the drain: handshakes that the gates still hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `wampkit run` was told; each is an option of that command.

    Attributes:
        app: Which app, as `loading.load_app` takes it.
        host: The address or name to listen on.
        port: The port; 0 takes a free one.
        path: The socket's path.
        drain: Seconds that calls under way are given when the server stops.
        broker: A broker's URL that replaces the app's, or None.
        trusted_proxies: The proxies whose word about the client's address is believed in place of the app's own; None
            for the app's own.
        debug: Whether callers see the text of unexpected errors, whatever the app says.
        reload: Whether this is a server for development that is started anew at each change.
        worker_timeout: Seconds for which a worker's event loop may stand still until it is replaced; 0 for ever.
        loop: The event loop; "auto" is uvloop where it is installed.
        log_level: The least level that is logged, as `logging` names it, in lower case.
        workers: How many processes serve the port.
        shared: Whether other processes listen on the same port.
        first: Whether this is the first of several workers.
    """

    app: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    path: str = DEFAULT_PATH
    drain: float = 10.0
    worker_timeout: float = 30.0
    broker: str | None = None
    trusted_proxies: tuple[str, ...] | None = None
    debug: bool = False
    reload: bool = False
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    log_level: str = "info"
    workers: int = 1
    shared: bool = False
    first: bool = True

    @property
    def development(self) -> bool:
        """Whether this is no server for others."""
        return self.reload or self.debug


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What is served once it is.

    Attributes:
        url: Where clients connect.
        procedures: How many procedures are declared.
        topics: How many topics are declared.
        any_origin: Whether the pages of any site may connect.
        console: Where a browser sees the console, or None without one.
        exposed: Whether that is for whoever can connect, in production or from other machines.
        keys: A fingerprint of the keys of its sessions and tickets, which differs where they do.
    """

    url: str
    procedures: int
    topics: int
    any_origin: bool
    console: str | None = None
    exposed: bool = False
    keys: str = ""


def run(
    settings: RunOptions, announce: Callable[[ServerInfo], None], *, beat: Callable[[], None] | None = None
) -> None:
    """Serve an app in this process until a signal ends it; end the process with `leave` afterwards.

    Args:
        settings: What to serve, and where.
        announce: Called once when clients can connect.
        beat: Tells a supervisor that the loop is alive; it decides about signals then, see `Signals`. None without.

    Raises:
        CommandError: The app cannot be served, or it failed to stop.
    """
    with contextlib.suppress(KeyboardInterrupt):
        signals = Signals(supervised=beat is not None)
        new_loop = loop_factory(settings.loop)
        app, started = _prepare(settings)
        sockets = bind(settings.host, settings.port, shared=settings.shared)
        app.loopback_only = settings.development and all(map(_is_loopback, sockets))
        serving = _serve(app, settings, sockets, signals, lambda url: announce(started(url)))
        run_loop(new_loop(), serving if beat is None else _beating(beat, settings.worker_timeout, serving))


def _prepare(settings: RunOptions) -> tuple[App, Callable[[str], ServerInfo]]:
    """The app as it will be served, and what can be told of it once its URL is known."""
    app = load_app(settings.app, Path.cwd())
    set_up_logging(settings.log_level)
    app.debug = app.debug or settings.debug
    if app.console is None:
        app.console = settings.development
    if settings.broker is not None:
        _check_scheme(settings.broker)
        app.broker = settings.broker
    if settings.workers > 1:
        app.processes = Processes(settings.workers, settings.first, f"--workers {settings.workers}")
    if settings.trusted_proxies is not None:
        trust(app, settings.trusted_proxies)
    try:
        kinds = [each.kind for each in app.declarations()]
    except DeclarationError as error:
        raise CommandError(describe(error)) from error
    procedures, topics = kinds.count("procedure"), kinds.count("topic")
    if settings.workers > 1 and topics and stays_in_process(app.broker):
        raise CommandError(
            f"--workers {settings.workers}: this app has topics, and with the broker memory:// an event never leaves "
            f"its process, so subscribers on other workers would miss it; {_instead()}"
        )
    if settings.workers > 1 and any(isinstance(each, Tickets) and not is_shared(each) for each in app.middlewares):
        raise CommandError(
            f"--workers {settings.workers}: each worker remembers spent tickets by itself, so that a ticket could be "
            "used once on each of them; give Tickets(..., spent=...) a store that they share, or leave out --workers"
        )

    def started(url: str) -> ServerInfo:
        return ServerInfo(
            url=url,
            procedures=procedures,
            topics=topics,
            any_origin=_any_origin(app),
            console=url.replace("ws", "http", 1) if app.console else None,
            exposed=app.console_is_open and not app.loopback_only,
            keys=key_fingerprints(app.middlewares),
        )

    return app, started


def trust(app: App, networks: tuple[str, ...]) -> None:
    """Let an app trust these proxies in place of its own, in the header that it has chosen."""
    header = app.trusted_proxies.header if app.trusted_proxies is not None else "X-Forwarded-For"
    app.trusted_proxies = TrustedProxies(*networks, header=header) if networks else None


def _any_origin(app: App) -> bool:
    gates = [each for each in app.middlewares if isinstance(each, AllowOrigins)]
    return bool(gates) and all(gate.any for gate in gates)


def _is_loopback(listener: socket.socket) -> bool:
    host = listener.getsockname()[0]
    return is_loopback(f"[{host}]" if ":" in host else host)


def _check_scheme(url: str) -> None:
    # The URL may hold a password, so that errors do not repeat it.
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise CommandError(
            f"--broker: there is no broker for {scheme or 'no scheme'}://; there is {_known_brokers(SCHEMES)}"
        )


def _known_brokers(schemes: Any) -> str:
    return ", ".join(f"{scheme}://" for scheme in sorted(schemes))


def _instead() -> str:
    others = SCHEMES.keys() - {"memory"}
    shared = f", or share a broker with --broker: {_known_brokers(others)}" if others else ""
    return f"leave out --workers{shared}"


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


# ---- serving


async def _serve(
    app: App, settings: RunOptions, sockets: list[socket.socket], signals: Signals, announce: Callable[[str], None]
) -> None:
    stop = signals.attach()
    site = web.Application()
    # What could be answered has been when aiohttp shuts down: `app.drain` below comes first.
    app.setup(site, settings.path, drain=0.0)
    if settings.development:
        _point_to_the_socket(site, settings.path, bool(app.console))
    hide_versions(site, app.ident)
    _hide_versions_from_no_http(app.ident)
    runner = web.AppRunner(
        site,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=HANDSHAKE_TIMEOUT,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    patience = BLOCKED_IN_DEVELOPMENT if settings.development or app.debug else BLOCKED
    watchdog = Watchdog(asyncio.get_running_loop(), patience)
    try:
        await _until(stop, _start(runner))
        if not stop.is_set():
            settle_collector()
            await _listen(runner, sockets, settings)
            announce(socket_url(settings.host, sockets[0].getsockname()[1], settings.path))
            watchdog.start()
            await stop.wait()
        logger.info("%s: stopping; a second signal stops at once", signals.name)
        # In this order: aiohttp's cleanup stops reading, and calls could not be answered any more.
        for each in list(runner.sites):
            await each.stop()
        await app.drain(settings.drain)
    finally:
        watchdog.stop()
        for socket_ in sockets:
            socket_.close()
        await _clean_up(runner)


def _point_to_the_socket(site: web.Application, path: str, console: bool) -> None:
    """Tell a developer who opens another path than the socket's where to look; `/` leads to the console."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        if console and request.path == "/":
            raise web.HTTPTemporaryRedirect(path)
        raise web.HTTPNotFound(text=f"there is no page here; the socket is at {path}\n")

    site.router.add_get("/{path:.*}", elsewhere)


async def _beating(beat: Callable[[], None], timeout: float, serving: Coroutine[Any, Any, None]) -> None:
    """Serve, and give signs of life meanwhile."""
    pause = min(1.0, timeout / BEATS) if timeout else 1.0

    async def clock() -> None:
        while True:
            beat()
            await asyncio.sleep(pause)

    async with BackgroundTask("the sign of life for the supervisor", clock):
        await serving


def _hide_versions_from_no_http(ident: str) -> None:
    """aiohttp answers what is no HTTP by itself and asks no application; this process is ours."""
    if hasattr(web_response, "SERVER_SOFTWARE"):
        web_response.SERVER_SOFTWARE = ident


async def _start(runner: web.AppRunner) -> None:
    try:
        await runner.setup()
    except Exception as error:
        raise CommandError(f"the app failed to start: {describe(error)}") from error


async def _clean_up(runner: web.AppRunner) -> None:
    try:
        await runner.cleanup()
    except Exception as error:
        raise CommandError(f"the app failed to stop: {describe(error)}") from error


async def _listen(runner: web.AppRunner, sockets: list[socket.socket], settings: RunOptions) -> None:
    try:
        for each in sockets:
            await web.SockSite(runner, each, backlog=ACCEPTS_A_TURN).start()
            each.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(error, settings.host, settings.port) from None


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do some work, and cancel it if the server is stopped meanwhile."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    stopped.cancel()
    if not task.cancelled():
        task.result()


YOUNG = 50_000


def settle_collector() -> None:
    """Let the garbage collector leave alone what has been loaded, and look less often.

    For a process that only serves: connections that end leave no cycles behind but those of asyncio's transports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)
