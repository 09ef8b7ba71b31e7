"""The client's address behind reverse proxies: `TrustedProxies`, and the `PeerResolver` that reads their headers.

Each proxy appends the address that it was connected from, so the list is read from the right: the peer of the socket is
known, and as long as a hop is trusted, the address that it wrote down is true. The first hop that is not trusted is the
client. What stands to the left of it was sent by the client, and proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from aiohttp import web

from ..connection.sockets import extra_info
from ..errors import DeclarationError, quote
from ..networks import UNIX, Address, Networks, describe_address, read_address, read_network, read_peer
from ..telemetry.logs import PeerLog

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["HEADERS", "Peer", "PeerResolver", "TrustedProxies", "peer_address", "trusted_proxies_of"]

Header: TypeAlias = Literal["X-Forwarded-For", "Forwarded"]

HEADERS: tuple[Header, ...] = ("X-Forwarded-For", "Forwarded")

PROTO_HEADER = "X-Forwarded-Proto"

_SECURE = {"https": True, "wss": True, "http": False, "ws": False}

_ADDRESS_PORT = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))(?::[0-9]{1,5})?")

_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))\s*([,;]|$)""")


class UnreadableHop(web.HTTPBadRequest):
    """HTTP 400: a trusted proxy's header does not hold a readable client address; `why` is the reason, for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(text="the address of this client cannot be read")
        self.why = why


class TrustedProxies:
    """The reverse proxies whose headers name the client: `App(trusted_proxies=TrustedProxies("10.0.0.1"))`.

    Args:
        *networks: The addresses and networks of the proxies, or "unix" for every peer of a unix socket.
        header: The header that holds the client's address; the other one is ignored. With "X-Forwarded-For" the scheme
            is taken from X-Forwarded-Proto, with "Forwarded" from its `proto`.

    Raises:
        DeclarationError: One of them is no network, or holds every address.
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
        self._header: Header = header

    @property
    def header(self) -> Header:
        """The header that holds the client's address."""
        return self._header

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Whether the headers of a socket's peer are believed.

        Args:
            peer: The peer's address, or None for a unix socket.
        """
        try:
            return self._networks.find(read_peer(peer)) is not None
        except ValueError:
            return False

    def _find_client(self, peer: str | None, headers: MultiMapping[str]) -> tuple[str | None, bool | None]:
        """The client's address behind a trusted peer, and whether it speaks TLS; None where that is not said.

        Raises:
            UnreadableHop: An address that is needed cannot be read.
        """
        lines = headers.getall(self._header, [])
        if self._header == "Forwarded":
            hops, schemes = _read_forwarded(lines)
        else:
            hops, schemes = _split(lines), _split(headers.getall(PROTO_HEADER, []))
        client, taken = peer, 0
        for hop in reversed(hops):
            taken += 1
            address = self._read_hop(hop)
            client = str(address)
            if self._networks.find(address) is None:
                break
        return client, _is_secure(schemes, max(taken, 1))

    def _read_hop(self, hop: str) -> Address:
        found = _ADDRESS_PORT.fullmatch(hop)
        try:
            return read_address((found[1] or found[2]) if found is not None else hop)
        except ValueError:
            raise UnreadableHop(f"a trusted proxy's {self._header} names {quote(hop)}, which is no address") from None


def trusted_proxies_of(given: Iterable[str] | TrustedProxies | None) -> TrustedProxies | None:
    """The value of `App(trusted_proxies=...)` as `TrustedProxies`, or None for no proxies.

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


# ---- reading the headers


def _split(lines: Sequence[str]) -> list[str]:
    return [each.strip() for line in lines for each in line.split(",")]


def _is_secure(schemes: Sequence[str], taken: int) -> bool | None:
    """Whether the hop at this place, counted from the right, used TLS; a single scheme is the client's."""
    if not schemes:
        return None
    return _SECURE.get(schemes[max(0, len(schemes) - taken)].lower())


def _read_forwarded(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The hops and the schemes of Forwarded headers (RFC 7239), two lists of one length; "" where one is not said."""
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


# ---- resolving a request


@dataclass(frozen=True, slots=True)
class Peer:
    """The client of a request.

    Attributes:
        address: The client's address, or None for a unix socket.
        secure: Whether the client speaks TLS.
    """

    address: str | None
    secure: bool


class PeerResolver:
    """Finds the client of each request: the socket's peer, or the one that a trusted proxy names.

    Args:
        proxies: The trusted proxies, or None.
        log: The log for headers from peers that are not trusted, or None to ignore them silently.
    """

    def __init__(self, proxies: TrustedProxies | None, log: PeerLog | None) -> None:
        self._proxies = proxies
        self._log = log
        self._headers = HEADERS if proxies is None else (proxies.header,)

    def resolve(self, request: web.BaseRequest) -> Peer:
        """The client of a request.

        Raises:
            UnreadableHop: A trusted proxy names an address that cannot be read.
        """
        peer = peer_address(request)
        if self._proxies is not None and self._proxies.trusts(peer):
            address, secure = self._proxies._find_client(peer, request.headers)
            return Peer(address, request.secure if secure is None else secure)
        if self._log is not None:
            self._warn(self._log, peer, request)
        return Peer(_address_from_site(request, peer) if self._proxies is None else peer, request.secure)

    def _warn(self, log: PeerLog, peer: str | None, request: web.BaseRequest) -> None:
        name = next((each for each in self._headers if each in request.headers), None)
        if name is not None:
            who = quote(describe_address(peer), 64)
            log.add(
                "forwarded",
                f"{name} came from {who}, which is not trusted: the rules by address judge {who} itself; if it is "
                f"your proxy, name it with trusted_proxies",
            )


def peer_address(request: web.BaseRequest) -> str | None:
    """The address of the socket's peer, or None for a unix socket.

    A unix peer may have bound its own socket to a file whose name looks like an address.
    """
    peername = extra_info(request.transport, "peername")
    if isinstance(peername, str | bytes):
        return None
    return str(peername[0]) if peername else request.remote


def _address_from_site(request: web.BaseRequest, peer: str | None) -> str | None:
    """The client's address that the surrounding web application has set on the request, or else the peer's."""
    if (
        peer is None
        and request.transport is not None
        and request.remote == str(extra_info(request.transport, "peername"))
    ):
        return None
    return request.remote or None
