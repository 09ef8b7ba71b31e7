"""`HandshakeHandler`: from the HTTP request through the gates to a connection, which is served until it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import HttpVersion11, web

from ..access.addresses import AllowAddresses, BlockAddresses
from ..access.proxies import Peer, PeerResolver, peer_address
from ..concurrency.cancellation import must_propagate
from ..connection.reader import can_read_directly, open_socket
from ..connection.server_connection import ServerConnection
from ..connection.sockets import Socket, abort, is_handshake
from ..dispatch.compiler import known_names
from ..dispatch.middleware import Refused, split_middlewares, unavailable
from ..errors import WampError, quote
from ..networks import describe_address
from ..protocol.v1 import SUBPROTOCOL, WampV1
from ..protocol.websocket import CloseCode
from ..telemetry.logs import KIND, LogThrottle, PeerLog, logger_of
from .handshake_limits import ClientDisconnected, ConnectionLimiter, PendingHandshakes
from .runtime import Runtime
from .settings import Settings

__all__ = ["HandshakeHandler"]

logger: logging.Logger = logger_of("wampkit.access")

_BODY_HEADERS = ("Content-Type", "Content-Length", "Server", "Connection")

CLIENT_CLOSED_REQUEST = 499
"""The status, as nginx writes it into its access log, for a client that disconnected before its answer."""

OFFER = "Sec-WebSocket-Protocol"


class HandshakeHandler:
    """aiohttp handler of the WebSocket endpoint: runs the gates, upgrades, serves the connection until it closes.

    Args:
        runtime: The running app.
        middlewares: Used in place of the app's, for a dry run. Their `connect` methods are the gates.
    """

    def __init__(self, runtime: Runtime, middlewares: Iterable[Any] | None = None) -> None:
        settings = runtime.settings
        middlewares = runtime.middlewares if middlewares is None else tuple(middlewares)
        self._runtime = runtime
        self._settings = settings
        self._gates = tuple(split_middlewares(middlewares, "App", gates=True)[0])
        self._known = known_names(runtime.procedures, runtime.topics, settings.prefixes)
        self._log = PeerLog(runtime.context.throttle, "handshakes", None, logger)
        self._direct = can_read_directly()
        by_address = any(isinstance(each, AllowAddresses | BlockAddresses) for each in middlewares)
        self._peers = PeerResolver(settings.trusted_proxies, self._log if by_address else None)
        self._page = None if runtime.monitor is None else runtime.monitor.page
        self._pending = PendingHandshakes()
        self._limiter = ConnectionLimiter(settings.limits.connections, settings.limits.connections_per_address)

    def close(self) -> None:
        """Stop the timer, and write the log lines that were counted and not written."""
        self._pending.close()
        self._runtime.context.throttle.close()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Serve one handshake and, if it is accepted, the connection until it closes.

        A connection lives in this one coroutine: each further one around it would cost memory while it is idle.
        """
        try:
            peer = self._peers.resolve(request)
        except web.HTTPException as refusal:
            return self._refuse(peer_address(request), refusal)
        address = peer.address
        if self._page is not None and not is_handshake(request):
            return await self._serve_page(request, peer, self._page)
        try:
            self._limiter.acquire(address)
        except web.HTTPException as refusal:
            return self._refuse(address, refusal)
        try:
            connection, socket = await self._accept(request, peer)
        except BaseException as error:
            self._limiter.release(address)
            if isinstance(error, web.HTTPException):
                return self._refuse(address, error)
            if isinstance(error, ClientDisconnected):
                return _abort(request)
            raise
        transport = request.transport
        if transport is None or connection.closed:
            # Closed before its WELCOME, so that no hook runs.
            self._limiter.release(address)
            if transport is not None:
                abort(transport)
            connection.end()
            connection.forget()
            return socket
        try:
            await self._welcome(connection, socket, transport)
            await connection.serve(socket, self._runtime.dispatcher)
        finally:
            self._limiter.release(address)
            connection.end()
            await self._runtime.disconnect(connection)
        return socket

    async def _accept(self, request: web.Request, peer: Peer) -> tuple[ServerConnection, Socket]:
        """Check a handshake, run the gates and answer it.

        Raises:
            aiohttp.web.HTTPException: It is refused.
            ClientDisconnected: The client disconnected meanwhile.
        """
        _check_handshake(request, self._settings)
        connection = self._make_connection(request, peer)
        with (
            self._runtime.connections.arrival(connection),
            self._pending.wait(request, self._settings.limits.handshake_timeout),
        ):
            await self._run_gates(connection)
            return connection, await self._upgrade(request)

    async def admit(self, request: web.Request) -> ServerConnection:
        """Check a handshake and run the gates, without accepting it.

        Raises:
            aiohttp.web.HTTPException: It is refused.
        """
        _check_handshake(request, self._settings)
        connection = self._make_connection(request, self._peers.resolve(request))
        await self._run_gates(connection)
        return connection

    async def _serve_page(
        self, request: web.Request, peer: Peer, page: Callable[[web.Request], web.Response]
    ) -> web.Response:
        """Answer with the console's page if the gates would let it connect."""
        try:
            with self._pending.wait(request, self._settings.limits.handshake_timeout):
                await self._run_gates(self._make_connection(_with_page_origin(request, peer), peer))
        except web.HTTPException as refusal:
            return self._refuse(peer.address, refusal)
        except ClientDisconnected:
            return _abort(request)
        response = page(request)
        response.headers["Server"] = self._settings.ident
        return response

    def _make_connection(self, request: web.Request, peer: Peer) -> ServerConnection:
        self._check_draining()
        protocol = WampV1(
            "server",
            prefixes=self._settings.prefixes,
            ident=self._settings.ident,
            known=self._known,
            limits=self._settings.limits,
        )
        return ServerConnection(request, protocol, self._runtime.context, peer.address, peer.secure)

    async def _run_gates(self, connection: ServerConnection) -> None:
        """Run the gates, one after the other."""
        try:
            for gate in self._gates:
                await gate(connection)
        except web.HTTPException:
            raise
        except WampError as refusal:
            # A lone surrogate in the text must not become an error of its own.
            text = refusal.description.encode("utf-8", "replace").decode()
            raise web.HTTPForbidden(text=text or None) from None
        except BaseException as error:
            if must_propagate(error):
                raise
            if connection.request.transport is None:
                raise ClientDisconnected from None
            self._log.add(("gate", type(error)), "a middleware failed in its connect", level=logging.ERROR, error=error)
            await self._runtime.hooks.failed(error, connection)
            raise web.HTTPInternalServerError from None
        self._check_draining()
        if connection.closed:
            raise Refused(connection.close_reason or "this connection was closed", "closed while it was arriving")

    def _check_draining(self) -> None:
        if self._runtime.draining:
            raise unavailable("the server is restarting")

    def _refuse(self, remote: str | None, refusal: web.HTTPException) -> web.Response:
        self._runtime.counters.refused += 1
        _log_refusal(self._runtime.context.throttle, remote, refusal)
        response = web.Response(status=refusal.status, text=f"{refusal.text}\n")
        for key, value in refusal.headers.items():
            if key not in _BODY_HEADERS:
                response.headers.add(key, value)
        response.headers["Server"] = self._settings.ident
        # What a refused client sent after its handshake must not be read as a request.
        response.force_close()
        return response

    async def _upgrade(self, request: web.Request) -> Socket:
        # aiohttp refuses what reaches its limit.
        most = self._settings.limits.message_size + 1
        socket = open_socket(
            self._direct, protocols=(SUBPROTOCOL,), max_msg_size=most, compress=self._settings.compression
        )
        # aiohttp would tell its own version and Python's.
        socket.headers["Server"] = self._settings.ident
        try:
            await socket.prepare(_with_one_offer(request))
        except ConnectionError:
            raise ClientDisconnected from None
        except (web.HTTPBadRequest, ValueError):
            # aiohttp's text repeats what the client sent, and a ValueError is what it raises for bytes beyond ASCII.
            raise web.HTTPBadRequest(text="this is no valid WebSocket handshake") from None
        return socket

    async def _welcome(self, connection: ServerConnection, socket: Socket, transport: asyncio.Transport) -> None:
        """Send WELCOME and run the connect hooks; what they raise closes the connection."""
        runtime = self._runtime
        connection.open(transport, socket.pending_response, window=int(socket.compress))
        runtime.connections.add(connection)
        runtime.counters.connections += 1
        if runtime.hooks.has_connect:
            await self._run_connect_hooks(connection)
        if runtime.settings.keepalive is not None:
            connection.start_keepalive(runtime.settings.keepalive)
        if runtime.authenticator is not None:
            runtime.authenticator.start_deadline(connection)

    async def _run_connect_hooks(self, connection: ServerConnection) -> None:
        hooks = self._runtime.hooks
        try:
            with self._runtime.cancel_on_stop(), self._pending.wait(connection.request):
                await hooks.connected(connection)
        except ClientDisconnected:
            pass  # its reader finds the end
        except WampError as refusal:
            connection.close(CloseCode.POLICY_VIOLATION, refusal.description)
        except BaseException as error:
            if must_propagate(error):
                raise
            connection.log.add("on_connect", "on_connect failed", level=logging.ERROR, error=error)
            await hooks.failed(error, connection)
            connection.close(CloseCode.INTERNAL_ERROR, "the server failed to set up this connection")


def _abort(request: web.Request) -> web.Response:
    """Cut the connection of a client that disconnected. aiohttp needs a response, which is never sent."""
    if request.transport is not None:
        request.transport.abort()
    response = web.Response(status=CLIENT_CLOSED_REQUEST)
    response.force_close()
    return response


def _with_page_origin(request: web.Request, peer: Peer) -> web.Request:
    """A page's request with the Origin that a browser adds to the handshake from that page."""
    headers = request.headers.copy()
    headers.setdefault("Origin", f"{'https' if peer.secure else 'http'}://{request.host}")
    return request.clone(headers=headers)


def _offer(request: web.Request) -> str | None:
    """The subprotocols that a handshake offers, joined if they came in several headers; None without any."""
    offers = request.headers.getall(OFFER, None)
    return None if offers is None else ", ".join(offers)


def _with_one_offer(request: web.Request) -> web.Request:
    """The request with its offers in one header: aiohttp reads only the first."""
    if len(request.headers.getall(OFFER, [])) < 2:
        return request
    headers = request.headers.copy()
    headers[OFFER] = _offer(request) or ""
    return request.clone(headers=headers)


def _check_handshake(request: web.Request, settings: Settings) -> None:
    """Refuse what is no WebSocket handshake for WAMP v1; aiohttp would accept a foreign subprotocol."""
    if not is_handshake(request):
        raise web.HTTPUpgradeRequired(
            text="this is a WAMP v1 WebSocket: connect with a WebSocket client that offers the subprotocol 'wamp'",
            headers={"Upgrade": "websocket"},
        )
    # The request is kept as long as the connection.
    most = settings.limits.handshake_size
    if len(request.raw_path) + sum(len(name) + len(value) for name, value in request.raw_headers) > most:
        raise web.HTTPRequestHeaderFieldsTooLarge(text=f"the URL and headers of this handshake exceed {most} bytes")
    headers = request.headers
    if {version.strip() for version in headers.getall("Sec-WebSocket-Version", ["13"])} != {"13"}:
        raise web.HTTPUpgradeRequired(
            text="this server speaks version 13 of the WebSocket protocol (RFC 6455)",
            headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
        )
    if len(set(headers.getall("Sec-WebSocket-Key", []))) > 1:
        raise web.HTTPBadRequest(text="a WebSocket handshake has one Sec-WebSocket-Key")
    offer = _offer(request)
    if offer is None:
        if settings.require_subprotocol:
            raise web.HTTPBadRequest(text="offer the WebSocket subprotocol 'wamp'")
    elif SUBPROTOCOL not in [name.strip() for name in offer.split(",")]:
        raise web.HTTPBadRequest(text="this server speaks WAMP v1: offer the WebSocket subprotocol 'wamp'")
    if request.version != HttpVersion11:
        raise web.HTTPBadRequest(text="a WebSocket handshake needs HTTP 1.1")


def _log_refusal(throttle: LogThrottle, remote: str | None, refusal: web.HTTPException) -> None:
    """Log at level info that a client was refused, and why; refusals of the same kind are counted."""
    text, why = refusal.text or "", getattr(refusal, "why", "")
    reason = f"{text} ({why})" if why else text
    who = quote(describe_address(remote), 64)
    throttle.add(
        ("refused", refusal.status, text[:KIND]),
        f"refused {who} with HTTP {refusal.status}: {reason}",
        level=logging.INFO,
        logger=logger,
    )
