"""Addresses and networks: parsed once and compared as such, never as text.

An IPv4 client of a dual-stack socket shows as `::ffff:203.0.113.7`, and a link-local one with the zone that it came
through, `fe80::1%eth0`. Both are read as the plain address, in rules and in clients alike, so that another notation
does not evade a rule. Other ways to wrap an IPv4 address into IPv6 (6to4, NAT64) are addresses of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

__all__ = [
    "UNIX",
    "Address",
    "Network",
    "Networks",
    "client_network",
    "describe_address",
    "read_address",
    "read_network",
    "read_peer",
]

Address: TypeAlias = IPv4Address | IPv6Address

Network: TypeAlias = IPv4Network | IPv6Network

UNIX = "unix"
"""The entry of a rule for the peers of a unix socket, which have no address."""

MAPPED_BITS = 96
"""The bits before the IPv4 address in an IPv4-mapped IPv6 address."""


def read_address(text: str) -> Address:
    """Parse an address: without its zone, and as IPv4 if it is IPv4-mapped IPv6.

    Raises:
        ValueError: The text is not an address.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def read_peer(text: str | None) -> Address | None:
    """Parse the address of a socket's peer; None, for a unix socket, stays None.

    Raises:
        ValueError: The text is not an address.
    """
    return None if text is None else read_address(text)


def describe_address(address: object) -> str:
    """A client's address in words: "a unix socket" for None."""
    return "a unix socket" if address is None else str(address)


OWN_BITS = 64
"""Bits of an IPv6 address that name its network; the owner chooses the rest."""


def client_network(remote: str | None) -> str | None:
    """The network by which a client is counted: its IPv4 address, or the /64 network of its IPv6 address.

    Limits, failed logins and the log all count by it. It is None for the peers of unix sockets, and the text itself
    if it is not an address.
    """
    if remote is None:
        return None
    try:
        address = read_address(remote)
    except ValueError:
        return remote
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((address, OWN_BITS), strict=False))


def read_network(text: str) -> Network:
    """Parse a network, or a single address as a network of one; bits beyond the mask are ignored.

    Raises:
        ValueError: The text is neither.
    """
    address, slash, mask = text.partition("/")
    if not slash:
        return ip_network(read_address(address))
    network = ip_network(f"{address.partition('%')[0]}/{mask}", strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


class Networks:
    """A set of addresses, networks and the word "unix", which one thread may change while others read it.

    A look-up takes time in proportion to the number of different prefix lengths, not of networks.

    Args:
        entries: The first entries.

    Raises:
        ValueError: One of them is neither an address, a network nor "unix".
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._networks: frozenset[Network] = frozenset()
        self._lengths: tuple[tuple[int, int], ...] = ()  # version and length of prefix, the shortest first
        self._unix = False
        self.add(*entries)

    def add(self, *entries: str) -> None:
        """Add entries; none is added if one is invalid.

        Raises:
            ValueError: One of them is neither an address, a network nor "unix".
        """
        networks, unix = _read(entries)
        self._set(self._networks | networks, self._unix or unix)

    def remove(self, *entries: str) -> None:
        """Remove entries; those that are not in it are ignored.

        Raises:
            ValueError: One of them is neither an address, a network nor "unix", or lies in a wider network that stays;
                nothing is changed then.
        """
        networks, unix = _read(entries)
        rest = self._networks - networks
        for network in networks:
            wider = next((each for each in rest if _within(network, each)), None)
            if wider is not None:
                raise ValueError(f"{_text(network)} lies in {_text(wider)}, which stays; remove that, or neither")
        self._set(rest, self._unix and not unix)

    def find(self, address: Address | None) -> str | None:
        """The widest entry that contains an address, or None; the address None is that of a unix socket."""
        if address is None:
            return UNIX if self._unix else None
        for version, length in self._lengths:
            if version == address.version:
                network = ip_network((address, length), strict=False)
                if network in self._networks:
                    return _text(network)
        return None

    def __iter__(self) -> Iterator[str]:
        yield from map(_text, sorted(self._networks, key=_order))
        if self._unix:
            yield UNIX

    def _set(self, networks: frozenset[Network], unix: bool) -> None:
        self._networks, self._unix = networks, unix
        self._lengths = tuple(sorted({(each.version, each.prefixlen) for each in networks}))


def _read(entries: Iterable[str]) -> tuple[set[Network], bool]:
    """The networks among some entries, and whether "unix" is among them."""
    texts = list(entries)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is not a text such as '203.0.113.0/24' or 'unix'")
    return {read_network(text) for text in texts if text != UNIX}, UNIX in texts


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    return isinstance(network, IPv6Network) and isinstance(other, IPv6Network) and network.subnet_of(other)


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _text(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)
