"""A client for any WAMP v1 server: calls, subscriptions, and a connection that is replaced when it is lost."""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from ..errors import ConnectionLost
from ..protocol import messages
from ..telemetry.logs import logger_of
from .connection import ClientConnection
from .dialer import Dialer, reconnect_delay
from .event_queue import EventQueue
from .options import ClientOptions, Headers, Login, Secret, Url
from .state import State, StateNotifier
from .subscriptions import Subscription, Subscriptions

__all__ = ["Client", "connect"]

logger: logging.Logger = logger_of(__name__)

T = TypeVar("T")


def connect(
    url: Url,
    *,
    prefixes: Mapping[str, str] | None = None,
    headers: Headers | None = None,
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    authkey: str | None = None,
    secret: Secret | None = None,
    authextra: Mapping[str, Any] | None = None,
    anonymous: bool = False,
    session: aiohttp.ClientSession | None = None,
    ssl: tls.SSLContext | bool = True,
    reconnect: bool = True,
    backoff: tuple[float, float] = (0.1, 30.0),
    restart_timeout: float = 30.0,
    open_timeout: float = 10.0,
    close_timeout: float = 1.0,
    call_timeout: float | None = None,
    keepalive: float | None = 25.0,
    max_message_size: int = 4 * 1024 * 1024,
    max_events: int = 10_000,
    max_events_size: int = 16 * 1024 * 1024,
    welcome: bool = True,
    on_state: Callable[[State], object] | None = None,
) -> Client:
    """A client of a WAMP v1 server: `async with connect("ws://127.0.0.1:8080/ws") as client`.

    Args:
        url: A ws:// or wss:// URL, or a function (async too) that returns one for each attempt.
        prefixes: Prefix to URI, sent as PREFIX after each connect.
        headers: HTTP headers of the handshake, or a function (async too) that returns them for each attempt.
        cookies: Cookies of the handshake, besides those of the session's jar.
        origin: The Origin header.
        authkey: The authkey of the WAMP-CRA login, which each connection begins with.
        secret: The secret or password of the authkey, or a function (async too) that returns it for each attempt. It
            is never sent.
        authextra: A JSON object that the server receives with the authkey.
        anonymous: Whether to log in without an authkey, for servers that require a login of every client.
        session: An aiohttp session to use (its cookie jar, its proxies); it is not closed.
        ssl: A TLS context, or False not to verify the server.
        reconnect: Whether a lost connection is replaced. The first attempt is not repeated: it fails at once.
        backoff: The bound of the first delay and of all delays, in seconds. A delay is random between 0 and a bound
            that doubles with each attempt.
        restart_timeout: Seconds for which calls wait for a wampkit server that restarts, those that it left
            unanswered too; 0 lets them fail at once. Its close frame says that these have not run; no other loss
            of the connection tells that, and no other server promises it.
        open_timeout: Seconds for the handshake and WELCOME.
        close_timeout: Seconds for the server to answer a close.
        call_timeout: Seconds for the answer to a call that gives no timeout of its own; None for no bound.
        keepalive: Seconds between pings, or None; the connection is cut if a ping is not answered in 0.4 of that.
        max_message_size: Bytes of the largest message taken; a larger one ends the connection. As Python objects it may
            take thirty times as much memory.
        max_events: How many events of one subscription wait to be fetched; beyond that the oldest is dropped.
        max_events_size: Bytes of the messages of those, together.
        welcome: Whether the server begins with WELCOME. False is for those that do not, such as the client of League of
            Legends: the connection is open at once, has no session id, and empty messages count as signs of life.
        on_state: A plain function, called on the loop with each new state.

    Raises:
        TypeError: The parts of the login do not go together.
    """
    if anonymous and authkey is not None:
        raise TypeError("an anonymous login has no authkey; leave out one of the two")
    login = Login(authkey=authkey, secret=secret, authextra=authextra)
    options = ClientOptions(
        url=url,
        headers=headers,
        cookies=cookies,
        origin=origin,
        login=login if anonymous or authkey is not None else None,
        session=session,
        ssl=ssl,
        reconnect=reconnect,
        backoff=backoff,
        restart_timeout=restart_timeout,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
        call_timeout=call_timeout,
        keepalive=keepalive,
        max_message_size=max_message_size,
        max_events=max_events,
        max_events_size=max_events_size,
        welcome=welcome,
    )
    return Client(options, dict(prefixes or {}), on_state)


class Client:
    """A client, made by `connect`. Enter it with `async with`, or call `open` and `close`.

    Attributes:
        prefixes: The prefixes that are sent after each connect.
        error: Why the client is closed or reconnecting, or None.
    """

    def __init__(
        self, options: ClientOptions, prefixes: dict[str, str], on_state: Callable[[State], object] | None
    ) -> None:
        self.prefixes = prefixes
        self.error: ConnectionLost | None = None
        self._options = options
        self._notifier = StateNotifier(on_state)
        self._dialer = Dialer(options)
        self._subscriptions = Subscriptions()
        self._connection: ClientConnection | None = None
        self._restart_deadline = 0.0  # the loop's time until which calls wait for a server that restarts
        self._supervisor: asyncio.Task[None] | None = None

    # ---- opening and closing

    async def open(self) -> Self:
        """Connect. There is no second attempt, but after a failure it may be called again.

        Raises:
            HandshakeRefused: The server answered with an HTTP error.
            AuthenticationFailed: The server refused the login.
            ConnectionLost: There is no server, or it does not speak WAMP v1.
            ValueError: The URL is no WebSocket URL.
        """
        if self._supervisor is not None:
            raise RuntimeError("this client has been opened already; make another")
        self.error = None
        self._notifier.set(State.CONNECTING)
        try:
            self._connection = await self._connect()
        except BaseException as error:
            await self._finish(error if isinstance(error, ConnectionLost) else None)
            raise
        self._notifier.set(State.OPEN)
        self._supervisor = asyncio.create_task(self._supervise(self._connection))
        return self

    async def close(self) -> None:
        """Close the client, within the close timeout, and end its subscriptions; it cannot be opened again."""
        try:
            if self._supervisor is not None:
                self._supervisor.cancel()
                await asyncio.wait({self._supervisor})
            if self._connection is not None:
                await self._connection.close()
        finally:
            await self._finish(self.error)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _finish(self, reason: ConnectionLost | None) -> None:
        if self._connection is not None:
            self._connection.abort("the client is closed")
            self._connection = None
        self.error = reason
        self._subscriptions.close(reason or ConnectionLost("the client is closed"))
        await self._dialer.close()
        self._notifier.set(State.CLOSED)

    # ---- calls and topics

    async def call(self, uri: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a procedure.

        Args:
            uri: A URI or CURIE.
            args: Its arguments, any values that JSON can carry.
            timeout: Seconds to wait for the answer; None for the client's `call_timeout`.

        Raises:
            CallError: The server answered with an error.
            TimeoutError: No answer came in time; the procedure may still be running.
            ConnectionLost: There is no connection, or it was lost before the answer; the procedure may have run.
                Where a wampkit server restarts, the call waits and is made again; see `connect`'s `restart_timeout`.
        """
        return await self._request(uri, lambda connection: connection.call(uri, *args), timeout)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        exclude_me: bool | None = None,
        exclude: Iterable[str] | None = None,
        eligible: Iterable[str] | None = None,
        confirm: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Publish an event. WAMP v1 itself confirms neither that it was accepted nor that a client received it.

        Args:
            topic: A URI or CURIE.
            event: Any value that JSON can carry.
            exclude_me: Whether this client is left out; None leaves it to the server, or to `exclude` if given.
            exclude: Session ids that shall not receive it.
            eligible: The only session ids that may receive it.
            confirm: Whether to wait until a wampkit server has taken it, and raise its refusal. Other servers receive
                it without a confirmation.
            timeout: Seconds to wait for that; None for the client's `call_timeout`.

        Returns:
            Whether the server has confirmed it: always False without `confirm` and where the server is not wampkit. The
            app may have dropped what it confirms; only a refusal or a failure is raised.

        Raises:
            CallError: The server refused it, or failed; only with `confirm`.
            TimeoutError: No confirmation came in time; only with `confirm`.
            ConnectionLost: There is no connection. With `confirm` also: it was lost before the answer, as with `call`.
        """
        message = messages.Publish(topic, event, exclude_me, _session_ids(exclude), _session_ids(eligible))
        if not confirm:
            return await self._open_connection().publish(message, confirm=False)
        return await self._request(topic, lambda connection: connection.publish(message, confirm=True), timeout)

    def subscribe(self, topic: str) -> Subscription:
        """A subscription to a topic, to enter with `async with`. Several to one topic share it on the wire."""
        queue = EventQueue(topic, self._options.max_events, self._options.max_events_size)
        return Subscription(self._subscriptions, self._open_connection, topic, queue)

    async def set_prefix(self, prefix: str, uri: str) -> None:
        """Define or redefine `prefix:` as `uri`, now and after each reconnect. Raises ConnectionLost."""
        connection = self._open_connection()
        self.prefixes[prefix] = uri
        await connection.send(connection.protocol.prefix(prefix, uri))

    # ---- what it is connected to

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._notifier.state

    @property
    def session_id(self) -> str:
        """The session id of the present connection, or "" when there is none."""
        return self._connection.protocol.session_id if self._connection is not None else ""

    @property
    def server_ident(self) -> str:
        """The server's name and version, from WELCOME, or "" when there is no connection."""
        return self._connection.protocol.server_ident if self._connection is not None else ""

    @property
    def permissions(self) -> Any:
        """The permissions that the server granted at the login, `{"rpc": [...], "pubsub": [...]}`; else None."""
        return self._connection.permissions if self._connection is not None else None

    async def wait_for(self, state: State, timeout: float | None = None) -> None:
        """Wait until the client is in a state.

        Raises:
            TimeoutError: It was not in time.
            ConnectionLost: The client is closed, so it never will be.
        """
        async with asyncio.timeout(timeout):
            while self.state is not state:
                if self.state is State.CLOSED:
                    self._open_connection()
                await self._notifier.changed()

    def __repr__(self) -> str:
        return f"<Client {self.state}, session {self.session_id or 'none'}>"

    # ---- requests, and the restart of a wampkit server

    def _open_connection(self) -> ClientConnection:
        """The connection. Raises ConnectionLost where there is none at present."""
        if self._connection is None or self.state is not State.OPEN:
            why = f": {self.error.reason}" if self.error is not None else ""
            raise ConnectionLost(
                f"the client is {self.state}{why}", self.error.code if self.error is not None else None
            )
        return self._connection

    async def _request(self, uri: str, send: Callable[[ClientConnection], Awaitable[T]], timeout: float | None) -> T:
        """The result of `send`, on this connection or, if the server restarts before it answered, on the next."""
        timeout = self._options.call_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self.state is State.RECONNECTING:
                        await self._wait_for_restart()
                    connection = self._open_connection()
                    try:
                        return await send(connection)
                    except ConnectionLost:
                        if not self._repeats_calls(connection):
                            raise
                    while self._connection is connection:
                        await self._notifier.changed()
        except TimeoutError:
            raise TimeoutError(f"{uri}: no answer within {timeout:g} s") from None

    def _repeats_calls(self, lost: ClientConnection) -> bool:
        """Whether the unanswered calls of a lost connection are made again on the next: they have not run."""
        return lost.server_restarts and self._options.restart_timeout > 0 and self._options.reconnect

    async def _wait_for_restart(self) -> None:
        """Wait until a server that said that it restarts is back, at most for `restart_timeout`."""
        try:
            async with asyncio.timeout_at(self._restart_deadline):
                while self.state is State.RECONNECTING:
                    await self._notifier.changed()
        except TimeoutError:
            pass  # `_open_connection` raises the reason

    # ---- connecting and reconnecting

    async def _connect(self) -> ClientConnection:
        """Make one attempt: a connection on which prefixes have been sent and subscriptions restored."""
        connection = await self._dialer.dial(self._subscriptions.deliver)
        try:
            for prefix, uri in list(self.prefixes.items()):
                await connection.send(connection.protocol.prefix(prefix, uri))
            await self._subscriptions.restore(connection)
        except BaseException:
            await connection.discard("the subscriptions could not be put back")
            raise
        return connection

    async def _supervise(self, connection: ClientConnection) -> None:
        """Wait until the connection is lost, and replace it, until the client closes or the loss is final."""
        while True:
            await asyncio.wait({connection.lost})
            if self._repeats_calls(connection):
                self._restart_deadline = asyncio.get_running_loop().time() + self._options.restart_timeout
            self._connection = None
            self.error = connection.lost.result()
            if not self._options.reconnect or self._dialer.is_final(self.error):
                break
            self._notifier.set(State.RECONNECTING)
            await connection.wait_closed()
            replacement = await self._reconnect()
            if replacement is None:
                break
            self._connection = connection = replacement
            self._restart_deadline = 0.0
            self.error = None
            self._notifier.set(State.OPEN)
        await self._finish(self.error)

    async def _reconnect(self) -> ClientConnection | None:
        """Try until there is a connection; None if the server refuses and another attempt would not help."""
        attempt = 0
        while True:
            await asyncio.sleep(reconnect_delay(attempt, self._options.backoff))
            attempt += 1
            try:
                return await self._connect()
            except ConnectionLost as error:
                self.error = error
                if self._dialer.is_final(error):
                    return None
            except Exception as error:
                # The app's own function for the URL, the headers or the secret failed; another attempt may do better.
                logger.warning("a reconnect attempt failed: %s: %s", type(error).__name__, error)
                self.error = ConnectionLost(f"{type(error).__name__}: {error}")


def _session_ids(ids: Iterable[str] | None) -> list[str] | None:
    if isinstance(ids, str):
        raise TypeError(f"expected a list of session ids, got the text {ids!r}")
    return None if ids is None else list(ids)
