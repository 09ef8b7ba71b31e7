"""Ways to measure a server. Each is made from its numbers and returns a function of the lab and the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from .catalogue import Server
from .lab import Figures, Lab, Load, Running
from .peak import Peak
from .stalled import stalled

__all__ = ["Measure", "beside_a_call", "calls", "connections", "events", "fresh", "loops", "with_stalled"]

Measure: TypeAlias = Callable[[Lab, Server], Figures]

FAN_OUT = {"pubs": 1, "window": 1}

HELD = 512
"""What waits for each subscriber that does not read while the others are measured, in kB: more than the sockets' own
buffers take, and less than wampkit allows by default."""

UNREAD = 8192
"""What each of them is sent in all, in kB, when their memory is measured."""


def calls(connections: int, in_flight: int) -> Measure:
    """So many calls on each of so many connections, always."""

    def measure(lab: Lab, server: Server) -> Figures:
        with lab.running(server) as running:
            return lab.load(running, server.dialect.call, {"conns": connections, "inflight": in_flight})

    return measure


def events(subscribers: int, window: int, *, topics: int = 1, publishers: int = 1) -> Measure:
    """Events to subscribers: a publisher has at most `window` under way that not all have got."""
    options = {"conns": subscribers, "window": window, "topics": topics, "pubs": publishers}

    def measure(lab: Lab, server: Server) -> Figures:
        with lab.running(server) as running:
            return lab.load(running, ["--mode", "topics", *server.dialect.events], options)

    return measure


def beside_a_call(subscribers: int) -> Measure:
    """A fan-out, and meanwhile one call after the other on a connection of a second generator."""

    def measure(lab: Lab, server: Server) -> Figures:
        fan_out = ["--mode", "fanout", *server.dialect.events]
        options = {**FAN_OUT, "conns": subscribers}
        # The fan-out goes on for longer than the caller needs, so that each call meets events.
        longer = lab.seconds + 1
        with lab.running(server) as running, lab.loading(running, fan_out, options, seconds=longer) as load:
            _wait_for(running, subscribers, load)
            time.sleep(0.3)  # the generator takes a breath before it publishes
            call = lab.load(running, server.dialect.call, {"conns": 1})
            return {**load.figures(), **{f"call_{name}": call[name] for name in ("rate", "p50_us", "p99_us")}}

    return measure


def _wait_for(running: Running, count: int, load: Load) -> None:
    """Until the server has so many connections, or the generator has ended, which tells why when it is asked."""
    while running.files() < count and not load.process.ended():
        time.sleep(0.02)


def loops(at_once: int) -> Measure:
    """Connections that come, subscribe, call once and leave, so many at any time."""

    def measure(lab: Lab, server: Server) -> Figures:
        with lab.running(server) as running:
            return lab.load(running, ["--mode", "churn", *server.dialect.events], {"conns": at_once})

    return measure


def connections(count: int) -> Measure:
    """Connections that are opened, 64 at a time, and stay idle: their rate, and the memory that each takes."""

    def measure(lab: Lab, server: Server) -> Figures:
        with lab.running(server) as running:
            return lab.load(running, ["--mode", "conn"], {"conns": count, "hold": 0.5})

    return measure


def fresh(connections: int) -> Measure:
    """A process that has served nobody yet, then the same one again."""
    options = {"conns": connections, "inflight": 1}

    def measure(lab: Lab, server: Server) -> Figures:
        with lab.running(server, probe=False) as running:
            first = lab.load(running, server.dialect.call, options, warmup=0.1)
            second = lab.load(running, server.dialect.call, options, warmup=0.1)
        return {**first, "warm_rate": second["rate"]}

    return measure


def with_stalled(subscribers: int, stall: int) -> Measure:
    """A fan-out, the same one while further subscribers read nothing, and the memory that those come to take."""
    options = {**FAN_OUT, "conns": subscribers}

    def measure(lab: Lab, server: Server) -> Figures:
        fan_out = ["--mode", "fanout", *server.dialect.events]
        with lab.running(server) as running:
            without = lab.load(running, fan_out, options)
            with stalled(running, stall, lab.cores[1]) as others:
                others.flood(HELD)
                figures = lab.load(running, fan_out, options)
        with lab.running(server) as running, stalled(running, stall, lab.cores[1]) as others:
            with Peak(running.resident) as memory:
                others.flood(UNREAD)
            cut = others.cut()
        return {
            **figures,
            "rate_without": without["rate"],
            "p99_us_without": without["p99_us"],
            "stalled_kb": memory.growth / stall,
            "stalled_cut": cut,
        }

    return measure
