"""The arguments of `connect`, kept once for every part of a client."""

from __future__ import annotations

import ssl as tls
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["ClientOptions", "Headers", "Login", "Secret", "Url"]

Url = str | Callable[[], str | Awaitable[str]]

Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

Secret = str | Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The WAMP-CRA login of each connection; without an authkey it is anonymous.

    Raises:
        TypeError: An authkey without a secret, or a secret without an authkey.
    """

    authkey: str | None
    secret: Secret | None = field(repr=False)
    authextra: Mapping[str, Any] | None = field(repr=False)

    def __post_init__(self) -> None:
        if self.authkey is not None and self.secret is None:
            raise TypeError("authkey needs its secret: connect(url, authkey=..., secret=...)")
        if self.authkey is None and self.secret is not None:
            raise TypeError("secret needs the authkey that it belongs to: connect(url, authkey=..., secret=...)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The arguments of `connect`, which documents them; `login` is made of four of them, or None for no login."""

    url: Url = field(repr=False)
    headers: Headers | None = field(repr=False)
    cookies: Mapping[str, str] | None = field(repr=False)
    origin: str | None
    login: Login | None
    session: aiohttp.ClientSession | None
    ssl: tls.SSLContext | bool
    reconnect: bool
    backoff: tuple[float, float]
    restart_timeout: float
    open_timeout: float
    close_timeout: float
    call_timeout: float | None
    keepalive: float | None
    max_message_size: int
    max_events: int
    max_events_size: int
    welcome: bool
