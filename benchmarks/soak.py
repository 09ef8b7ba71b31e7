"""Hold idle connections for a while and watch the server's memory: `python -m benchmarks.soak`.

    python -m benchmarks.soak                               # 10,000 connections for ten minutes
    python -m benchmarks.soak --connections 1000 --minutes 1

The server is `wampkit run` with its ping every 25 seconds; each is answered. Printed are kB a connection, and the
slope of the server's resident memory, by least squares: from the second minute on, and in the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from .catalogue import KIT, catalogue
from .lab import Lab, Running
from .machine import cores, describe, facts, open_files
from .processes import end_once

AT_ONCE = 200
SETTLING = 60.0
SAMPLE = 5.0
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: wamp\r\n\r\n"
)


class Idler(asyncio.Protocol):
    """A client that does nothing but answer pings."""

    pings = 0
    lost = 0

    def __init__(self, welcomed: asyncio.Future[None]) -> None:
        self._welcomed = welcomed
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._welcomed.done():
            _, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end or len(rest) < 2 + rest[1]:
                return
            self._welcomed.set_result(None)
            self._buffer = rest[2 + rest[1] :]
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + self._buffer[1]:
            size = 2 + self._buffer[1]
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            if frame[0] == 0x89:
                Idler.pings += 1
                self._transport.write(bytes([0x8A, 0x80 | frame[1], 0, 0, 0, 0]) + frame[2:])

    def connection_lost(self, exc: Exception | None) -> None:
        Idler.lost += 1
        if not self._welcomed.done():
            self._welcomed.set_exception(ConnectionError("the server closed the connection"))


async def connect(port: int, count: int) -> None:
    """Open so many connections, from several addresses, since each has 28,000 ports."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            welcomed: asyncio.Future[None] = loop.create_future()
            source = (f"127.0.0.{2 + number % 8}", 0)
            await loop.create_connection(lambda: Idler(welcomed), "127.0.0.1", port, local_addr=source)
            await welcomed

    await asyncio.gather(*[one(number) for number in range(count)])


async def hold(running: Running, count: int, minutes: float) -> None:
    """Connect, wait, and print."""
    before = running.resident()
    await connect(running.port, count)
    full = running.resident()
    print(f"{count:,} connections: {(full - before) / count:.1f} kB each", flush=True)
    start = time.monotonic()
    samples: list[tuple[float, float]] = []
    settling = min(SETTLING, minutes * 20)
    while (elapsed := time.monotonic() - start) < minutes * 60:
        await asyncio.sleep(min(SAMPLE, minutes * 60 - elapsed))
        if elapsed >= settling:
            samples.append((elapsed / 3600, running.resident() / 1024))
    print(
        f"after {minutes:g} min: {running.resident() / 1024:.2f} MiB, {samples[0][1]:.2f} at first; "
        f"slope {slope(samples):+.2f} MiB/h, {slope(samples[len(samples) // 2 :]):+.2f} in the second half; "
        f"{Idler.pings:,} pings answered, {Idler.lost} lost"
    )


def slope(samples: list[tuple[float, float]]) -> float:
    """How much the second figure grows for one of the first."""
    hours, megabytes = zip(*samples, strict=True)
    return statistics.linear_regression(hours, megabytes).slope


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if open_files() < options.connections + 200:
        raise SystemExit(f"benchmarks.soak: a process may open {open_files()} files here; raise `ulimit -n`")
    end_once()
    print(describe(facts(uvloop=options.uvloop)))
    kit = next(each for each in catalogue(uvloop=options.uvloop) if each.name == KIT)
    with Lab(cores=cores(), seconds=1.0).running(kit) as running:
        asyncio.run(hold(running, options.connections, options.minutes))


if __name__ == "__main__":
    main()
