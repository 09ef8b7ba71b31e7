"""The part behind an `App`: mounts it on a path of an aiohttp application, starts it and stops it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from aiohttp import hdrs, web
from aiohttp.http import SERVER_SOFTWARE

from .console.console import Console
from .console.page import serve_console
from .dispatch.middleware import unavailable
from .errors import DeclarationError
from .handlers.hooks import Hooks, lifespan_context
from .router import Route, Router, close_router, collect_routes, warn_about_fragments
from .server.handshake import HandshakeHandler
from .server.processes import Processes, check_processes, under_gunicorn
from .server.runtime import Runtime, compile_app
from .server.settings import Settings
from .server.static import serve_javascript

__all__ = ["Lifecycle", "Option", "hide_versions"]

SETUP_OPTIONS = {"ident", "javascript", "console"}
"""The options that `App.setup` reads, so that they cannot change after it."""


class Lifecycle:
    """Starts, drains and stops one app.

    Attributes:
        settings: The present options.
        router: The app's declarations.
        hooks: Its hooks and error handlers.
        processes: The processes that serve it, if its runner told; else None.
        runtime: Its parts while it runs, else None.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self.settings: Settings = settings
        self.router: Router = Router()
        self.hooks: Hooks = Hooks()
        self.processes: Processes | None = None
        self.runtime: Runtime | None = None
        self._app = app
        self._path: str | None = None
        self._handler: HandshakeHandler | None = None
        self._resources = contextlib.AsyncExitStack()
        self._started = False  # whether every start-up hook has run

    # ---- options

    def configure(self, name: str, value: Any) -> None:
        """Change one option.

        Raises:
            AttributeError: It is too late.
            DeclarationError: The value cannot work.
        """
        late = None
        if name in SETUP_OPTIONS and self._path is not None:
            late = "after App.setup"
        elif self.runtime is not None:
            late = "while the app runs"
        if late is not None:
            raise AttributeError(f"app.{name} cannot change {late}: set it before, or give it to App({name}=...)")
        self.settings = self.settings.changed(name, value)

    # ---- without a start

    def routes(self) -> list[Route]:
        """Everything that the app declares, with full URIs. Raises DeclarationError if a declaration cannot work."""
        routes = collect_routes(self.router, self.settings.prefixes)
        compile_app(self.settings, routes)
        return routes

    def _make_runtime(self, settings: Settings, hooks: Hooks) -> Runtime:
        routes = collect_routes(self.router, settings.prefixes)
        return Runtime(settings, routes, hooks, Console if settings.console else None)

    @contextlib.asynccontextmanager
    async def dry_run(self, middlewares: Iterable[Any]) -> AsyncIterator[HandshakeHandler]:
        """A handshake handler that checks requests without opening a connection, for `wampkit check`.

        Args:
            middlewares: The middlewares in place of the app's.

        Raises:
            DeclarationError: A declaration cannot work.
            RuntimeError: The app is running.
        """
        if self.runtime is not None:
            raise RuntimeError("the app is running; what it would say can only be tried while it is not")
        self.runtime = self._make_runtime(self.settings.changed("broker", "memory://"), Hooks())
        try:
            yield HandshakeHandler(self.runtime, middlewares)
        finally:
            self.runtime.threads.close()
            self.runtime = None

    # ---- behind aiohttp

    def mount(self, web_app: web.Application, path: str, drain: float) -> None:
        """Serve the app on a path of an aiohttp application; see `App.setup`."""
        _claim_path(web_app, path, self)
        settings = self.settings

        async def start_and_stop(_: web.Application) -> AsyncIterator[None]:
            await self.start()
            yield
            await self.stop()

        async def shut_down(_: web.Application) -> None:
            await self.drain(drain)

        web_app.router.add_get(path, self._serve)
        if settings.javascript:
            serve_javascript(web_app, path, settings.ident)
        if settings.console:
            serve_console(web_app, path, settings.ident)
        web_app.cleanup_ctx.append(start_and_stop)
        web_app.on_shutdown.append(shut_down)
        self._path = path

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._handler is None:
            refusal = unavailable("the server is not running")
            refusal.force_close()
            raise refusal
        return await self._handler(request)

    # ---- start, drain, stop

    async def start(self) -> None:
        """Check every declaration and begin to run; see `App.start`."""
        if self.runtime is not None:
            at = f" at {self._path!r}" if self._path is not None else ""
            raise RuntimeError(f"the app is running already{at}; an app runs once at a time, so make another App")
        close_router(self.router)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        runtime = self._make_runtime(settings, self.hooks)
        warn_about_fragments(runtime.routes)
        processes = self.processes or under_gunicorn()
        check_processes(
            processes,
            settings,
            topics=any(each.kind == "topic" for each in runtime.routes),
            each=self.hooks.periodic(None),
            one=self.hooks.periodic(True),
        )
        self.runtime, self._handler = runtime, HandshakeHandler(runtime)
        await runtime.start()
        monitor = [] if runtime.monitor is None else [runtime.monitor.lifespan]
        middlewares = [getattr(each, "lifespan", None) for each in settings.middlewares]
        for lifespan in (*monitor, *middlewares, settings.lifespan):
            if lifespan is not None:
                await self._resources.enter_async_context(lifespan_context(lifespan, self._app))
        await runtime.hooks.started()
        self._started = True
        runtime.start_periodic(first=processes.first)

    async def drain(self, deadline: float) -> None:
        """Answer the running calls and close every connection; see `App.drain`."""
        if self.runtime is not None:
            await self.runtime.drain(deadline)

    async def stop(self) -> None:
        """End everything that `start` began; see `App.stop`."""
        runtime, handler = self.runtime, self._handler
        close_router(self.router, False)
        if runtime is None:
            return
        # From the last to the first; one that raises keeps no other from running.
        async with contextlib.AsyncExitStack() as ending:
            if handler is not None:
                ending.callback(handler.close)
            ending.callback(self._forget)
            ending.push_async_callback(runtime.close)
            ending.push_async_callback(self._resources.aclose)
            if self._started:
                ending.push_async_callback(runtime.hooks.stopped)
            ending.push_async_callback(runtime.stop)

    def _forget(self) -> None:
        self.runtime = self._handler = None
        self._started = False
        self._resources = contextlib.AsyncExitStack()


# ---- aiohttp applications

SERVED: web.AppKey[dict[str, Any]] = web.AppKey("wampkit", dict)
"""The apps that an aiohttp application serves, by path."""


def _claim_path(web_app: web.Application, path: str, owner: Any) -> None:
    """Reserve a path of an aiohttp application for an app.

    Raises:
        DeclarationError: The path is taken or invalid, or the app has another path of this application.
    """
    if not isinstance(web_app, web.Application):
        raise DeclarationError(f"App.setup takes an aiohttp.web.Application, not {web_app!r}")
    if not isinstance(path, str) or (path and not path.startswith("/")) or any(each in path for each in "?# "):
        raise DeclarationError(f"setup: {path!r} is no path such as '/ws', which has no query")
    served = web_app.setdefault(SERVED, {})
    for taken, other in served.items():
        if other is owner:
            raise DeclarationError(
                f"setup: this app is served at {taken!r} already; make another App for {path!r}, with the same Router"
            )
    if path in served:
        raise DeclarationError(f"setup: another app is served at {path!r} already; choose another path")
    for route in web_app.router.routes():
        resource = route.resource
        if resource is not None and resource.canonical == path and route.method in (hdrs.METH_GET, hdrs.METH_ANY):
            raise DeclarationError(
                f"setup: this application has a GET handler for {path!r} already; choose another path"
            )
    served[path] = owner


def hide_versions(web_app: web.Application, ident: str) -> None:
    """Send `ident` as the Server header in place of versions, and close the connection after a 404 or 405.

    For an application that serves only one app.
    """

    async def prepare(_: web.Request, response: web.StreamResponse) -> None:
        if response.headers.get("Server") == SERVER_SOFTWARE:
            response.headers["Server"] = ident
        if isinstance(response, web.HTTPNotFound | web.HTTPMethodNotAllowed):
            response.force_close()
            response.headers["Connection"] = "close"

    web_app.on_response_prepare.append(prepare)


# ---- options as attributes


class _HasLifecycle(Protocol):
    @property
    def _lifecycle(self) -> Lifecycle: ...


Kept = TypeVar("Kept")

Given = TypeVar("Given")


class Option(Generic[Kept, Given]):
    """An option of `App` as an attribute: read at any time, set until the app starts.

    `Kept` is the type that reading it gives, `Given` the type that it can be set to.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, app: None, owner: type) -> Self: ...

    @overload
    def __get__(self, app: _HasLifecycle, owner: type) -> Kept: ...

    def __get__(self, app: _HasLifecycle | None, owner: type) -> Self | Kept:
        if app is None:
            return self
        value: Kept = getattr(app._lifecycle.settings, self._name)
        return value

    def __set__(self, app: _HasLifecycle, value: Given) -> None:
        app._lifecycle.configure(self._name, value)
