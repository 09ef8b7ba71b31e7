"""Gates by the host that a client asked for: `AllowHosts` and `LoopbackHosts`.

Host names are compared in the form in which browsers write them; a configuration is brought into that form once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from yarl import URL

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote

__all__ = [
    "AllowHosts",
    "LoopbackHosts",
    "default_port",
    "is_address",
    "is_loopback",
    "normal_host",
    "read_host",
    "read_port",
    "split_port",
]

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

MAX_NAME_LENGTH = 253

NOT_THIS_HOST = "this server does not answer to that host name"


# ---- hosts and ports


def normal_host(text: str) -> str:
    """A host in the form that browsers write: lower case, IDNA A-labels, IPv6 in brackets and as short as possible.

    Raises:
        ValueError: The text is no host, or an IPv4 address in an unusual notation.
    """
    if text.startswith("[") and text.endswith("]"):
        return f"[{_ipv6(IPv6Address(text[1:-1]))}]"
    # Browsers follow UTS 46; Python's own codec follows IDNA 2003, by which `ß` names another domain.
    name = text.lower() if text.isascii() else URL.build(scheme="http", host=text).raw_host or ""
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no host name")
    if _ends_in_number(name):
        return str(IPv4Address(name))
    return name


def _ipv6(address: IPv6Address) -> str:
    if address.scope_id is not None:
        raise ValueError(f"{address} has a zone, which no URL has")
    mapped = address.ipv4_mapped
    if mapped is not None:  # Python 3.13 writes it with dots, browsers do not
        return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
    return str(address)


def _ends_in_number(name: str) -> bool:
    """Whether browsers read a name as an IPv4 address, as its last label is a number."""
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None


def is_address(host: str) -> bool:
    """Whether a host, in its normal form, is an address and no name."""
    return host.startswith("[") or _ends_in_number(host)


def is_loopback(host: str) -> bool:
    """Whether a host, in its normal form, always means this machine, independent of DNS."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ip_address(host.strip("[]")).is_loopback


def default_port(scheme: str) -> int | None:
    """The port that browsers leave out of a URL of this scheme; None for a scheme without one."""
    return {"http": 80, "https": 443}.get(scheme)


def split_port(text: str) -> tuple[str, str | None]:
    """The host and the port of `host:port`, both as written; None for the port if there is no colon."""
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and not text.endswith("]") else (text, None)


def read_port(text: str) -> int:
    """A port number.

    Raises:
        ValueError: The text is no number from 1 to 65535.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{text!r} is no port")
    return int(text)


def read_host(headers: Sequence[str]) -> tuple[str, int | None]:
    """The host and the port of a request's Host headers; None for the port if it is left out.

    Raises:
        ValueError: There is not exactly one header, or it holds no host; the message is fit for a log.
    """
    if len(headers) != 1:
        raise ValueError(f"{len(headers) or 'no'} Host headers came")
    try:
        if not headers[0].isascii():
            raise ValueError
        host, port = split_port(headers[0])
        return normal_host(host), None if port is None else read_port(port)
    except ValueError:
        raise ValueError(f"the Host header {quote(headers[0])} is no host") from None


# ---- the gates


class AllowHosts:
    """Lets in clients that asked for one of the listed hosts.

    It stops DNS rebinding: a page whose DNS name was pointed to this server asks for its own name.

    Args:
        *hosts: Names and addresses as in a URL: `example.com`, `*.example.com` for all names below it, `127.0.0.1`,
            `[::1]`. Without a port any port will do; `example.com:8443` is that port alone.

    Raises:
        DeclarationError: One of them is no host, or there is none.
    """

    def __init__(self, *hosts: str) -> None:
        if not hosts:
            raise DeclarationError("AllowHosts() would let nobody in; name the hosts that clients connect to")
        try:
            self._rules = [_HostRule(host) for host in hosts]
        except (ValueError, AttributeError) as error:
            raise DeclarationError(f"AllowHosts: {error}") from None

    async def connect(self, connection: Connection) -> str:
        """Check the host that the client asked for. Raises Refused."""
        host, port = _host_of(connection)
        shown = f"{quote(host)} port {port}"
        if not any(rule.matches(host, port) for rule in self._rules):
            raise Refused(NOT_THIS_HOST, f"{shown} is none of {self._listed()}")
        return f"{shown} is in the list"

    def describe(self) -> str:
        """A description for `wampkit check`."""
        return f"lets in clients that asked for {self._listed()}"

    def _listed(self) -> str:
        return ", ".join(map(str, self._rules))


class LoopbackHosts:
    """Keeps pages of the internet out of a development server; `wampkit run` adds it.

    Such a page can point its own DNS name to 127.0.0.1, so that it is of the same origin; its host name gives it away.
    """

    async def connect(self, connection: Connection) -> str:
        """Refuse a page that asked for a host which is not this machine by name. Raises Refused."""
        if "Origin" not in connection.request.headers:
            return "no Origin came, so that this is no page"
        host, _ = _host_of(connection)
        if not is_loopback(host):
            why = f"{quote(host)} is no name of this machine; if it is one of yours, name it in AllowHosts"
            raise Refused(NOT_THIS_HOST, why)
        return f"{quote(host)} is this machine"

    def describe(self) -> str:
        """A description for `wampkit check`."""
        return "lets in pages that asked for localhost, 127.0.0.1 or [::1]"


class _HostRule:
    """One entry of `AllowHosts`: a name, `*.` and a name, or an address, each with or without a port.

    Raises:
        ValueError: The text is none of these.
    """

    def __init__(self, text: str) -> None:
        if "/" in text:
            raise ValueError(f"{text!r} is no host; give the host alone, without scheme and path: {_host_in(text)!r}")
        if text.count(":") > 1 and not text.startswith("["):
            text = f"[{text}]"
        name, port = split_port(text)
        try:
            self._port = None if port is None else read_port(port)
        except ValueError:
            raise ValueError(f"{text!r} has no valid port") from None
        self._wild = name.startswith("*.")
        self._host = normal_host(name.removeprefix("*."))
        if self._wild and is_address(self._host):
            raise ValueError(f"{text!r}: an address has no names below it")

    def __str__(self) -> str:
        return f"{'*.' if self._wild else ''}{self._host}" + (f":{self._port}" if self._port is not None else "")

    def matches(self, host: str, port: int) -> bool:
        """Whether the rule holds this host, in its normal form, and port."""
        same = host.endswith(f".{self._host}") if self._wild else host == self._host
        return same and self._port in (None, port)


def _host_in(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or url.partition("/")[0] or "example.com"


def _host_of(connection: Connection) -> tuple[str, int]:
    """The host and port that a client asked for. Raises Refused if they cannot be read."""
    try:
        host, port = read_host(connection.request.headers.getall("Host", []))
    except ValueError as error:
        raise Refused(NOT_THIS_HOST, str(error)) from None
    return host, port or default_port("https" if connection.secure else "http") or 0
