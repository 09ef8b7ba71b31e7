"""Host names as browsers write them: what a configuration says is brought into that form once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from yarl import URL

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote

__all__ = [
    "AllowHosts",
    "HostRule",
    "LoopbackHosts",
    "default_port",
    "is_address",
    "is_loopback",
    "normal_host",
    "read_host",
    "socket_url",
]

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

LONGEST_NAME = 253


def normal_host(text: str) -> str:
    """A host as browsers write it: in lower case, IDNA A-labels, IPv6 in brackets and as short as it can be.

    Raises:
        ValueError: The text is no host, or an IPv4 address that is written in an odd way.
    """
    if text.startswith("[") and text.endswith("]"):
        return f"[{_ipv6(IPv6Address(text[1:-1]))}]"
    # Browsers follow UTS 46; Python's own codec follows IDNA 2003, by which `ß` names another domain.
    name = text.lower() if text.isascii() else URL.build(scheme="http", host=text).raw_host or ""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no host name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return str(IPv4Address(name))
    return name


def _ipv6(address: IPv6Address) -> str:
    if address.scope_id is not None:
        raise ValueError(f"{address} has a zone, which no URL has")
    mapped = address.ipv4_mapped
    if mapped is not None:  # Python 3.13 writes it with dots, browsers do not
        return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
    return str(address)


def default_port(scheme: str) -> int | None:
    """The port that a browser leaves out."""
    return {"http": 80, "https": 443}.get(scheme)


def read_host(headers: Sequence[str]) -> tuple[str, int | None]:
    """The host and the port, None where there is none, of a request's Host headers.

    Raises:
        ValueError: There is not exactly one, or it is no host; says so, fit for a log.
    """
    if len(headers) != 1:
        raise ValueError(f"{len(headers) or 'no'} Host headers came")
    found = _HOST.fullmatch(headers[0].lower()) if headers[0].isascii() else None
    port = int(found[2]) if found is not None and found[2] is not None else None
    try:
        if found is None or (port is not None and not 0 < port < 65536):
            raise ValueError
        return normal_host(found[1]), port
    except ValueError:
        raise ValueError(f"the Host header {quote(headers[0])} is no host") from None


def is_address(host: str) -> bool:
    """Whether a host, in its normal form, is an address and no name."""
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def is_loopback(host: str) -> bool:
    """Whether a host, in its normal form, is this machine and can be nothing else: no DNS answer makes it so."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ip_address(host.strip("[]")).is_loopback


def socket_url(host: str, port: int, path: str) -> str:
    """The WebSocket URL by which a client on this machine opens a server that listens on a host.

    A server that listens on every address (`0.0.0.0`, `::`) is opened by the loopback one, as the other is no
    destination.
    """
    with contextlib.suppress(ValueError):
        if ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
    return f"ws://{f'[{host}]' if ':' in host else host}:{port}{path}"


class HostRule:
    """A host that may be asked for: `example.com`, `*.example.com`, `127.0.0.1`, `[::1]`, any with or without port.

    Args:
        text: The rule as it was written.

    Raises:
        ValueError: It is none of these.
    """

    def __init__(self, text: str) -> None:
        if "/" in text:
            raise ValueError(f"{text!r} is no host; give the host alone, without scheme and path: {_host_in(text)!r}")
        if text.count(":") > 1 and not text.startswith("["):
            text = f"[{text}]"
        name, port = _split_port(text)
        self._wild = name.startswith("*.")
        self._host = normal_host(name.removeprefix("*."))
        self._port = port
        if self._wild and is_address(self._host):
            raise ValueError(f"{text!r}: an address has no names below it")
        self.text = f"{'*.' if self._wild else ''}{self._host}" + (f":{port}" if port is not None else "")

    def matches(self, host: str, port: int) -> bool:
        """Whether a host in its normal form, asked for on a port, is meant."""
        same = host.endswith(f".{self._host}") if self._wild else host == self._host
        return same and self._port in (None, port)


def _host_in(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or url.partition("/")[0] or "example.com"


def _split_port(text: str) -> tuple[str, int | None]:
    head, colon, tail = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    if not (tail.isascii() and tail.isdigit() and 0 < int(tail) < 65536):
        raise ValueError(f"{text!r} has no valid port")
    return head, int(tail)


NOT_THIS_HOST = "this server does not answer to that host name"


# ---- hosts


class AllowHosts:
    """Lets in clients that asked for one of some hosts: a page whose DNS name was pointed here asks for its own.

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
            self._rules = [HostRule(host) for host in hosts]
        except (ValueError, AttributeError) as error:
            raise DeclarationError(f"AllowHosts: {error}") from None

    async def connect(self, connection: Connection) -> str:
        """Refuse what was sent to another host."""
        host, port = _host_of(connection)
        if not any(rule.matches(host, port) for rule in self._rules):
            raise Refused(NOT_THIS_HOST, f"{quote(host)} port {port} is none of {self._listed()}")
        return f"{quote(host)} port {port} is in the list"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return f"lets in who asks for {self._listed()}"

    def _listed(self) -> str:
        return ", ".join(rule.text for rule in self._rules)


class LoopbackHosts:
    """Keeps pages of the internet out of a server for development: `wampkit run` puts it there.

    Such a page can point its own DNS name to 127.0.0.1 and be of the same origin then; but its host name gives it away.
    """

    async def connect(self, connection: Connection) -> str:
        """Refuse a page that asked for a host which is not this machine by name."""
        if "Origin" not in connection.request.headers:
            return "no Origin came, so that this is no page"
        host, _ = _host_of(connection)
        if not is_loopback(host):
            why = f"{quote(host)} is no name of this machine; if it is one of yours, name it in AllowHosts"
            raise Refused(NOT_THIS_HOST, why)
        return f"{quote(host)} is this machine"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return "lets in pages that asked for localhost, 127.0.0.1 or [::1]"


def _host_of(connection: Connection) -> tuple[str, int]:
    """The host and port that a client asked for. Raises Refused where that cannot be told."""
    try:
        host, port = read_host(connection.request.headers.getall("Host", []))
    except ValueError as error:
        raise Refused(NOT_THIS_HOST, str(error)) from None
    return host, port or default_port("https" if connection.secure else "http") or 0
