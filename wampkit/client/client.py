"""A client for any WAMP v1 server: calls, subscriptions, and a connection that is made again when it is lost."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from ..errors import ConnectionLost
from ..protocol import messages
from ..protocol.extensions import PUBLISH
from ..telemetry.logs import logger_of
from .connection import Link, LinkOptions
from .dialer import Dialer, Headers, Login, Secret, Url, delay_of
from .state import State, States
from .subscriptions import Subscription, Subscriptions

__all__ = ["Client", "connect"]

logger = logger_of(__name__)

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
        url: A ws:// or wss:// URL, or a function (async too) that gives a fresh one for each attempt.
        prefixes: Prefix to URI, sent as PREFIX after each connect.
        headers: HTTP headers of the handshake, or a function (async too) that gives fresh ones.
        cookies: Cookies of the handshake, besides those of the session's jar.
        origin: The Origin header.
        authkey: As whom to log in by WAMP-CRA, on each connection before anything else is sent.
        secret: The secret or password of the authkey, or a function (async too) that gives it for each attempt. It
            never leaves this process.
        authextra: What the server is told besides the authkey.
        anonymous: Whether to log in as nobody, where the server requires a login even so.
        session: An aiohttp session to use (its cookie jar, its proxies); it is not closed.
        ssl: A TLS context, or False not to verify the server.
        reconnect: Whether a lost connection is made again. The first one never is: it fails at once.
        backoff: The longest first delay and the longest delay at all, in seconds. A delay is drawn between 0 and
            a bound that doubles with each attempt.
        restart_timeout: Seconds for which calls wait for a wampkit server that restarts, those that it left
            unanswered too; 0 lets them fail at once. It says in its goodbye that these have not run; no other loss
            tells that, and no other server promises it.
        open_timeout: Seconds for the handshake and WELCOME.
        close_timeout: Seconds for the server to answer a close.
        call_timeout: Seconds that a call may take unless it says otherwise; None for ever.
        keepalive: Seconds between pings, or None; a server that does not answer is cut after half of that.
        max_message_size: Bytes of the largest message taken; a larger one ends the connection. As Python objects it may
            take thirty times as much memory.
        max_events: How many events of one subscription wait to be fetched; beyond that the oldest is dropped.
        max_events_size: Bytes of the messages of those, together.
        welcome: Whether the server begins with WELCOME. False is for those that do not, such as the client of League of
            Legends: the connection is open at once, has no session id, and empty messages count as signs of life.
        on_state: Told of each change of state; a plain function, called on the loop.

    Raises:
        TypeError: The parts of the login do not go together.
    """
    if anonymous and authkey is not None:
        raise TypeError("an anonymous login has no authkey; leave out one of the two")
    login = Login(authkey=authkey, secret=secret, authextra=authextra)
    options = LinkOptions(
        origin=origin,
        ssl=ssl,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
        keepalive=keepalive,
        max_message_size=max_message_size,
        welcome=welcome,
    )
    wanted = login if anonymous or authkey is not None else None
    client = Client(Dialer(url, headers, options, session, cookies, wanted), States(on_state))
    client.prefixes.update(prefixes or {})
    client._reconnects, client._backoff = reconnect, backoff
    client._restart_timeout = restart_timeout
    client._call_timeout = call_timeout
    client._bounds = max_events, max_events_size
    return client


class Client:
    """What `connect` makes. Enter it with `async with`, or call `open` and `close`.

    Attributes:
        prefixes: The prefixes that are sent after each connect.
        error: Why the client is closed or reconnecting, or None.
    """

    def __init__(self, dialer: Dialer, states: States) -> None:
        self.prefixes: dict[str, str] = {}
        self.error: ConnectionLost | None = None
        self._dialer = dialer
        self._states = states
        self._reconnects = True
        self._backoff = (0.1, 30.0)
        self._restart_timeout = 30.0
        self._restarted_by = 0.0  # the loop's time until which calls wait for a server that said that it restarts
        self._call_timeout: float | None = None
        self._bounds = (10_000, 16 * 1024 * 1024)
        self._link: Link | None = None
        self._subscriptions = Subscriptions()
        self._supervisor: asyncio.Task[None] | None = None

    # ---- opening and closing

    async def open(self) -> Self:
        """Connect; there is no second attempt, but it may be called again after it failed.

        Raises:
            HandshakeRefused: The server answered with an HTTP error.
            AuthenticationFailed: The server did not let us log in.
            ConnectionLost: There is no server, or none that speaks WAMP v1.
            ValueError: The URL is none.
        """
        if self._supervisor is not None:
            raise RuntimeError("this client has been opened already; make another")
        self.error = None
        self._states.set(State.CONNECTING)
        self._dialer.start()
        try:
            self._link = await self._dial()
        except BaseException as error:
            await self._finish(error if isinstance(error, ConnectionLost) else None)
            raise
        self._states.set(State.OPEN)
        self._supervisor = asyncio.create_task(self._supervise(self._link))
        return self

    async def close(self) -> None:
        """Close for good; subscriptions end. Bounded by the close timeout."""
        try:
            if self._supervisor is not None:
                self._supervisor.cancel()
                await asyncio.wait({self._supervisor})
            if self._link is not None:
                await self._link.close()
        finally:
            await self._finish(self.error)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _finish(self, reason: ConnectionLost | None) -> None:
        if self._link is not None:
            self._link.cut("the client is closed")
            self._link = None
        self.error = reason
        self._subscriptions.end(reason or ConnectionLost("the client is closed"))
        await self._dialer.close()
        self._states.set(State.CLOSED)

    # ---- using it

    async def call(self, uri: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a procedure.

        Args:
            uri: A URI or CURIE.
            args: Anything JSON can carry.
            timeout: Seconds to wait for the answer; None for the client's `call_timeout`.

        Raises:
            CallError: The server answered with an error.
            TimeoutError: No answer came in time; the call may run on.
            ConnectionLost: The connection was lost meanwhile, or is not there; what was called may have run. A
                wampkit server that restarts is waited for, and the call made again if it had no answer; see
                `connect`'s `restart_timeout`.
        """
        return await self._answer(uri, lambda link: link.call(uri, *args), timeout)

    async def _answer(self, uri: str, ask: Callable[[Link], Awaitable[T]], timeout: float | None) -> T:
        """What `ask` gives, on this connection or, if the server restarts without having answered, on the next."""
        timeout = self._call_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self.state is State.RECONNECTING:
                        await self._restarted()
                    link = self._open_link()
                    try:
                        return await ask(link)
                    except ConnectionLost:
                        if not self._waits_for(link):
                            raise
                    while self._link is link:
                        await self._states.change()
        except TimeoutError:
            raise TimeoutError(f"{uri}: no answer within {timeout:g} s") from None

    def _waits_for(self, link: Link) -> bool:
        """Whether calls wait for the server of a lost link to come back: they have not run."""
        return link.restarts and self._restart_timeout > 0 and self._reconnects

    async def _restarted(self) -> None:
        """Wait for a server that said that it restarts, as long as is allowed."""
        try:
            async with asyncio.timeout_at(self._restarted_by):
                while self.state is State.RECONNECTING:
                    await self._states.change()
        except TimeoutError:
            # `_open_link` says what became of the connection.
            pass

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
        """Publish an event; WAMP v1 itself tells neither whether it was taken nor whether anybody received it.

        Args:
            topic: A URI or CURIE.
            event: Anything JSON can carry.
            exclude_me: Whether this client is left out; None leaves it to the server, or to `exclude` if given.
            exclude: Session ids that shall not receive it.
            eligible: The only session ids that may receive it.
            confirm: Whether to wait until a wampkit server has taken it, and raise its refusal. To other servers it is
                sent all the same, and nothing is learned.
            timeout: Seconds to wait for that; None for the client's `call_timeout`.

        Returns:
            Whether the server has confirmed it: always False without `confirm` and where the server is not wampkit. The
            app may have dropped what it confirms; only a refusal or a failure is raised.

        Raises:
            CallError: The server refused it, or failed; only with `confirm`.
            TimeoutError: No confirmation came in time; only with `confirm`.
            ConnectionLost: There is no connection. With `confirm` also: it was lost before the answer, as with `call`.
        """
        excluded, only = _session_ids(exclude), _session_ids(eligible)

        async def send(link: Link) -> bool:
            session, left_out = link.protocol.session_id, excluded
            if left_out is not None and exclude_me and session not in left_out:
                # A list takes the place of `excludeMe` on the wire.
                left_out = [*left_out, session]
            message = messages.Publish(topic, event, exclude_me, left_out, only)
            if confirm and link.is_wampkit:
                await link.call(PUBLISH, *messages.publish_elements(message)[1:])
                return True
            await link.send(messages.encode(message))
            return False

        return await (self._answer(topic, send, timeout) if confirm else send(self._open_link()))

    def subscribe(self, topic: str) -> Subscription:
        """The events of a topic; enter it with `async with`. Several to one topic share it on the wire."""
        return Subscription(self._subscriptions, self._open_link, topic, *self._bounds)

    async def set_prefix(self, prefix: str, uri: str) -> None:
        """Let `prefix:` stand for `uri`, now and after each reconnect. Raises ConnectionLost."""
        link = self._open_link()
        self.prefixes[prefix] = uri
        await link.send(link.protocol.prefix(prefix, uri))

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._states.now

    @property
    def session_id(self) -> str:
        """The session id of the present connection, or "" when there is none."""
        return self._link.protocol.session_id if self._link is not None else ""

    @property
    def server_ident(self) -> str:
        """What the server calls itself."""
        return self._link.protocol.server_ident if self._link is not None else ""

    @property
    def permissions(self) -> Any:
        """What the server said at the login that this client may do, `{"rpc": [...], "pubsub": [...]}`; else None."""
        return self._link.permissions if self._link is not None else None

    async def wait_for(self, state: State, timeout: float | None = None) -> None:
        """Wait until the client is in a state.

        Raises:
            TimeoutError: It was not in time.
            ConnectionLost: It never will be, for the client is closed.
        """
        async with asyncio.timeout(timeout):
            while self.state is not state:
                if self.state is State.CLOSED:
                    self._open_link()
                await self._states.change()

    def __repr__(self) -> str:
        return f"<Client {self.state}, session {self.session_id or 'none'}>"

    def _open_link(self) -> Link:
        if self._link is None or self.state is not State.OPEN:
            why = f": {self.error.reason}" if self.error is not None else ""
            raise ConnectionLost(
                f"the client is {self.state}{why}", self.error.code if self.error is not None else None
            )
        return self._link

    # ---- connecting

    async def _dial(self) -> Link:
        """One attempt: a link with prefixes and subscriptions in place."""
        link = await self._dialer.dial(self._subscriptions.deliver)
        try:
            for prefix, uri in list(self.prefixes.items()):
                await link.send(link.protocol.prefix(prefix, uri))
            await self._subscriptions.restore(link)
        except BaseException:
            link.cut("the subscriptions could not be put back")
            await link.ended()
            raise
        return link

    async def _supervise(self, link: Link) -> None:
        """Wait for the connection to be lost, and make it again."""
        while True:
            await asyncio.wait({link.lost})
            if self._waits_for(link):
                self._restarted_by = asyncio.get_running_loop().time() + self._restart_timeout
            self._link = None
            self.error = link.lost.result()
            if not self._reconnects or self._dialer.is_final(self.error):
                break
            self._states.set(State.RECONNECTING)
            await link.ended()
            again = await self._redial()
            if again is None:
                break
            self._link = link = again
            self._restarted_by = 0.0
            self.error = None
            self._states.set(State.OPEN)
        await self._finish(self.error)

    async def _redial(self) -> Link | None:
        """A new link, after as many attempts as it takes; None if the server refuses for good."""
        attempt = 0
        while True:
            await asyncio.sleep(delay_of(attempt, self._backoff))
            attempt += 1
            try:
                return await self._dial()
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
