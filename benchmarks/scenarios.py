"""What is measured: each scenario with its servers, and the ratios that wampkit means to reach."""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import KIT, KIT_MIDDLEWARE
from .measure import Measure, beside_a_call, calls, connections, events, fresh, loops, with_stalled

__all__ = ["SCENARIOS", "TARGETS", "Cell", "Scenario", "Target"]

HAND, SHARED, ECHO = "by hand", "shared frame", "raw echo"
WEBSOCKETS, RATCHET = "websockets", "Ratchet"
PEERS = (WEBSOCKETS, "python-socketio", "Socket.IO (Node)", RATCHET)


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: What `--only` and the raw figures call it.
        title: What its rate counts, and under which load.
        measure: How.
        connections: How many connections there are at once.
        servers: Which servers are measured, the fastest known way to do it among them.
        besides: What the table tells besides the rate and its latency; names in braces are figures.
    """

    name: str
    title: str
    measure: Measure
    connections: int
    servers: tuple[str, ...]
    besides: str = ""


CALLERS = (KIT, KIT_MIDDLEWARE, HAND, ECHO, *PEERS)
RELAYS = (KIT, HAND, SHARED, *PEERS)

SCENARIOS = [
    Scenario("rpc-64x1", "calls/s, 64 connections with 1 in flight each", calls(64, 1), 64, CALLERS),
    Scenario("rpc-64x16", "calls/s, 64 connections with 16 in flight each", calls(64, 16), 64, CALLERS),
    Scenario("rpc-1x1", "calls/s, one connection, one after the other", calls(1, 1), 1, CALLERS),
    Scenario("fan-out-1000", "events/s to 1,000 subscribers, 1 in flight", events(1000, 1), 1000, RELAYS),
    Scenario("fan-out-1000x8", "events/s to 1,000 subscribers, 8 in flight", events(1000, 8), 1000, RELAYS),
    Scenario(
        "fan-out-5000",
        "events/s to 5,000 subscribers, and calls on another connection",
        beside_a_call(5000),
        5000,
        RELAYS,
        "a call meanwhile: p50 {call_p50_us}, p99 {call_p99_us}",
    ),
    Scenario(
        "topics-250x4",
        "events/s, 250 topics with 4 subscribers each, 16 publishers with 4 in flight",
        events(1000, 4, topics=250, publishers=16),
        1016,
        RELAYS,
    ),
    Scenario("churn", "connect, subscribe, call and close, loops/s, 32 at once", loops(32), 32, (KIT, HAND, *PEERS)),
    Scenario(
        "connect-5000",
        "connects/s up to 5,000 connections, then idle",
        connections(5000),
        5000,
        (KIT, HAND, ECHO, *PEERS),
        "{rss_per_conn_kb} a connection",
    ),
    Scenario(
        "fresh",
        "calls/s of a process that has served nobody yet, 64 connections with 1 in flight each",
        fresh(64),
        64,
        (KIT, HAND),
        "once warm {warm_rate}/s",
    ),
    Scenario(
        "slow-readers",
        "events/s to 1,000 subscribers while 10 more read nothing, 1 in flight",
        with_stalled(1000, 10),
        1010,
        (KIT, HAND, SHARED, WEBSOCKETS, RATCHET),
        "without them {rate_without}/s, p99 {p99_us_without}; one takes {stalled_kb} of 8 MB, {stalled_cut} cut off",
    ),
]


@dataclass(frozen=True)
class Cell:
    """A figure of a server in a scenario."""

    scenario: str
    server: str
    figure: str = "rate"


@dataclass(frozen=True)
class Target:
    """A bound on a figure, or on its ratio to another one of the same round.

    Attributes:
        title: What is bounded.
        cell: The figure.
        against: What it is divided by; None for the figure itself.
        bound: The bound.
        least: Whether the bound is the least that is wanted, or else the most.
    """

    title: str
    cell: Cell
    against: Cell | None
    bound: float
    least: bool = True


def _against(title: str, scenario: str, server: str, bound: float) -> Target:
    return Target(f"{title} / {server}", Cell(scenario, KIT), Cell(scenario, server), bound)


def _middleware(scenario: str, title: str) -> Target:
    return Target(f"{title}, with middleware / without", Cell(scenario, KIT_MIDDLEWARE), Cell(scenario, KIT), 0.85)


TARGETS = [
    _against("calls/s 64 x 1", "rpc-64x1", ECHO, 1.1),
    _against("calls/s 64 x 16", "rpc-64x16", ECHO, 3),
    Target(
        f"p50 of a call, 1 x 1 / {ECHO}", Cell("rpc-1x1", KIT, "p50_us"), Cell("rpc-1x1", ECHO, "p50_us"), 1.1, False
    ),
    _against("events/s to 1,000, 1 in flight", "fan-out-1000", SHARED, 0.9),
    _against("events/s to 1,000, 8 in flight", "fan-out-1000x8", SHARED, 5),
    _against("events/s, 250 topics x 4", "topics-250x4", SHARED, 2.5),
    _against("connect, subscribe, call, close", "churn", HAND, 1.1),
    Target("idle memory a connection, kB", Cell("connect-5000", KIT, "rss_per_conn_kb"), None, 16, False),
    Target("calls/s, fresh process / warm", Cell("fresh", KIT), Cell("fresh", KIT, "warm_rate"), 0.9),
    _middleware("rpc-64x1", "calls/s 64 x 1"),
    _middleware("rpc-64x16", "calls/s 64 x 16"),
    _middleware("rpc-1x1", "calls/s 1 x 1"),
]
