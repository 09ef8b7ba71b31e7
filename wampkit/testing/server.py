"""A real server on a loopback port, its clients, and the unexpected errors of its handlers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import traceback
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web

from ..app import App, lifecycle_of
from ..client.client import Client, connect
from ..client.options import Headers
from ..client.state import State
from ..client.subscriptions import Subscription
from ..connection.connection import Connection
from ..errors import ClientError
from ..protocol.extensions import RESERVED, SUBSCRIPTION
from ..telemetry.source_files import PACKAGE, folder_of
from .loops import running_loop

__all__ = ["Connect", "ExpectedError", "Rpc", "WampServer", "drop", "format_errors", "no_event"]

ErrorKind = type[BaseException] | tuple[type[BaseException], ...]

TIMEOUT = 1.0
"""Seconds for what usually takes a moment: to handle a message, to end a connection."""


async def no_event(subscription: Subscription, within: float) -> None:
    """Wait `within` seconds and check that no event of a subscription comes.

    Raises:
        AssertionError: One came; it is shown.
    """
    try:
        event = await subscription.get(within)
    except TimeoutError:
        return
    raise AssertionError(f"expected no event on {subscription.topic!r}, got {event!r}")


async def drop(client: Client) -> None:
    """Cut a client's connection without a closing handshake, as a lost network does; it then reconnects, if it may."""
    connection = client._connection
    if connection is not None:
        connection.abort("the test cut the connection")
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
        url: The URL to connect to, such as `ws://127.0.0.1:40123/ws`; set by `start`.
        errors: The unexpected exceptions of handlers and hooks, oldest first. With the fixture `wamp_server`, one
            that is left in this list fails the test.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.url: str = ""
        self.errors: list[BaseException] = []
        self._clients: list[Client] = []
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error_came = asyncio.Event()

    async def start(self) -> None:
        """Start the app in the running event loop and listen.

        Raises:
            DeclarationError: A declaration of the app cannot work.
            RuntimeError: The app is running already.
        """
        self._loop = asyncio.get_running_loop()
        site = web.Application()
        self.app.setup(site, drain=TIMEOUT)
        self._runner = web.AppRunner(site, access_log=None, shutdown_timeout=TIMEOUT)
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
        """Close the clients and stop the app; other connections are cut."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is None:
            return
        try:
            runtime = lifecycle_of(self.app).runtime
            if runtime is not None:
                await runtime.wait_closed(TIMEOUT)  # so that it need not drain what its clients left behind
            await runner.cleanup()
        finally:
            lifecycle_of(self.app).hooks.remove_error_hook(self._record)

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
        """Wait, at most a second, until the server has handled what its clients published and subscribed."""
        await asyncio.gather(*(_settled(client) for client in self._clients if client.state is State.OPEN))

    async def _record(self, error: BaseException, _: Connection | None) -> None:
        self.errors.append(error)
        self._error_came.set()

    def expect_error(self, kind: ErrorKind, *, match: str | None = None, within: float = TIMEOUT) -> ExpectedError:
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

    def _foreign_loop(self) -> asyncio.AbstractEventLoop | None:
        """The server's loop if it runs in another thread, which this one may wait for; else None."""
        loop = self._loop
        return loop if loop is not None and loop.is_running() and running_loop() is not loop else None


class ExpectedError:
    """The context manager of `WampServer.expect_error`, for `with` and for `async with`.

    Attributes:
        value: The exception, after the block; None if the block itself raised one and no handler failed.
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
        loop = self._server._foreign_loop()
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
                    self._server._error_came.clear()
                    await self._server._error_came.wait()

    def _take(self) -> bool:
        """Remove the errors that are expected from the server's list; whether there is any."""
        new = self._server.errors[self._since :]
        expected = [error for error in new if self._matches(error)]
        self._server.errors[self._since :] = [error for error in new if error not in expected]
        self.value = expected[0] if expected else None
        return bool(expected)

    def _matches(self, error: BaseException) -> bool:
        return isinstance(error, self._kind) and (self._match is None or re.search(self._match, str(error)) is not None)

    def _missing(self) -> str:
        kinds = self._kind if isinstance(self._kind, tuple) else (self._kind,)
        expected = " or ".join(kind.__name__ for kind in kinds)
        matching = f" matching {self._match!r}" if self._match is not None else ""
        others = ", ".join(repr(error) for error in self._server.errors[self._since :])
        return f"no handler raised {expected}{matching}" + (f", but {others}" if others else "")


def format_errors(errors: Iterable[BaseException]) -> str:
    """The tracebacks of exceptions, each from the first frame of the user's own code."""
    return "\n".join(_format(error).rstrip() for error in errors)


_MACHINERY = (PACKAGE, folder_of(asyncio), folder_of(concurrent.futures))


def _format(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error)
    for begin, frame in enumerate(shown.stack):
        if not frame.filename.startswith(_MACHINERY):
            shown.stack = traceback.StackSummary.from_list(shown.stack[begin:])
            break
    return "".join(shown.format())


async def _settled(client: Client) -> None:
    # The server answers this call of its own once it has handled the client's earlier topic messages.
    with contextlib.suppress(ClientError, TimeoutError):
        await client.call(SUBSCRIPTION, f"{RESERVED}settled", timeout=TIMEOUT)
