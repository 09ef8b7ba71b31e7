"""What the pytest fixtures are made of: a real server on a loopback port, and the event loop that it lives in.

An async test has its server in its own event loop, so that a handler may wait for an `asyncio.Event` which the test
sets. A sync test has no loop; its server runs in a thread with one. Everything else is the same for both.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from aiohttp import web

from ..app import App
from ..client.client import Client, connect
from ..client.options import Headers
from ..client.state import State
from ..client.subscriptions import Subscription
from ..connection.connection import Connection
from ..errors import ClientError
from ..protocol.extensions import RESERVED, SUBSCRIPTION
from ..telemetry.source_files import PACKAGE, folder_of

__all__ = ["Connect", "ExpectedError", "LoopThread", "Rpc", "TestLoop", "WampServer", "describe", "drop", "no_event"]

T = TypeVar("T")

ErrorKind = type[BaseException] | tuple[type[BaseException], ...]

PATIENCE = 1.0
"""Seconds given to what should take a moment: a message to be handled, a connection to end."""


async def no_event(subscription: Subscription, within: float) -> None:
    """Make sure that no event of a subscription comes for `within` seconds.

    Raises:
        AssertionError: One came; it is shown.
    """
    try:
        event = await subscription.get(within)
    except TimeoutError:
        return
    raise AssertionError(f"expected no event on {subscription.topic!r}, got {event!r}")


async def drop(client: Client) -> None:
    """Cut a client's wire without a closing handshake, as a lost network does; it reconnects, if it may."""
    connection = client._connection
    if connection is not None:
        connection.abort("this client cut the wire")
        await asyncio.wait({connection.lost})
        while client.state is State.OPEN:
            await client._notifier.changed()


class Connect(Protocol):
    """The type of the fixture `wamp_connect`."""

    def __call__(
        self,
        *,
        headers: Headers | None = None,
        cookies: Mapping[str, str] | None = None,
        origin: str | None = None,
        prefixes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Awaitable[Client]:
        """Connect one more client; see `wampkit.connect` for the options."""


class Rpc(Protocol):
    """The type of the fixture `rpc`."""

    def __call__(self, uri: str, *args: Any, timeout: float | None = 5.0) -> Any:
        """Call a procedure and return its result; raises `CallError` or `TimeoutError` (seconds)."""


class WampServer:
    """An app served on a free port of 127.0.0.1, with the clients connected through it.

    Attributes:
        app: The app that is served.
        url: Where it is served, such as `ws://127.0.0.1:40123/ws`; set by `start`.
        errors: The exceptions that nobody expected, from handlers and hooks, oldest first. With the fixture
            `wamp_server` each one left in this list fails the test.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.url = ""
        self.errors: list[BaseException] = []
        self._clients: list[Client] = []
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Start the app in the running event loop and listen.

        Raises:
            DeclarationError: A declaration of the app cannot work.
            RuntimeError: The app is running already.
        """
        self._loop = asyncio.get_running_loop()
        site = web.Application()
        self.app.setup(site, drain=PATIENCE)
        self._runner = web.AppRunner(site, access_log=None, shutdown_timeout=PATIENCE)
        self.app.on_error(self._record)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        except BaseException:
            await self.close()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"ws://{host}:{port}/ws"

    async def close(self) -> None:
        """Close the clients and stop the app; whoever else is connected is cut."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            await self._gone()
            await runner.cleanup()
        finally:
            self.app._hooks.remove_error_hook(self._record)

    async def _gone(self) -> None:
        """Let the server see its clients leave, so that it need not drain what they left behind."""
        if self.app.running:
            waits = [asyncio.ensure_future(connection.wait_closed()) for connection in self.app.connections]
            if waits:
                _, late = await asyncio.wait(waits, timeout=PATIENCE)
                for wait in late:
                    wait.cancel()

    async def connect(
        self,
        *,
        headers: Headers | None = None,
        cookies: Mapping[str, str] | None = None,
        origin: str | None = None,
        prefixes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Client:
        """Connect a client, which is closed with the server; see `wampkit.connect` for the options.

        Raises:
            HandshakeRefused: A middleware refused the handshake; `.status` is the HTTP status.
        """
        client = connect(self.url, headers=headers, cookies=cookies, origin=origin, prefixes=prefixes, **options)
        await client.open()
        self._clients.append(client)
        return client

    async def settle(self) -> None:
        """Wait, for a moment at most, until the server has dealt with what its clients published and subscribed."""
        await asyncio.gather(*(_settled(client) for client in self._clients if client.state is State.OPEN))

    async def _record(self, error: BaseException, _: Connection | None) -> None:
        self.errors.append(error)
        self._news.set()

    def expect_error(self, kind: ErrorKind, *, match: str | None = None, within: float = PATIENCE) -> ExpectedError:
        """Expect a handler to fail inside the block, which then does not fail the test.

        A failed call has been recorded when its caller gets the answer, so `with` does. A PUBLISH or SUBSCRIBE has
        no answer: in an async test write `async with`, which waits for the error.

        Args:
            kind: The exception class, or a tuple of them.
            match: A regular expression that is searched in the exception's text.
            within: Seconds to wait for the error at the end of the block.

        Raises:
            AssertionError: At the end of the block, when no such error has occurred in it.
        """
        return ExpectedError(self, kind, match, within)

    # ---- for ExpectedError

    def _take(self, since: int, matches: Callable[[BaseException], bool]) -> list[BaseException]:
        taken = [error for error in self.errors[since:] if matches(error)]
        self.errors[since:] = [error for error in self.errors[since:] if error not in taken]
        return taken

    async def _next_error(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """The server's loop, if it runs in another thread and this one may therefore wait for it."""
        loop = self._loop
        return loop if loop is not None and loop.is_running() and _running_loop() is not loop else None


class ExpectedError:
    """The block of `WampServer.expect_error`, for `with` and for `async with`.

    Attributes:
        value: The exception, after the block; None when the block itself was left by one and the handler did not fail.
    """

    def __init__(self, server: WampServer, kind: ErrorKind, match: str | None, within: float) -> None:
        self.value: BaseException | None = None
        self._server = server
        self._kind = kind
        self._match = match
        self._within = within
        self._since = 0

    def __enter__(self) -> Self:
        self._since = len(self._server.errors)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = self._server._elsewhere()
        if not self._take() and error is None and loop is not None:
            asyncio.run_coroutine_threadsafe(self._wait(), loop).result()
        if self.value is None and error is None:
            hint = "" if loop is not None else "; for PUBLISH and SUBSCRIBE use `async with`, which waits for it"
            raise AssertionError(self._missing() + hint)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._take() or error is not None:
            return
        await self._wait()
        if self.value is None:
            raise AssertionError(f"{self._missing()} within {self._within:g} s")

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._within):
                while not self._take():
                    await self._server._next_error()

    def _take(self) -> bool:
        taken = self._server._take(self._since, self._matches)
        if taken:
            self.value = taken[0]
        return bool(taken)

    def _matches(self, error: BaseException) -> bool:
        return isinstance(error, self._kind) and (self._match is None or re.search(self._match, str(error)) is not None)

    def _missing(self) -> str:
        kinds = self._kind if isinstance(self._kind, tuple) else (self._kind,)
        expected = " or ".join(kind.__name__ for kind in kinds)
        matching = f" matching {self._match!r}" if self._match is not None else ""
        others = ", ".join(repr(error) for error in self._server.errors[self._since :])
        return f"no handler raised {expected}{matching}" + (f", but {others}" if others else "")


class TestLoop:
    """The event loop of an async test, between whose runs the fixtures do their work.

    Args:
        loop: The loop, which must stay open for as long as this is used.
    """

    __test__ = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises, run to its end in the loop; from its own thread only between runs."""
        if _running_loop() is self.loop:
            work.close()
            raise RuntimeError("this blocks the test's event loop: in an async test use wamp_client or wamp_connect")
        if self.loop.is_running():
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        return self.loop.run_until_complete(work)


class LoopThread:
    """A thread with an event loop for a sync test, from `with` to its end."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="wampkit-test-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises, run to its end in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _serve(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()


def describe(errors: Iterable[BaseException]) -> str:
    """The exceptions of handlers, each with its traceback from where the user's own code begins."""
    return "\n".join(_format(error).rstrip() for error in errors)


_MACHINERY = (PACKAGE, folder_of(asyncio), folder_of(concurrent.futures))


def _format(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error)
    for begin, frame in enumerate(shown.stack):
        if not frame.filename.startswith(_MACHINERY):
            shown.stack = traceback.StackSummary.from_list(shown.stack[begin:])
            break
    return "".join(shown.format())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _settled(client: Client) -> None:
    # The server answers this call of its own once it has handled the client's earlier topic messages.
    with contextlib.suppress(ClientError, TimeoutError):
        await client.call(SUBSCRIPTION, f"{RESERVED}settled", timeout=PATIENCE)
