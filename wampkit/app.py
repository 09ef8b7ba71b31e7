"""`App`: declare procedures and topics, set options, serve, and publish while it runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from aiohttp import web

from .access.proxies import TrustedProxies
from .auth.credentials import Cra
from .auth.tickets import Tickets, tickets_of
from .concurrency.background import BackgroundTask
from .concurrency.threads import ThreadsState
from .connection.connection import Connection
from .connection.registry import Connections
from .connection.server_connection import ServerConnection
from .dispatch.middleware import Middleware
from .dispatch.requirements import Rule, Rules
from .errors import suggestion
from .handlers.hooks import Lifespan, add_hook
from .handlers.signatures import explain_options, without_parentheses
from .lifecycle import Lifecycle, Option, hide_versions
from .limits import Limits
from .protocol.uris import expand
from .pubsub.broker import Broker
from .pubsub.topics import Topics, ToUser
from .router import Router, TopicDeclaration
from .server.runtime import Runtime
from .server.settings import OPTIONS, Settings
from .telemetry.counters import Counters

__all__ = ["DEFAULT_PATH", "App", "lifecycle_of"]

P = ParamSpec("P")

R = TypeVar("R")

F = TypeVar("F", bound=Callable[..., Any])

E = TypeVar("E", bound=BaseException)

DEFAULT_PATH = "/ws"


class App:
    """A WAMP v1 application: procedures, topics, middlewares and hooks, served on one WebSocket path.

    Each option is an attribute too and may be set until the app starts (`console`, `javascript` and `ident` until
    `setup`); setting it later raises AttributeError.

    Args:
        prefixes: Prefix to URI. They expand the CURIEs of the app's own declarations and are the defaults of
            every connection; a client's PREFIX overrides them for that client.
        middlewares: The middlewares for handshakes and messages, outermost first.
        trusted_proxies: Addresses and networks of the proxies in front, or "unix" for one on a unix socket. The
            client's address is taken from their X-Forwarded-For; `TrustedProxies(..., header="Forwarded")` reads the
            other header.
        lifespan: An async context manager that takes the app, entered at start and left at stop.
        debug: Whether callers see the text of unexpected errors. Not for production.

        cra: Lets clients log in over the socket with WAMP-CRA. Each route then requires the permission that the login
            granted, unless it is open with `requires=anyone`.
        requires: The rule, or rules, of routes without a rule of their own, such as `requires()`.
        explain_refusals: Whether a client whose SUBSCRIBE or PUBLISH was refused receives an EVENT on that topic that
            says why, as BabDev's server sends it; WAMP v1 itself has no answer.

        exclude_publisher: Whether an event is not sent to its publisher when the PUBLISH does not say, as with
            autobahn-python; False is what the PHP servers do.
        empty_eligible: Who receives an event whose PUBLISH has an empty list of eligible sessions: "nobody", as with
            autobahn-python, or "everybody", as with Ratchet, BabDev and WampSharp, whose clients may always send one.
        require_subprotocol: Whether a client that offers no WebSocket subprotocol is refused with HTTP 400.
            One that offers others but not `wamp` is always refused.
        malformed: What happens on a message that breaks WAMP v1: "close" ends its connection with 1002, 1003 or
            1007 and a reason, "ignore" logs it and continues.
        error_uris: Error URIs that replace those of `wampkit.ERROR_URIS`, by kind.
        ident: The server's name in WELCOME.

        broker: Carries events between processes: a `Broker`, or a URL such as `memory://`.
        keepalive: Seconds between WebSocket pings; a peer that does not answer is cut within one and a half
            intervals. None turns them off.
        limits: All bounds that the server enforces.
        close_timeout: Seconds for a client to answer a close frame before it is cut.
        goodbye: How connections end when the server stops, once their calls are answered: "close" sends a close
            frame with 1012, "drop" only ends the connection. Autobahn|JS 0.8 reconnects only after "drop".
        compression: Whether clients that offer permessage-deflate get it. It saves bytes and costs some 10 us an
            event; such connections are not read by the fast reader.
        threads: How many `def` handlers run at once; hooks and logins have as many threads of their own, made when
            they are needed.

        javascript: Whether the browser's client, `wampkit.js`, is served below the socket's path.
        console: Whether a browser that opens the socket's address sees the app's routes and figures, and can call and
            publish. A rule (or several), such as `requires("admin")`, instead of True says who may. None lets
            `wampkit run` decide: only with `--reload` or `--debug`.

    Raises:
        DeclarationError: An option or a middleware cannot work.
    """

    middlewares: Option[tuple[Middleware, ...], Iterable[Middleware]] = Option()
    trusted_proxies: Option[TrustedProxies | None, Iterable[str] | TrustedProxies | None] = Option()
    lifespan: Option[Lifespan | None, Lifespan | None] = Option()
    debug: Option[bool, bool] = Option()
    cra: Option[Cra | None, Cra | None] = Option()
    requires: Option[tuple[Rule, ...], Rules | None] = Option()
    explain_refusals: Option[bool, bool] = Option()
    exclude_publisher: Option[bool, bool] = Option()
    empty_eligible: Option[Literal["nobody", "everybody"], Literal["nobody", "everybody"]] = Option()
    require_subprotocol: Option[bool, bool] = Option()
    malformed: Option[Literal["close", "ignore"], Literal["close", "ignore"]] = Option()
    error_uris: Option[Mapping[str, str], Mapping[str, str]] = Option()
    ident: Option[str, str] = Option()
    broker: Option[Broker | str, Broker | str] = Option()
    keepalive: Option[float | None, float | None] = Option()
    limits: Option[Limits, Limits] = Option()
    close_timeout: Option[float, float] = Option()
    goodbye: Option[Literal["close", "drop"], Literal["close", "drop"]] = Option()
    compression: Option[bool, bool] = Option()
    javascript: Option[bool, bool] = Option()
    console: Option[bool | tuple[Rule, ...] | None, bool | Rules | None] = Option()

    @explain_options("App")
    def __init__(
        self,
        *,
        prefixes: Mapping[str, str] | None = None,
        middlewares: Iterable[Middleware] = (),
        trusted_proxies: Iterable[str] | TrustedProxies = (),
        lifespan: Lifespan | None = None,
        debug: bool = False,
        # who may do what
        cra: Cra | None = None,
        requires: Rules | None = None,
        explain_refusals: bool = False,
        # protocol
        exclude_publisher: bool = True,
        empty_eligible: Literal["nobody", "everybody"] = "nobody",
        require_subprotocol: bool = True,
        malformed: Literal["close", "ignore"] = "close",
        error_uris: Mapping[str, str] | None = None,
        ident: str = "wampkit",
        # delivery and bounds
        broker: Broker | str = "memory://",
        keepalive: float | None = 25.0,
        limits: Limits | None = None,
        close_timeout: float = 3.0,
        goodbye: Literal["close", "drop"] = "close",
        compression: bool = False,
        threads: int = 32,
        # what browsers are served
        javascript: bool = True,
        console: bool | Rules | None = None,
    ) -> None:
        settings = Settings.of(
            prefixes={} if prefixes is None else prefixes,
            middlewares=middlewares,
            trusted_proxies=trusted_proxies,
            lifespan=lifespan,
            debug=debug,
            cra=cra,
            requires=requires,
            explain_refusals=explain_refusals,
            exclude_publisher=exclude_publisher,
            empty_eligible=empty_eligible,
            require_subprotocol=require_subprotocol,
            malformed=malformed,
            error_uris={} if error_uris is None else error_uris,
            ident=ident,
            broker=broker,
            keepalive=keepalive,
            limits=Limits() if limits is None else limits,
            close_timeout=close_timeout,
            goodbye=goodbye,
            compression=compression,
            threads=threads,
            javascript=javascript,
            console=console,
        )
        self._lifecycle = Lifecycle(self, settings)
        self._router = self._lifecycle.router
        self._made = True

    _made = False

    if not TYPE_CHECKING:  # with it, type checkers would allow any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            if self._made and not name.startswith("_") and name not in _SETTABLE:
                if name in OPTIONS:
                    raise AttributeError(f"app.{name} cannot be set; give it to App({name}=...)")
                if hasattr(App, name) or name in vars(self):
                    raise AttributeError(f"app.{name} cannot be set; use it as it is: app.{name}(...)")
                near = suggestion(name, OPTIONS)
                if near:
                    raise AttributeError(f"app.{name} is no option of App{near}")
            super().__setattr__(name, value)

    @property
    def prefixes(self) -> Mapping[str, str]:
        """Prefix to URI, read-only; to change them, set a new mapping before the start."""
        return MappingProxyType(self._lifecycle.settings.prefixes)

    @prefixes.setter
    def prefixes(self, prefixes: Mapping[str, str]) -> None:
        self._lifecycle.configure("prefixes", prefixes)

    # ---- declaring

    @explain_options("rpc")
    def rpc(
        self,
        uri: str,
        *,
        timeout: float | None = None,
        middlewares: Iterable[Middleware] = (),
        requires: Rules = (),
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Serve the decorated function as a procedure; see `Router.rpc`."""
        return self._router.rpc(uri, timeout=timeout, middlewares=middlewares, requires=requires)

    @explain_options("add_rpc")
    def add_rpc(
        self,
        uri: str,
        handler: Callable[..., Any],
        *,
        timeout: float | None = None,
        middlewares: Iterable[Middleware] = (),
        requires: Rules = (),
    ) -> None:
        """Serve `handler` as a procedure; the plain form of `rpc`."""
        self._router.add_rpc(uri, handler, timeout=timeout, middlewares=middlewares, requires=requires)

    @explain_options("topic")
    def topic(
        self,
        uri: str,
        *,
        relay: bool = False,
        middlewares: Iterable[Middleware] = (),
        requires: Rules = (),
        subscribe: Rules = (),
        publish: Rules = (),
    ) -> TopicDeclaration:
        """Declare a topic, as a statement or as a handler's decorator; see `Router.topic`."""
        return self._router.topic(
            uri, relay=relay, middlewares=middlewares, requires=requires, subscribe=subscribe, publish=publish
        )

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Serve what a router declares, its URIs behind `prefix`."""
        self._router.include(router, prefix=prefix)

    def error_handler(self, kind: type[E]) -> Callable[[F], F]:
        """Let the decorated function turn the app's exceptions of this class, and its subclasses, into answers.

        The function takes the exception and returns or raises a `WampError`; returning None leaves the
        exception unexpected. It may be `async def`, or `def`, which runs in a worker thread.
        """
        return self._lifecycle.hooks.add_error_handler(kind)

    @property
    def tickets(self) -> Tickets:
        """The issuer of one-time tickets, also before the app runs. Raises RuntimeError if no middleware takes them."""
        return tickets_of(self.middlewares)

    # ---- hooks

    @without_parentheses("app.on_startup")
    def on_startup(self, hook: F) -> F:
        """Run `hook()` when the app starts, before the first client."""
        return add_hook(self._lifecycle.hooks.startup_hooks, hook, 0, "on_startup")

    @without_parentheses("app.on_shutdown")
    def on_shutdown(self, hook: F) -> F:
        """Run `hook()` when the app has stopped and its last connection has ended; the hooks run in reverse order."""
        return add_hook(self._lifecycle.hooks.shutdown_hooks, hook, 0, "on_shutdown")

    @without_parentheses("app.on_connect")
    def on_connect(self, hook: F) -> F:
        """Run `hook(connection)` when a client has been welcomed, before its first message is handled.

        An exception closes the connection: a `WampError` with 1008 and its description, any other with 1011.
        """
        return add_hook(self._lifecycle.hooks.connect_hooks, hook, 1, "on_connect")

    @without_parentheses("app.on_disconnect")
    def on_disconnect(self, hook: F) -> F:
        """Run `hook(connection)` when a welcomed client has disconnected and its subscriptions have ended.

        `connection.close_code` and `connection.close_reason` say why; it is no longer in `app.connections`.
        When the app stops, hooks that take longer than 5 seconds are cancelled.
        """
        return add_hook(self._lifecycle.hooks.disconnect_hooks, hook, 1, "on_disconnect")

    @without_parentheses("app.on_error")
    def on_error(self, hook: F) -> F:
        """Run `hook(error, connection)` for each unexpected exception, to report it elsewhere.

        The connection is None for an exception of a periodic or shutdown hook, or of a part of wampkit that serves all
        connections.
        """
        return add_hook(self._lifecycle.hooks.error_hooks, hook, 2, "on_error")

    def every(self, seconds: float, *, one_worker: bool | None = None) -> Callable[[F], F]:
        """Run the decorated function repeatedly while the app runs, each time `seconds` after it last ended.

        An exception is logged and given to `on_error`, and the function runs again.

        Args:
            seconds: The pause.
            one_worker: Which of several serving processes run the function. None and False: each of them; None logs a
                warning. True: one of those of `wampkit run --workers`; gunicorn with several workers is refused then,
                and processes that are started separately do not know of each other.
        """
        return self._lifecycle.hooks.add_periodic(seconds, one_worker)

    # ---- serving

    def setup(self, web_app: web.Application, path: str = DEFAULT_PATH, *, drain: float = 5.0) -> None:
        """Serve the app on a path of an aiohttp application, starting and stopping with it.

        Args:
            web_app: The aiohttp application.
            path: The socket's path.
            drain: Seconds for running calls to end when the application shuts down.

        Raises:
            DeclarationError: The path is taken, or the app has another path of this application.
        """
        self._lifecycle.mount(web_app, path, drain)

    def web_app(self, path: str = DEFAULT_PATH) -> web.Application:
        """An aiohttp application that serves this app alone: for `aiohttp.web.run_app`, gunicorn and the like."""
        application = web.Application()
        self.setup(application, path)
        hide_versions(application, self.ident)
        return application

    async def start(self) -> None:
        """Check every declaration and begin to run.

        Raises:
            DeclarationError: A declaration cannot work.
        """
        await self._lifecycle.start()

    async def drain(self, deadline: float) -> None:
        """Take no new work, answer the running calls, then close every connection with 1012.

        Args:
            deadline: Seconds that the running calls are given before they are cancelled.
        """
        await self._lifecycle.drain(deadline)

    async def stop(self) -> None:
        """End everything that `start` began, and cut the connections that are left."""
        await self._lifecycle.stop()

    # ---- while it runs

    @property
    def running(self) -> bool:
        """Whether the app has been started and not stopped."""
        return self._lifecycle.runtime is not None

    @property
    def topics(self) -> Topics:
        """The topics that have subscribers, by full URI; `len(app.topics[uri])` counts them."""
        return Topics(self._running().registry, self.expand)

    def expand(self, name: str) -> str:
        """The full URI of a CURIE of the app's prefixes; any other name unchanged. Works before the start too."""
        return expand(name, self._lifecycle.settings.prefixes)

    @property
    def connections(self) -> Connections:
        """The live connections."""
        return self._running().connections

    @property
    def counters(self) -> Counters:
        """Counts since the start: slow readers cut, events dropped, handshakes refused and others."""
        return self._running().counters

    @property
    def threads(self) -> ThreadsState:
        """The worker threads of `def` functions, and how many run and wait now: `app.threads.handlers.waiting`."""
        return self._running().threads

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        exclude: Iterable[str] = (),
        eligible: Iterable[str] | None = None,
        now: bool = False,
    ) -> None:
        """Send an event to a topic's subscribers; never waits for slow receivers.

        In a handler or hook with a generator dependency the event is sent when all of these have ended without an
        error, and dropped if one of them or the handler fails.

        Args:
            topic: A URI or a CURIE of the app's prefixes.
            event: Any value that JSON can carry, dataclasses, structs, dates and UUIDs included.
            exclude: Session ids that do not receive it.
            eligible: If given, only these session ids may receive it; an empty list means none.
            now: Whether to send it at once, even if the handler or a dependency fails later.

        Raises:
            ValueError: No such topic is declared.
            TypeError: JSON cannot carry the event.
            RuntimeError: The app is not running.
        """
        runtime = self._running()
        uri = expand(topic, runtime.settings.prefixes)
        await runtime.registry.publish(uri, event, exclude=exclude, eligible=eligible, now=now)

    def to_user(self, user: Any) -> ToUser:
        """All connections of a user: `await app.to_user("ann").publish(...)`, `app.to_user("ann").close()`.

        Raises:
            RuntimeError: The app is not running.
        """
        runtime = self._running()
        return ToUser(user, runtime.connections, runtime.registry, self.expand)

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions that a connection may not have any more, after its user or roles changed.

        Checks the rules of each topic again (`requires`), but runs no message middlewares. A SUBSCRIBE that is being
        decided has its rules checked again too, before it is accepted.

        Returns:
            The URIs of the topics that it lost; no later event of them reaches it.
        """
        assert isinstance(connection, ServerConnection)
        return await self._running().topic_messages.recheck(connection)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask:
        """A task that lasts as long as it is entered, for the `lifespan` of a middleware or an app.

        `async with app.background("the watcher", watch): yield`. If its coroutine raises, returns or is cancelled, that
        is logged and given to `on_error`, and it is run again a second later.

        Args:
            name: What the log calls it.
            work: Makes the coroutine.
        """
        return self._running().background(name, work)

    def report(self, error: BaseException, connection: Connection | None = None) -> None:
        """Give an unexpected exception to the `on_error` hooks; does not wait, and logs nothing.

        Args:
            error: The exception.
            connection: The connection that it belongs to, or None.
        """
        self._running().report(error, connection)

    def _running(self) -> Runtime:
        runtime = self._lifecycle.runtime
        if runtime is None:
            raise RuntimeError("the app is not running: this works from its start until its stop")
        return runtime


_SETTABLE = OPTIONS - {"threads"}
"""The options that may be set; `app.threads` are the threads themselves."""


def lifecycle_of(app: App) -> Lifecycle:
    """The lifecycle behind an app, for the commands and the test server."""
    return app._lifecycle
