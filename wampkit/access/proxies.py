"""Who the client is where proxies stand in front: what they say is believed of trusted ones alone.

Each proxy appends the address that it was spoken to from, so that the list is read from the right: the peer of the
socket is known, and as long as a hop is trusted, the address that it wrote down is true. The first that is not trusted
is the client. What stands to the left of it is whatever the client has sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from aiohttp import web

from ..connection.sockets import asked
from ..errors import DeclarationError, quote
from ..networks import UNIX, Address, Networks, read_address, read_network
from ..telemetry.logs import Complaints

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["HEADERS", "Header", "Remote", "Remotes", "TrustedProxies", "UnreadableHop", "peer_of", "trusted"]

Header: TypeAlias = Literal["X-Forwarded-For", "Forwarded"]

HEADERS: tuple[Header, ...] = ("X-Forwarded-For", "Forwarded")

PROTO = "X-Forwarded-Proto"

_SECURE = {"https": True, "wss": True, "http": False, "ws": False}

_ADDRESS_PORT = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))(?::[0-9]{1,5})?")

_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))\s*([,;]|$)""")


class UnreadableHop(web.HTTPBadRequest):
    """HTTP 400: a proxy is trusted, and what it says of the client's address cannot be read.

    Args:
        why: What the log says.
    """

    def __init__(self, why: str) -> None:
        super().__init__(text="the address of this client cannot be read")
        self.why = why


@dataclass(frozen=True, slots=True)
class Remote:
    """Who is at the other end.

    Attributes:
        address: The client's address, or None for a unix socket.
        secure: Whether the client speaks TLS.
    """

    address: str | None
    secure: bool


class TrustedProxies:
    """Whose word about the client's address is believed.

    Args:
        *networks: The addresses and networks of the proxies, or "unix" for whoever speaks on a unix socket.
        header: Where they write the address; the other header is ignored. With "X-Forwarded-For" the scheme is taken
            from X-Forwarded-Proto, with "Forwarded" from its `proto`.

    Raises:
        DeclarationError: One of them is no network, or all the world.
    """

    def __init__(self, *networks: str, header: Header = "X-Forwarded-For") -> None:
        if header not in HEADERS:
            raise DeclarationError(f"trusted_proxies: the header is {' or '.join(HEADERS)}, not {header!r}")
        try:
            self._networks = Networks(networks)
            everybody = [each for each in networks if each != UNIX and read_network(each).prefixlen == 0]
        except ValueError as error:
            raise DeclarationError(f"trusted_proxies: {error}") from None
        if everybody:
            raise DeclarationError(
                f"trusted_proxies: {everybody[0]} trusts everybody, so that anybody could claim any address; "
                f"name your proxies"
            )
        self.header: Header = header

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Whether the word of a socket's peer is believed; None is a unix socket's."""
        try:
            return self._networks.find(None if peer is None else read_address(peer)) is not None
        except ValueError:
            return False

    def find(self, peer: str | None, headers: MultiMapping[str]) -> tuple[str | None, bool | None]:
        """The client behind a trusted peer: its address, and whether it speaks TLS, None where that is not told.

        Args:
            peer: The address of the socket's peer, or None for a unix socket.
            headers: The request's headers.

        Raises:
            UnreadableHop: An address that is needed cannot be read.
        """
        lines = headers.getall(self.header, [])
        if self.header == "Forwarded":
            hops, schemes = _read_forwarded(lines)
        else:
            hops = [each.strip() for line in lines for each in line.split(",")]
            schemes = [each.strip() for line in headers.getall(PROTO, []) for each in line.split(",")]
        client, taken = peer, 0
        for hop in reversed(hops):
            taken += 1
            address = self._read_hop(hop)
            client = str(address)
            if self._networks.find(address) is None:
                break
        return client, _secure(schemes, max(taken, 1))

    def _read_hop(self, hop: str) -> Address:
        found = _ADDRESS_PORT.fullmatch(hop)
        try:
            return read_address((found[1] or found[2]) if found is not None else hop)
        except ValueError:
            raise UnreadableHop(f"a trusted proxy's {self.header} names {quote(hop)}, which is no address") from None


def trusted(given: Iterable[str] | TrustedProxies | None) -> TrustedProxies | None:
    """What `App(trusted_proxies=...)` was given, as one thing; None where nobody is trusted.

    Raises:
        DeclarationError: It is a single text, or one of its entries is no network.
    """
    if given is None or isinstance(given, TrustedProxies):
        return given
    if isinstance(given, str):
        raise DeclarationError(f"trusted_proxies is a list: write [{given!r}]")
    if not isinstance(given, Iterable):
        raise DeclarationError(f"trusted_proxies is a list of addresses and networks, not {given!r}")
    networks = tuple(given)
    return TrustedProxies(*networks) if networks else None


def _secure(schemes: Sequence[str], taken: int) -> bool | None:
    """What was said of the hop that is so far from the right; a proxy that says it once says it of the client."""
    if not schemes:
        return None
    return _SECURE.get(schemes[max(0, len(schemes) - taken)].lower())


def _read_forwarded(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The hops and the schemes of Forwarded headers (RFC 7239), as many of each; "" where one is not told."""
    text = ",".join(lines)
    if lines and not text:
        raise UnreadableHop("a trusted proxy's Forwarded is empty")
    hops: list[str] = []
    schemes: list[str] = []
    pairs: dict[str, str] = {}
    position = 0
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None or found[1].lower() in pairs:
            raise UnreadableHop(f"a trusted proxy's Forwarded cannot be read: {quote(text)}")
        value = found[3] if found[3] is not None else re.sub(r"\\(.)", r"\1", found[2])
        pairs[found[1].lower()] = value
        position = found.end()
        if found[4] != ";":
            hops.append(pairs.get("for", ""))
            schemes.append(pairs.get("proto", ""))
            pairs = {}
    if pairs or text.endswith(","):
        raise UnreadableHop(f"a trusted proxy's Forwarded cannot be read: {quote(text)}")
    return hops, schemes


# ---- at the door


def peer_of(request: web.BaseRequest) -> str | None:
    """The address of the socket's peer, or None for a unix socket.

    A unix peer may have bound its own socket to a file whose name looks like an address.
    """
    peername = asked(request.transport, "peername")
    if isinstance(peername, str | bytes):
        return None
    return str(peername[0]) if peername else request.remote


def _told_by_site(request: web.BaseRequest, peer: str | None) -> str | None:
    """The client's address as the web application around has put it into the request, or else the peer's."""
    if peer is None and request.transport is not None and request.remote == str(asked(request.transport, "peername")):
        return None
    return request.remote or None


class Remotes:
    """Tells of each handshake who sent it.

    Args:
        proxies: Whose word is believed.
        complaints: What is told of peers that claim an address without being trusted, or None where it does not matter.
    """

    def __init__(self, proxies: TrustedProxies | None, complaints: Complaints | None) -> None:
        self._proxies = proxies
        self._complaints = complaints
        self._headers = HEADERS if proxies is None else (proxies.header,)

    def of(self, request: web.BaseRequest) -> Remote:
        """Who sent a handshake.

        Raises:
            UnreadableHop: A trusted proxy names an address that cannot be read.
        """
        peer = peer_of(request)
        if self._proxies is not None and self._proxies.trusts(peer):
            address, secure = self._proxies.find(peer, request.headers)
            return Remote(address, request.secure if secure is None else secure)
        if self._complaints is not None:
            self._complain(self._complaints, peer, request)
        return Remote(_told_by_site(request, peer) if self._proxies is None else peer, request.secure)

    def _complain(self, complaints: Complaints, peer: str | None, request: web.BaseRequest) -> None:
        name = next((each for each in self._headers if each in request.headers), None)
        if name is not None:
            who = quote(peer or "a unix socket", 64)
            complaints.add(
                "forwarded",
                f"{name} came from {who}, which is not trusted: the rules by address judge {who} itself; if it is "
                f"your proxy, name it with trusted_proxies",
            )
