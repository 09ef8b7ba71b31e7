"""`App`: what a user declares, how it is configured, started and stopped, and what it offers while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Self, TypeVar, overload

from aiohttp import web

from .access.proxies import TrustedProxies
from .auth.authenticator import login_procedures
from .auth.credentials import Cra
from .auth.tickets import Tickets, tickets_of
from .concurrency.background import BackgroundTask
from .concurrency.threads import ThreadPools
from .connection.connection import Connection
from .connection.registry import Connections
from .console.console import Console, console_rules
from .console.page import serve_console
from .dispatch.builtins import publish_procedure, subscription_procedure
from .dispatch.compiler import CompiledProcedure, CompiledTopic, compile_routes
from .dispatch.middleware import Middleware
from .dispatch.requirements import Rule, Rules
from .dispatch.route_table import RouteTable
from .errors import DeclarationError, suggestion
from .handlers.binding import Injectables
from .handlers.hooks import Hooks, Lifespan, check_hook, entered
from .handlers.signatures import explain_options, location
from .limits import Limits
from .protocol.uris import expand
from .pubsub.broker import Broker
from .pubsub.topics import Topics, ToUser
from .router import Declaration, Router, TopicDeclaration, gather, warn_of_fragments
from .server.assembly import assemble
from .server.handshake import Door
from .server.mounting import hide_versions, mount
from .server.processes import Processes, check_processes, under_gunicorn
from .server.runtime import Node
from .server.settings import OPTIONS, Settings, arranged
from .sessions.middleware import reads_sessions
from .sessions.session import Session, session_of
from .telemetry.counters import Counters

__all__ = ["DEFAULT_PATH", "App"]

P = ParamSpec("P")

R = TypeVar("R")

F = TypeVar("F", bound=Callable[..., Any])

E = TypeVar("E", bound=BaseException)

Kept = TypeVar("Kept")

Given = TypeVar("Given")

DEFAULT_PATH = "/ws"

_NO_SESSIONS = "this app reads no sessions; put Sessions(storage) into App(middlewares=[...])"


class _Option(Generic[Kept, Given]):
    """An option of `App` as an attribute: read at any time, set until the app starts.

    Args:
        mounted: Whether `App.setup` reads it, so that it cannot be set any more afterwards.
    """

    def __init__(self, *, mounted: bool = False) -> None:
        self._mounted = mounted

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, app: None, owner: type) -> Self: ...

    @overload
    def __get__(self, app: App, owner: type) -> Kept: ...

    def __get__(self, app: App | None, owner: type) -> Self | Kept:
        if app is None:
            return self
        value: Kept = getattr(app._settings, self._name)
        return value

    def __set__(self, app: App, value: Given) -> None:
        late = (
            "after App.setup"
            if self._mounted and app._path is not None
            else "while the app runs"
            if app.running
            else None
        )
        if late is not None:
            raise AttributeError(
                f"app.{self._name} cannot change {late}: set it before, or give it to App({self._name}=...)"
            )
        app._settings = app._settings.changed(self._name, value)


class App:
    """A WAMP v1 application: procedures, topics, middlewares and hooks, served on one WebSocket path.

    Each option is an attribute too, which may be set until the app starts (`console`, `javascript` and `ident` until
    `setup`); later that is an AttributeError.

    Attributes:
        loopback_only: Whether pages must have asked for a host that is this machine by name, as `wampkit run --reload`
            and `--debug` want it on a loopback address.
        processes: The processes that serve the app, where who started them has said so.

    Args:
        prefixes: Prefix to URI. They expand the CURIEs of the app's own declarations and are the defaults of
            every connection; a client's PREFIX overrides them for that client.
        middlewares: The one list, outermost first; see `wampkit.middleware`.
        trusted_proxies: The addresses and networks of the proxies in front, or "unix" for one on a unix socket: what
            they say of the client's address in X-Forwarded-For is believed. `TrustedProxies(..., header="Forwarded")`
            reads the other header.
        lifespan: An async context manager taking the app, entered at start and left at stop.
        debug: Whether a caller sees the text of unexpected errors. Not for production.

        cra: Lets clients log in over the socket with WAMP-CRA. Routes then require what was granted, unless they are
            open with `requires=anyone`.
        requires: What routes without a rule of their own require, such as `requires()`; a rule, or several.
        explain_refusals: Whether a client whose SUBSCRIBE or PUBLISH was refused receives an EVENT on that topic that
            says why, as BabDev's server sends it; WAMP v1 itself has no answer.

        exclude_publisher: Whether a PUBLISH that says nothing about it leaves out its own sender, as
            autobahn-python does; False is what the PHP servers do.
        empty_eligible: Who receives an event whose PUBLISH has an empty list of eligible sessions: "nobody", as with
            autobahn-python, or "everybody", as with Ratchet, BabDev and WampSharp, whose clients may always send one.
        require_subprotocol: Whether a client that offers no WebSocket subprotocol is refused with HTTP 400.
            One that offers others but not `wamp` always is.
        malformed: What a message that breaks WAMP v1 does: "close" ends its connection with 1002, 1003 or 1007
            and a reason, "ignore" logs it and goes on.
        error_uris: Error URIs that replace those of `wampkit.ERROR_URIS`, by kind.
        ident: The server's name in WELCOME.

        broker: What carries events: a `Broker`, or a URL such as `memory://`.
        keepalive: Seconds between WebSocket pings; a peer that does not answer is cut within one and a half
            intervals. None turns them off.
        limits: Every bound that the server keeps, in one `Limits`.
        close_timeout: Seconds that a client has to answer a close frame before it is cut.
        goodbye: How clients are left when the server stops, once their calls are answered: "close" sends a close
            frame with 1012, "drop" only ends the connection. Autobahn|JS 0.8 reconnects after the latter alone.
        compression: Whether clients that offer permessage-deflate get it. It saves bytes and costs time: some 10 us
            an event and no memory, but it goes without the fast way in.
        threads: How many `def` handlers run at once; hooks and logins have as many threads of their own, made when
            they are needed.

        javascript: Whether the browser's client is served beside the socket: `wampkit.js` below its path.
        console: Whether a browser that opens the socket's address sees what the app serves and how it fares, and can
            try it. Instead of True a rule (or several), such as `requires("admin")`, says who sees more than an empty
            page. None is what `wampkit run` decides: only with `--reload` or `--debug`.

    Raises:
        DeclarationError: An option or a middleware cannot work.
    """

    middlewares = _Option[tuple[Middleware, ...], Iterable[Middleware]]()
    trusted_proxies = _Option[TrustedProxies | None, Iterable[str] | TrustedProxies | None]()
    lifespan = _Option[Lifespan | None, Lifespan | None]()
    debug = _Option[bool, bool]()
    cra = _Option[Cra | None, Cra | None]()
    requires = _Option[tuple[Rule, ...], Rules | None]()
    explain_refusals = _Option[bool, bool]()
    exclude_publisher = _Option[bool, bool]()
    empty_eligible = _Option[Literal["nobody", "everybody"], Literal["nobody", "everybody"]]()
    require_subprotocol = _Option[bool, bool]()
    malformed = _Option[Literal["close", "ignore"], Literal["close", "ignore"]]()
    error_uris = _Option[Mapping[str, str], Mapping[str, str]]()
    ident = _Option[str, str](mounted=True)
    broker = _Option[Broker | str, Broker | str]()
    keepalive = _Option[float | None, float | None]()
    limits = _Option[Limits, Limits]()
    close_timeout = _Option[float, float]()
    goodbye = _Option[Literal["close", "drop"], Literal["close", "drop"]]()
    compression = _Option[bool, bool]()
    javascript = _Option[bool, bool](mounted=True)
    console = _Option[bool | tuple[Rule, ...] | None, bool | Rules | None](mounted=True)
    loopback_only = _Option[bool, bool]()
    processes: Processes | None = None
    _node: Node | None = None
    _door: Door | None = None

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
        self._settings = Settings.of(
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
        self._path: str | None = None
        self._console = Console(self)
        self._router = Router()
        self._hooks = Hooks()
        self._error_handlers: dict[type[BaseException], Callable[[Any], Any]] = {}
        self._resources = contextlib.AsyncExitStack()

        self.on_startup = self._hooks.on_startup
        self.on_shutdown = self._hooks.on_shutdown
        self.on_connect = self._hooks.on_connect
        self.on_disconnect = self._hooks.on_disconnect
        self.on_error = self._hooks.on_error
        self.every = self._hooks.every
        self._made = True

    _made = False

    if not TYPE_CHECKING:  # or else type checkers would take any name for an attribute

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
        """Prefix to URI, read-only; to have others, set them all before the start."""
        return MappingProxyType(self._settings.prefixes)

    @prefixes.setter
    def prefixes(self, prefixes: Mapping[str, str]) -> None:
        if self.running:
            raise AttributeError("app.prefixes cannot change while the app runs: give them to App(prefixes=...)")
        self._settings = self._settings.changed("prefixes", prefixes)

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
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise DeclarationError(
                f"error_handler takes an exception class, not {kind!r}; write @app.error_handler(ValueError) above a "
                "function"
            )

        def register(function: F) -> F:
            check_hook(function, 1, f"error_handler({kind.__name__})", "the exception")
            first = self._error_handlers.setdefault(kind, function)
            if first is not function:
                raise DeclarationError(
                    f"error_handler({kind.__name__}): {location(function)}, is the second for this class, after "
                    f"{location(first)}; remove one of them"
                )
            return function

        return register

    @property
    def tickets(self) -> Tickets:
        """What issues one-time tickets, before the app runs too. Raises RuntimeError if no middleware takes them."""
        return tickets_of(self.middlewares)

    # ---- serving

    def setup(self, web_app: web.Application, path: str = DEFAULT_PATH, *, drain: float = 5.0) -> None:
        """Serve the app on a path of an aiohttp application, starting and stopping with it.

        Args:
            web_app: The aiohttp application.
            path: The socket's path.
            drain: Seconds that calls under way are given when the application shuts down.

        Raises:
            DeclarationError: The path is taken, or the app has another path of this application.
        """
        mount(self, web_app, path, drain)
        if self.console:
            serve_console(web_app, path, self.ident)
        self._path = path

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
        if self._node is not None:
            at = f" at {self._path!r}" if self._path is not None else ""
            raise RuntimeError(f"the app is running already{at}; an app runs once at a time, so make another App")
        self._router.close()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    def settings(self) -> Settings:
        """What the app was told, as it stands now, with the gates that it has by default."""
        middlewares = arranged(self.middlewares, loopback_only=self.loopback_only)
        return replace(self._settings, middlewares=middlewares)

    async def _start(self) -> None:
        declarations = gather(self._router, self.prefixes)
        counters = Counters()
        compiled = self.compile(declarations, counters)
        warn_of_fragments(declarations)
        processes = self.processes or under_gunicorn()
        check_processes(
            processes,
            self.settings(),
            topics=any(each.kind == "topic" for each in declarations),
            each=self._hooks.periodic(None),
            one=self._hooks.periodic(True),
        )
        self._console.describe(compiled, self.middlewares)
        console = self._console if self.console else None
        node, door = assemble(self.settings(), console, *compiled, self._hooks, self._error_handlers, counters)
        self._node, self._door = node, door
        await node.start()
        lifespans = [getattr(each, "lifespan", None) for each in self.middlewares]
        for lifespan in (*([self._console.lifespan] if self.console else []), *lifespans, self.lifespan):
            if lifespan is not None:
                await self._resources.enter_async_context(entered(lifespan, self))
        await self._hooks.started(node.threads.hooks)
        node.started = True
        node.start_periodic(first=processes.first)

    async def drain(self, deadline: float) -> None:
        """Take no new work, answer the calls under way, then close every connection with 1012.

        Args:
            deadline: Seconds that the calls under way are given before they are cancelled.
        """
        if self._node is not None:
            await self._node.drain(deadline)

    async def stop(self) -> None:
        """End everything that `start` began; connections that are still there are cut."""
        node, door = self._node, self._door
        self._router.close(False)
        if node is None:
            return
        # From the last to the first; one that raises keeps no other from running.
        async with contextlib.AsyncExitStack() as ending:
            if door is not None:
                ending.callback(door.close)
            ending.callback(self._forget)
            ending.push_async_callback(node.close)
            ending.push_async_callback(self._resources.aclose)
            if node.started:
                ending.push_async_callback(self._hooks.stopped, node.threads.hooks)
            ending.push_async_callback(node.stop)

    def _forget(self) -> None:
        self._node = self._door = None
        self._resources = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def rehearsal(self, middlewares: tuple[Any, ...]) -> AsyncIterator[Door]:
        """A door that can be asked and serves nobody, for `wampkit check`.

        Args:
            middlewares: What stands in place of those of `settings()`.

        Raises:
            RuntimeError: The app is running.
        """
        if self._node is not None:
            raise RuntimeError("the app is running; what it would say can only be tried while it is not")
        settings = replace(self.settings(), middlewares=middlewares, broker="memory://")
        console = self._console if self.console else None
        counters = Counters()
        compiled = self.compile(self.declarations(), counters)
        self._node, door = assemble(settings, console, *compiled, Hooks(), {}, counters)
        try:
            yield door
        finally:
            self._node.threads.close()
            self._node = None

    @property
    def console_is_open(self) -> bool:
        """Whether there is the console, for whoever can connect."""
        return bool(self.console) and not console_rules(self.console, self.requires, self.cra)

    # ---- compiling

    def declarations(self) -> list[Declaration]:
        """Everything declared, with full URIs; for listings.

        Raises:
            DeclarationError: A declaration cannot work.
        """
        declarations = gather(self._router, self.prefixes)
        self.compile(declarations)
        return declarations

    def compile(
        self, declarations: Iterable[Declaration], counters: Counters | None = None
    ) -> tuple[RouteTable[CompiledProcedure], RouteTable[CompiledTopic]]:
        """The declarations and wampkit's own procedures, compiled.

        Args:
            declarations: What was declared.
            counters: Those of the app that is about to run.

        Raises:
            DeclarationError: A declaration cannot work.
        """
        own = [
            subscription_procedure(),
            publish_procedure(lambda: self._running().dispatcher.topic_messages),
            *login_procedures(self.cra, lambda: self._running().authenticator),
        ]
        if self.console:
            own += self._console.declarations(console_rules(self.console, self.requires, self.cra))
        given: Injectables = {Session: session_of if reads_sessions(self.middlewares) else _NO_SESSIONS}
        return compile_routes(
            declarations,
            *own,
            longest=self.limits.uri_length,
            counters=counters or Counters(),
            default=self.requires,
            cra=self.cra is not None,
            given=given,
        )

    # ---- while it runs

    @property
    def running(self) -> bool:
        """Whether the app has been started and not stopped."""
        return self._node is not None

    @property
    def door(self) -> Door | None:
        """The aiohttp handler of the socket, while the app runs."""
        return self._door

    @property
    def topics(self) -> Topics:
        """The topics that have subscribers, by full URI; `len(app.topics[uri])` counts them."""
        return Topics(self._running().registry, self.expand)

    def expand(self, name: str) -> str:
        """The full URI of a CURIE of the app's prefixes; any other name as it is. Works before the start too."""
        return expand(name, self._settings.prefixes)

    @property
    def connections(self) -> Connections:
        """The live connections."""
        return self._running().connections

    @property
    def counters(self) -> Counters:
        """What happened since the start: slow readers cut, events dropped, handshakes refused and the like."""
        return self._running().counters

    @property
    def threads(self) -> ThreadPools:
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

        In a handler or hook with a generator dependency it leaves when all of these have ended well, and is dropped
        if one of them or the handler fails.

        Args:
            topic: A URI or a CURIE of the app's prefixes.
            event: Anything JSON can carry.
            exclude: Session ids that shall not receive it.
            eligible: If given, only these session ids may receive it; an empty list means nobody.
            now: Whether it leaves at once, whatever becomes of the message that is being handled.

        Raises:
            ValueError: No such topic is declared.
            TypeError: JSON cannot carry the event.
            RuntimeError: The app is not running.
        """
        await self._running().registry.publish(self.expand(topic), event, exclude=exclude, eligible=eligible, now=now)

    def to_user(self, user: Any) -> ToUser:
        """All connections of a user: `await app.to_user("ann").publish(...)`, `app.to_user("ann").close()`.

        Raises:
            RuntimeError: The app is not running.
        """
        node = self._running()
        return ToUser(user, node.connections, node.registry, self.expand)

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions that a connection may not have any more, after its user or roles changed.

        Asks the rules of each topic again (`requires`), but no message middlewares, which run once for a message that
        came. A SUBSCRIBE that is being decided has its rules asked again too, before it is accepted.

        Returns:
            The topics that it lost, by URI. Nothing that is published to them from now on reaches it.
        """
        return await self._running().dispatcher.topic_messages.recheck(connection)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask:
        """A task that lasts as long as it is entered, for the `lifespan` of a middleware or an app.

        `async with app.background("the watcher", watch): yield`. Whatever ends its coroutine is logged, given to
        `on_error`, and a second later it runs again.

        Args:
            name: What the log calls it.
            work: Makes the coroutine.
        """
        return self._running().background(name, work)

    def report(self, error: BaseException, connection: Connection | None = None) -> None:
        """Tell the app's `on_error` hooks of an exception that was not expected; does not wait, and logs nothing.

        Args:
            error: The exception.
            connection: Whose it is, or None.
        """
        self._running().report(error, connection)

    def _running(self) -> Node:
        if self._node is None:
            raise RuntimeError("the app is not running: this works from its start until its stop")
        return self._node


_SETTABLE = OPTIONS - {"threads"} | {"loopback_only", "processes"}
"""What may be set; `app.threads` are the threads themselves."""
