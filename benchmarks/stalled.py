"""Subscribers that stop reading, in a process of their own: `python -m benchmarks.stalled PORT COUNT`.

It prints a line when all of them are subscribed, and one after each command that it reads: `flood KB` publishes so
much to each of them, and `cut` reads from all of them to see how many the server has cut off. It speaks WAMP v1 alone.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .generator import Failure
from .lab import Running
from .processes import Process, started

__all__ = ["stalled"]

TOPIC = "topic0"
"""The first topic of the generator."""

SEGMENT = 1460
"""What a segment carries over Ethernet. Loopback's are much larger, and socket buffers grow with them: megabytes would
rest in the system before the server had to keep the first unread byte."""

RECEIVE_BUFFER = 4096
EVENT = 4096

SILENCE = 0.5
"""Seconds without a byte after which the connections that are left count as open."""

PATIENCE = 5.0
"""Seconds in which a server must have passed on what was published."""


@dataclass(frozen=True)
class Stalled:
    """Subscribers that do not read."""

    process: Process

    def flood(self, kilobytes: int) -> None:
        """Publish so much to each of them.

        Raises:
            Failure: The server lets the publisher wait for them.
        """
        self._ask(f"flood {kilobytes}")

    def cut(self) -> float:
        """How many of them the server has cut off; it is the end of their silence."""
        return float(self._ask("cut"))

    def _ask(self, command: str) -> str:
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise Failure(self.process.last_words())
        return answer


@contextmanager
def stalled(running: Running, count: int, core: int | None) -> Iterator[Stalled]:
    """So many subscribers that do not read."""
    with started([sys.executable, "-m", "benchmarks.stalled", str(running.port), str(count)], core) as process:
        if not process.stdout.readline():
            raise Failure(f"no subscribers that do not read: {process.last_words()}")
        yield Stalled(process)


# ---- the process


def main(port: int, count: int) -> None:
    """Subscribe, and do what the lines say."""
    sockets = [_subscriber(port) for _ in range(count)]
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["flood", kilobytes]:
                _flood(port, int(kilobytes) * 1024 // EVENT)
                print("done", flush=True)
            case ["cut"]:
                print(_cut(sockets), flush=True)


def _flood(port: int, events: int) -> None:
    publisher = _connect(port)
    publisher.settimeout(PATIENCE)
    try:
        for _ in range(events):
            publisher.sendall(_frame([7, TOPIC, "x" * EVENT]))
        _prove(publisher)
    except TimeoutError:
        raise SystemExit("a publisher waits for ever for subscribers that do not read") from None
    publisher.close()


def _subscriber(port: int) -> socket.socket:
    sock = _connect(port, receive_buffer=RECEIVE_BUFFER)
    sock.sendall(_frame([5, TOPIC]))
    _prove(sock)
    return sock


def _connect(port: int, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: wamp\r\n\r\n".encode()
    )
    return sock


def _prove(sock: socket.socket) -> None:
    """Call, and read until the answer, which shows that what was sent before was taken."""
    sock.sendall(_frame([2, "proof", "http://example.com/calc#add", 1.5, 2]))
    received = b""
    while b'"proof"' not in received:
        more = sock.recv(4096)
        if not more:
            raise SystemExit(f"the server ended the connection: {received!r}")
        received += more


def _frame(message: list[object]) -> bytes:
    """A client's text frame, masked with zeros, which leave it as it is."""
    text = json.dumps(message).encode()
    size = bytes([0x80 | len(text)]) if len(text) < 126 else bytes([0xFE]) + struct.pack(">H", len(text))
    return b"\x81" + size + bytes(4) + text


def _cut(sockets: list[socket.socket]) -> int:
    reading, cut = list(sockets), 0
    while reading and (readable := select.select(reading, [], [], SILENCE)[0]):
        for sock in readable:
            try:
                ended = not sock.recv(1 << 20)
            except ConnectionError:
                ended = True
            if ended:
                reading.remove(sock)
                cut += 1
    return cut


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
