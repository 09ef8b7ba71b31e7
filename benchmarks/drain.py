"""Restart a server under load again and again, and count what became of the calls: `python -m benchmarks.drain`.

    python -m benchmarks.drain                     # 20 restarts at 2,000 calls a second, about a minute
    python -m benchmarks.drain --rounds 3 --uvloop

200 of wampkit's clients call procedures of 5 to 250 ms. Each procedure writes its number down before anything else.
The server, `wampkit run`, is ended with SIGTERM and started again on the same port. A call that was begun and not
answered would be made again by its client and so be begun twice; one that was lost would never be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from wampkit import Client, connect

from .lab import free_port
from .machine import describe, facts
from .processes import ROOT

CLIENTS = 200
SECONDS = 1.0
PATIENCE = 30.0


class Callers:
    """Clients that call at a rate, and what they asked and were answered."""

    def __init__(self, url: str, rate: float) -> None:
        self.asked = 0
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._url = url
        self._pause = CLIENTS / rate
        self._calls: set[asyncio.Task[None]] = set()
        self._clients: list[Client] = []
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, and begin to call."""
        for _ in range(CLIENTS):
            self._clients.append(await connect(self._url, backoff=(0.05, 0.5)).open())
        self._loops = [asyncio.create_task(self._go_on(client)) for client in self._clients]

    async def _go_on(self, client: Client) -> None:
        await asyncio.sleep(random.uniform(0, self._pause))
        while True:
            task = asyncio.create_task(self._call(client, self.asked))
            self.asked += 1
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            await asyncio.sleep(self._pause)

    async def _call(self, client: Client, number: int) -> None:
        try:
            assert await client.call("work", number, random.uniform(0.005, 0.25), timeout=PATIENCE) == number
        except Exception as error:
            self.failed[f"{type(error).__name__}: {error}"] += 1
        else:
            self.answered += 1

    async def stop(self) -> None:
        """Make no more calls, wait for the answers, and leave."""
        for loop in self._loops:
            loop.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=PATIENCE)
        for client in self._clients:
            await client.close()


def start(port: int, loop: str, log: Path) -> subprocess.Popen[str]:
    """A server that serves when this returns."""
    app = "benchmarks.servers.numbered:app"
    command = [sys.executable, "-m", "wampkit", "run", app, "--port", str(port), "--loop", loop]
    environment = os.environ | {"BEGUN": str(log)}
    silence = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=silence, text=True, start_new_session=True
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        process.wait()
        raise SystemExit(f"benchmarks.drain: the server did not start: {' '.join(command)}")
    return process


async def measure(rounds: int, rate: float, loop: str, log: Path) -> None:
    """The rounds, and one line for each figure."""
    port = free_port()
    callers = Callers(f"ws://127.0.0.1:{port}/ws", rate)
    drains: list[float] = []
    process = await asyncio.to_thread(start, port, loop, log)
    try:
        await callers.start()
        for _ in range(rounds):
            await asyncio.sleep(SECONDS)
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            await asyncio.to_thread(process.wait, PATIENCE)
            drains.append(time.monotonic() - begin)
            process = await asyncio.to_thread(start, port, loop, log)
        await asyncio.sleep(SECONDS)
        await callers.stop()
    finally:
        process.kill()
        process.wait()
    begun = Counter(log.read_text().split())
    twice = sum(count > 1 for count in begun.values())
    print(f"{rounds} restarts on {loop}: {callers.asked:,} calls made, {callers.answered:,} answered")
    print(f"begun and not answered at a restart (begun twice): {twice}; lost: {callers.asked - callers.answered}")
    print(f"seconds from SIGTERM to the end: median {statistics.median(drains):.2f}, longest {max(drains):.2f}")
    for error, count in callers.failed.most_common(3):
        print(f"  {count} x {error}")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2000.0, help="calls a second")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    print(describe(facts(uvloop=options.uvloop)))
    with tempfile.TemporaryDirectory() as directory:
        loop = "uvloop" if options.uvloop else "asyncio"
        asyncio.run(measure(options.rounds, options.rate, loop, Path(directory) / "begun.log"))


if __name__ == "__main__":
    main()
