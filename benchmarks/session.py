"""The order of things: round by round, scenario by scenario, every server in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .catalogue import Server
from .generator import Failure
from .lab import Lab
from .results import Results, Run
from .scenarios import Scenario

__all__ = ["Plan", "plan", "run"]

SPARE_FILES = 100


@dataclass(frozen=True)
class Plan:
    """What will be measured.

    Attributes:
        parts: Each scenario with its servers.
        notes: What cannot be measured here, and why.
    """

    parts: list[tuple[Scenario, list[Server]]]
    notes: list[str]


def plan(scenarios: Iterable[Scenario], servers: Sequence[Server], files: int) -> Plan:
    """What can be measured of what is wanted.

    Args:
        scenarios: What is wanted.
        servers: The servers that are wanted.
        files: How many files a process may open.
    """
    parts = []
    notes = [f"{server.name}: not installed: {server.missing}" for server in servers if server.missing]
    for scenario in scenarios:
        needed = scenario.connections + SPARE_FILES
        if needed > files:
            notes.append(f"{scenario.name}: left out: {needed:,} open files are needed, see ulimit -Hn")
            continue
        present = [server for server in servers if server.name in scenario.servers and not server.missing]
        notes += [
            f"{scenario.name}: {server.name} left out: it holds {server.most:,} connections"
            for server in present
            if server.most < scenario.connections
        ]
        able = [server for server in present if server.most >= scenario.connections]
        if able:
            parts.append((scenario, able))
    return Plan(parts, notes)


def run(lab: Lab, wanted: Plan, results: Results) -> Iterable[Run]:
    """Measure everything, adding to the results and telling of each run; the servers' order turns with the rounds."""
    for number in range(1, results.rounds + 1):
        for scenario, servers in wanted.parts:
            first = (number - 1) % len(servers)
            for server in servers[first:] + servers[:first]:
                try:
                    done = Run(number, scenario.name, server.name, scenario.measure(lab, server))
                except Failure as failure:
                    done = Run(number, scenario.name, server.name, error=str(failure))
                results.runs.append(done)
                yield done
