"""Measure wampkit against a hand-written aiohttp server, in turn, in one run, and print the ratios.

    python -m benchmarks                # five rounds, about two minutes
    python -m benchmarks --rounds 3 --seconds 1 --only rpc

Needs gcc, for the load generator `wampload.c`, which checks every reply and every event that it counts. The servers
run on one core and the generator on another where the machine has two. Ratios travel between machines, absolute
figures do not; the spread is (largest - smallest) / median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
GENERATOR = HERE / ".build" / "wampload"

RPC = ["--call", '[2,"%I","http://example.com/calc#add",1.5,2]', "--reply", '[3,"%I",3.5]']
FAN_OUT = ["--mode", "fanout", "--pubs", "1"]

SCENARIOS: dict[str, tuple[str, list[str]]] = {
    "rpc-64x1": ("calls/s, 64 connections x 1 in flight", ["--mode", "rpc", "--conns", "64", "--inflight", "1", *RPC]),
    "rpc-64x16": ("calls/s, 64 x 16", ["--mode", "rpc", "--conns", "64", "--inflight", "16", *RPC]),
    "rpc-1x1": ("calls/s, 1 x 1", ["--mode", "rpc", "--conns", "1", "--inflight", "1", *RPC]),
    "fan-out-1000": ("events/s to 1,000, one in flight", [*FAN_OUT, "--conns", "1000", "--window", "1"]),
    "fan-out-1000x8": ("events/s to 1,000, eight in flight", [*FAN_OUT, "--conns", "1000", "--window", "8"]),
}
SERVERS = {"wampkit": "benchmarks.served", "by hand": "benchmarks.handwritten"}

# A subscriber proves that its SUBSCRIBE was taken with a call that both servers answer alike.
SCRIPT = ["--proto", "wamp", "--path", "/ws", "--noscript", "--script", "<[0,%*"]
SUBSCRIBED = [
    "--sub", '>[5,"%T"]', "--sub", '>[2,"1","http://example.com/calc#add",1.5,2]', "--sub", '<[3,"1",3.5]',
    "--pub", '[7,"%T","%P"]', "--event", '[8,"%T","%P"]',
]  # fmt: skip


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one measurement lasts (default 2)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    options = parser.parse_args()
    names = [name for name in SCENARIOS if options.only in name]
    if not names:
        parser.error(f"no scenario contains {options.only!r}; there are {', '.join(SCENARIOS)}")
    build()
    print(f"{options.rounds} rounds of {options.seconds:g} s, servers in turn, Python {sys.version.split()[0]}\n")
    print(f"{'':36}{'wampkit':>12}{'by hand':>12}{'ratio':>8}{'lowest':>8}{'highest':>8}{'spread':>8}")
    for name in names:
        report(SCENARIOS[name][0], measure(name, options.rounds, options.seconds))


def build() -> None:
    """Compile the generator if it is older than its source."""
    source = HERE / "wampload.c"
    if GENERATOR.exists() and GENERATOR.stat().st_mtime > source.stat().st_mtime:
        return
    if shutil.which("gcc") is None:
        raise SystemExit("benchmarks: gcc is needed to build the load generator; install it (Debian: apt install gcc)")
    GENERATOR.parent.mkdir(exist_ok=True)
    subprocess.run(["gcc", "-O2", "-w", "-o", str(GENERATOR), str(source)], check=True)


def measure(name: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The rates of each server, round by round; each process is warmed up once, then measured in turn."""
    rates: dict[str, list[float]] = {server: [] for server in SERVERS}
    with started("wampkit") as kit, started("by hand") as hand:
        ports = {"wampkit": kit, "by hand": hand}
        for server, port in ports.items():
            load(server, name, port, 0.3)
        for _ in range(rounds):
            for server, port in ports.items():
                rates[server].append(load(server, name, port, seconds))
    return rates


@contextmanager
def started(server: str) -> Iterator[int]:
    """A server process on a free port, ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*pinned(0), sys.executable, "-m", SERVERS[server], str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parent)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit(f"benchmarks: the server {server!r} did not start")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def load(server: str, name: str, port: int, seconds: float) -> float:
    """One run of the generator: the rate that it counted, or the end if any reply was wrong."""
    arguments = SCENARIOS[name][1]
    script = SCRIPT + (SUBSCRIBED if "fanout" in arguments else [])
    timing = ["--warmup", "0.3", "--duration", str(seconds), "--port", str(port)]
    command = [*pinned(1), str(GENERATOR), *arguments, *script, *timing]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 10 * seconds)
    result = json.loads(done.stdout or "{}")
    if not result.get("ok"):
        reason = result.get("first_error") or result.get("error") or done.stderr
        raise SystemExit(f"benchmarks: {name} on {server}: {reason}")
    return float(result["rate"])


def pinned(core: int) -> list[str]:
    """The command that keeps a process on one core, where there are cores to keep apart."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core])] if len(cores) > 1 and shutil.which("taskset") else []


def report(title: str, rates: dict[str, list[float]]) -> None:
    """One line: both medians, and the ratio of each round."""
    kit, hand = rates["wampkit"], rates["by hand"]
    ratios = [a / b for a, b in zip(kit, hand, strict=True)]
    middle = statistics.median(ratios)
    spread = (max(ratios) - min(ratios)) / middle
    print(
        f"{title:36}{statistics.median(kit):12,.0f}{statistics.median(hand):12,.0f}{middle:8.2f}"
        f"{min(ratios):8.2f}{max(ratios):8.2f}{spread:8.0%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
