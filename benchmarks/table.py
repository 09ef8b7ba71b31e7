"""The figures as Markdown that reads well in a terminal too."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from .catalogue import KIT
from .lab import Figures
from .machine import describe
from .results import Results, spread
from .scenarios import SCENARIOS, TARGETS, Cell, Scenario, Target

__all__ = ["report", "said"]


def report(results: Results) -> str:
    """Everything there is to say about a session."""
    parts = [f"{results.method()}, servers in turn. {describe(results.machine)}."]
    for scenario in SCENARIOS:
        if rows := _rows(results, scenario):
            head = ("server", "median", "spread", "p50", "p99", f"{KIT} / it", "besides")
            parts.append(f"**{scenario.title}** (`{scenario.name}`)\n\n{_table(head, rows)}")
    if targets := [_target(results, target) for target in TARGETS if results.of(*_place(target))]:
        parts.append(_table(("target", "median", "lowest", "highest", "wanted", ""), targets))
    remarks = [*results.notes, *_failures(results)]
    if disturbed := results.disturbed():
        busy = "the machine was busy with something else"
        remarks.append(f"{disturbed} of {len(results.runs)} runs got too little of the server's core: {busy}")
    if remarks:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts)


def _rows(results: Results, scenario: Scenario) -> list[tuple[str, ...]]:
    servers = [server for server in scenario.servers if results.of(scenario.name, server)]
    return [_row(results, scenario, server) for server in servers]


def _row(results: Results, scenario: Scenario, server: str) -> tuple[str, ...]:
    medians = results.medians(scenario.name, server)
    if not medians:
        return (server, "failed", "", "", "", "", "")
    cell = Cell(scenario.name, server)
    kit = results.ratios(Cell(scenario.name, KIT), cell) if server != KIT else []
    return (
        server,
        said("rate", medians["rate"]),
        f"{spread(list(results.values(cell).values())):.0%}",
        said("p50_us", medians["p50_us"]),
        said("p99_us", medians["p99_us"]),
        f"{statistics.median(kit):.2f} ({min(kit):.2f} to {max(kit):.2f})" if kit else "",
        _besides(scenario, medians),
    )


def _besides(scenario: Scenario, medians: Figures) -> str:
    return scenario.besides.format_map({name: said(name, value) for name, value in medians.items()})


def said(name: str, value: float) -> str:
    """A figure with the unit that its name tells."""
    if "_us" in name:
        return f"{value:,.0f} µs" if value < 1000 else f"{value / 1000:,.1f} ms"
    if name.endswith("_kb"):
        return f"{value:,.1f} kB" if value < 100 else f"{value:,.0f} kB"
    return f"{value:,.0f}"


def _place(target: Target) -> tuple[str, str]:
    return target.cell.scenario, target.cell.server


def _target(results: Results, target: Target) -> tuple[str, ...]:
    wanted = f"{'>=' if target.least else '<='} {target.bound:g}"
    ratios = results.ratios(target.cell, target.against)
    if not ratios:
        return (target.title, "", "", "", wanted, "not measured")
    middle = statistics.median(ratios)
    met = middle >= target.bound if target.least else middle <= target.bound
    return (
        target.title,
        f"{middle:.2f}",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
        wanted,
        "met" if met else "not met",
    )


def _failures(results: Results) -> list[str]:
    """One line for each reason, with the number of rounds."""
    counts: dict[str, int] = {}
    for run in results.failures():
        line = f"{run.scenario}: {run.server} failed: {run.error}"
        counts[line] = counts.get(line, 0) + 1
    return [f"{line} ({count} of {results.rounds} rounds)" for line, count in counts.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kept = [index for index in range(len(head)) if not head[index] or any(row[index] for row in rows)]
    lines = [[line[index] for index in kept] for line in (head, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(kept))]
    # Names and words stand to the left, figures to the right.
    left = [head[index] in ("server", "target", "besides", "") for index in kept]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True)]
    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])
