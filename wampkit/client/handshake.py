"""The WebSocket handshake of a client: redirects are refused, and each failure becomes one clear error."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

from ..errors import ConnectionLost, HandshakeRefused, quote
from ..protocol.v1 import SUBPROTOCOL
from .options import ClientOptions

__all__ = ["WebSocket", "open_websocket", "without_secrets"]

WebSocket = aiohttp.ClientWebSocketResponse[Literal[False]]

_ELSEWHERE = "another path"


class _RedirectedError(Exception):
    """The server answered the handshake with a redirect."""


_in_handshake: ContextVar[bool] = ContextVar("_in_handshake", default=False)


async def _refuse_redirect(_: object, __: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
    """aiohttp would follow it, to any host, with the headers that the caller meant for this one."""
    if _in_handshake.get():
        redirect.response.close()
        where = urlsplit(redirect.response.headers.get("Location", "")).netloc.rpartition("@")[2]
        status = redirect.response.status
        raise _RedirectedError(status, f"HTTP {status}, a redirect to {quote(where) if where else _ELSEWHERE}")


_NO_REDIRECTS = aiohttp.TraceConfig()

_NO_REDIRECTS.on_request_redirect.append(_refuse_redirect)

_NO_REDIRECTS.freeze()


async def open_websocket(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], options: ClientOptions
) -> WebSocket:
    """Open a WebSocket with the subprotocol of WAMP v1.

    Raises:
        HandshakeRefused: The server answered with an HTTP error or a redirect.
        ConnectionLost: The server cannot be reached.
        ValueError: The URL is no WebSocket URL.
    """
    # The only public way: `ws_connect` takes no `allow_redirects`. Other requests of the session are not concerned.
    if _NO_REDIRECTS not in session.trace_configs:
        session.trace_configs.append(_NO_REDIRECTS)
    token = _in_handshake.set(True)
    try:
        return await session.ws_connect(
            url,
            protocols=(SUBPROTOCOL,),
            headers=headers,
            origin=options.origin,
            ssl=options.ssl,
            timeout=aiohttp.ClientWSTimeout(ws_close=options.close_timeout),
            autoclose=False,
            autoping=False,
            compress=0,
            decode_text=False,
            max_msg_size=options.max_message_size,
        )
    except aiohttp.WSServerHandshakeError as error:
        hint = "; is the socket at another path, such as /ws?" if error.status == 404 else ""
        raise _refused(url, f"{_status(error)}{hint}", error.status) from None
    except _RedirectedError as error:
        status, what = error.args
        hint = "; is the socket there, such as at /ws?" if what.endswith(_ELSEWHERE) else ""
        raise _refused(url, f"{what}, which is not followed{hint}", status) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise ValueError(f"{quote(url)} is no WebSocket URL; write ws://host:port/path") from None
    except aiohttp.ClientConnectorError as error:
        raise ConnectionLost(f"{without_secrets(url)}: {_os_reason(error.os_error)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionLost(f"{without_secrets(url)}: {str(error) or type(error).__name__}") from None
    finally:
        _in_handshake.reset(token)


def without_secrets(url: str) -> str:
    """A URL for logs and errors: without its query and user, which may hold tokens and passwords."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refused(url: str, why: str, status: int) -> HandshakeRefused:
    return HandshakeRefused(f"{without_secrets(url)}: the server refused the handshake: {why}", status)


def _os_reason(error: OSError) -> str:
    """The system's text for an error number. TLS and the resolver number their errors otherwise and have own texts."""
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "there is no TLS; is it ws:// instead of wss://?"
    if error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _status(error: aiohttp.WSServerHandshakeError) -> str:
    if error.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return error.message
    try:
        return f"HTTP {error.status} {HTTPStatus(error.status).phrase}"
    except ValueError:
        return f"HTTP {error.status}"
