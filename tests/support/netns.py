"""Two network namespaces joined by a cable that can be pulled: a lost path, which no loopback socket can show.

A peer whose cable is pulled says nothing any more, not even that it has gone: no FIN, no RST, no ACK. A process of
its own makes the namespaces, hands its sockets over and ends. They belong to the namespaces in which they were made,
whoever uses them, so server and client both live in the test's process and event loop, and the machine's own
network is left alone. The namespaces go with the last of the sockets.

Needs Linux, and root or unprivileged user namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["Cable", "cable"]

NEAR, FAR = "10.0.0.1", "10.0.0.2"


class Cable:
    """The cable, and what is plugged in at both ends.

    Attributes:
        listener: A bound socket at the server's end; it does not listen yet.
        clients: Sockets at the client's end, not connected yet.
        address: Where a client reaches the listener.
    """

    def __init__(self, files: list[int]) -> None:
        self._table, *sockets = files
        self._far, self.listener, *self.clients = (socket.socket(fileno=each) for each in sockets)
        for each in self.clients:
            each.setblocking(False)
        self.address: tuple[str, int] = (NEAR, self.listener.getsockname()[1])

    def pull(self) -> None:
        """Let nothing pass any more, in either direction."""
        _switch(self._far, b"far", on=False)

    def plug(self) -> None:
        """Let everything pass again."""
        _switch(self._far, b"far", on=True)

    def in_kernel(self) -> list[int]:
        """For each TCP connection at the server's end, owned or orphaned: the bytes that wait to be acknowledged."""
        rows = [row.split() for row in os.pread(self._table, 65536, 0).decode().splitlines()[1:]]
        return [int(row[4].partition(":")[0], 16) for row in rows if row[3] != _LISTENS]

    def close(self) -> None:
        """Give everything back."""
        os.close(self._table)
        for each in (self._far, self.listener, *self.clients):
            each.close()


@contextlib.contextmanager
def cable(clients: int = 1) -> Iterator[Cable]:
    """A cable with so many client sockets, for the length of a block."""
    made = Cable(_ask_for(clients))
    try:
        yield made
    finally:
        made.close()


def _ask_for(clients: int) -> list[int]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = subprocess.run(
            [sys.executable, "-I", __file__, str(theirs.fileno()), str(clients)],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
        if made.returncode:
            raise AssertionError(
                "these tests need two network namespaces, which cannot be had here; run them as root (in a container: "
                "with CAP_SYS_ADMIN and CAP_NET_ADMIN) or allow unprivileged user namespaces. "
                f"The reason: {made.stderr.strip()}"
            )
        return list(socket.recv_fds(ours, 1, clients + 3)[1])


# ---- what the process of its own does; it imports nothing but the standard library


_NEWNET, _NEWUSER = 0x40000000, 0x10000000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_LISTENS = "0A"


def _hand_over(to: int, clients: int) -> None:
    _leave_the_network()
    table = os.open("/proc/self/net/tcp", os.O_RDONLY)
    near, listener = socket.socket(), socket.socket()
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    _unshare(_NEWNET)
    far = socket.socket()
    _join(netlink)
    _address(near, b"near", NEAR)
    _address(far, b"far", FAR)
    listener.bind(("", 0))
    made = [far, listener, *(socket.socket() for _ in range(clients))]
    with socket.socket(fileno=to) as channel:
        socket.send_fds(channel, [b"!"], [table, *(each.fileno() for each in made)])


def _leave_the_network() -> None:
    """Enter a network namespace: as root at once, else by way of a user namespace in which we are root."""
    with contextlib.suppress(OSError):
        return _unshare(_NEWNET)
    _unshare(_NEWUSER | _NEWNET)


def _unshare(what: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(what):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def _join(netlink: socket.socket) -> None:
    """Lay a cable from netlink's namespace, where its end is `near`, to this one, where it is `far` (rtnetlink(7))."""
    REQUEST, ACK, CREATE, EXCL, NEWLINK = 0x1, 0x4, 0x400, 0x200, 16
    IFNAME, LINKINFO, NET_NS_FD, KIND, DATA, PEER = 3, 18, 28, 1, 2, 1
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    interface = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    peer = interface + _attribute(IFNAME, b"far\0") + _attribute(NET_NS_FD, struct.pack("=I", here))
    kind = _attribute(KIND, b"veth\0") + _attribute(DATA, _attribute(PEER, peer))
    body = interface + _attribute(IFNAME, b"near\0") + _attribute(LINKINFO, kind)
    netlink.send(struct.pack("=IHHII", 16 + len(body), NEWLINK, REQUEST | ACK | CREATE | EXCL, 1, 0) + body)
    (answer,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    os.close(here)
    if answer:
        raise OSError(-answer, f"making a veth pair: {os.strerror(-answer)}")


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _address(of: socket.socket, interface: bytes, address: str) -> None:
    for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
        packed = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
        fcntl.ioctl(of, request, struct.pack("16s24s", interface, packed))
    _switch(of, interface, on=True)


def _switch(of: socket.socket, interface: bytes, *, on: bool) -> None:
    """Switch an interface of a socket's namespace on or off."""
    fcntl.ioctl(of, _SIOCSIFFLAGS, struct.pack("16sH22x", interface, _IFF_UP if on else 0))


if __name__ == "__main__":
    try:
        _hand_over(int(sys.argv[1]), int(sys.argv[2]))
    except OSError as error:
        sys.exit(str(error))
