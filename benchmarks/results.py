"""What was measured: run by run, and what can be said of it. Ratios are taken within a round, never across."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .generator import Failure
from .lab import Figures
from .scenarios import Cell, Target

__all__ = ["Results", "Run", "spread"]

SATURATING = {"rpc-64x1", "rpc-64x16", "fan-out-1000", "fan-out-1000x8", "topics-250x4", "churn", "connect-5000"}
"""Scenarios in which a server always has something to do."""

ENOUGH = 0.8
"""The share of a core below which a process that always has something to do was kept from it."""


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        round: In which round, from 1.
        scenario: Which scenario.
        server: Which server.
        figures: What came out, unless it failed.
        error: Why it failed.
    """

    round: int
    scenario: str
    server: str
    figures: Figures = field(default_factory=dict)
    error: str = ""


@dataclass
class Results:
    """All measurements of one session.

    Attributes:
        machine: What `machine.facts` says.
        rounds: How many rounds were wanted.
        seconds: How long one measurement lasted.
        notes: What was left out, and why.
        runs: The measurements, in the order in which they were made.
    """

    machine: dict[str, str]
    rounds: int
    seconds: float
    notes: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def method(self) -> str:
        """How often and how long, in words."""
        return f"{self.rounds} round{'s' * (self.rounds > 1)} of {self.seconds:g} s"

    def of(self, scenario: str, server: str) -> list[Run]:
        """The measurements of a server in a scenario."""
        return [run for run in self.runs if (run.scenario, run.server) == (scenario, server)]

    def values(self, cell: Cell) -> dict[int, float]:
        """A figure by round; rounds in which its run failed are left out."""
        return {
            run.round: run.figures[cell.figure]
            for run in self.of(cell.scenario, cell.server)
            if cell.figure in run.figures
        }

    def medians(self, scenario: str, server: str) -> Figures:
        """The median of each figure of a server in a scenario."""
        good = [run.figures for run in self.of(scenario, server) if not run.error]
        return {name: statistics.median(run[name] for run in good) for name in good[0]} if good else {}

    def ratios(self, cell: Cell, against: Cell | None) -> list[float]:
        """A figure, divided by another one of the same round unless that is None, for each round that has both."""
        values = self.values(cell)
        if against is None:
            return list(values.values())
        others = self.values(against)
        return [value / others[number] for number, value in values.items() if others.get(number)]

    def failures(self) -> list[Run]:
        """The measurements that failed."""
        return [run for run in self.runs if run.error]

    def disturbed(self) -> int:
        """How many measurements got much less of the server's core than they could have used."""
        busy = [run.figures for run in self.runs if run.scenario in SATURATING and "srv_cpu" in run.figures]
        return sum(figures["srv_cpu"] < ENOUGH and figures["gen_cpu"] < ENOUGH for figures in busy)

    # ---- the file

    def write(self, path: Path, targets: Iterable[Target]) -> None:
        """Write everything as JSON, with what the targets came to."""
        reached = [{**asdict(target), "ratios": self.ratios(target.cell, target.against)} for target in targets]
        path.write_text(json.dumps({**asdict(self), "targets": reached}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` has written.

        Raises:
            Failure: That is something else.
        """
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
            runs = [Run(**run) for run in stored["runs"]]
            return cls(stored["machine"], stored["rounds"], stored["seconds"], stored["notes"], runs)
        except (KeyError, TypeError, ValueError):
            raise Failure(f"{path} holds no figures that --json wrote") from None


def spread(values: Sequence[float]) -> float:
    """How far values lie apart, as a share of their median."""
    return (max(values) - min(values)) / statistics.median(values)
