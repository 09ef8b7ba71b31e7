"""The figures as a picture: one panel a scenario, one bar a server."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from .catalogue import KIT, KIT_MIDDLEWARE
from .generator import Failure
from .machine import describe
from .results import Results
from .scenarios import SCENARIOS, Cell, Scenario
from .table import said

__all__ = ["check", "draw"]

COLORS = {KIT: "#2a6f97", KIT_MIDDLEWARE: "#8fb8d0"}
OTHERS, INK = "#c4ccd4", "#333333"
PANELS = ("rpc-64x1", "rpc-64x16", "fan-out-1000", "fan-out-1000x8", "topics-250x4", "churn")
COLUMNS = 2


def check(path: Path) -> None:
    """Find out before the measurements whether a picture can be drawn.

    Raises:
        Failure: It cannot.
    """
    if path.suffix not in (".png", ".svg"):
        raise Failure(f"--plot {path}: the suffix says which kind, .png or .svg")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Failure("--plot needs matplotlib: pip install 'wampkit[bench]'") from None


def draw(results: Results, path: Path) -> None:
    """Draw the medians, with a whisker from the lowest to the highest round."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = [each for each in SCENARIOS if each.name in PANELS and _bars(results, each)]
    panels = panels or [each for each in SCENARIOS if _bars(results, each)]
    if not panels:
        raise Failure("there is nothing to draw")
    rows = -(-len(panels) // COLUMNS)
    tallest = max(len(_bars(results, each)) for each in panels)
    with rc_context({"font.size": 9, "svg.hashsalt": "wampkit", "text.color": INK}):
        figure = Figure(figsize=(10, rows * (0.8 + 0.27 * tallest) + 0.6), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axes, scenario in zip(grid, panels, strict=False):
            _panel(axes, results, scenario)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        foot = f"Medians of {results.method()} with the range of all rounds; longer is better."
        figure.supxlabel(f"{foot}\n{describe(results.machine)}", fontsize=7.5, color="#666666")
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(results: Results, scenario: Scenario) -> list[tuple[str, float]]:
    medians = {server: results.medians(scenario.name, server) for server in scenario.servers}
    return sorted(((server, each["rate"]) for server, each in medians.items() if each), key=lambda bar: bar[1])


def _panel(axes: Any, results: Results, scenario: Scenario) -> None:
    bars = _bars(results, scenario)
    names = [name for name, _ in bars]
    rates = [rate for _, rate in bars]
    rounds = [list(results.values(Cell(scenario.name, name)).values()) for name in names]
    reach = (
        [rate - min(each) for rate, each in zip(rates, rounds, strict=True)],
        [max(each) - rate for rate, each in zip(rates, rounds, strict=True)],
    )
    colors = [COLORS.get(name, OTHERS) for name in names]
    axes.barh(names, rates, color=colors, height=0.7, xerr=reach, error_kw={"ecolor": INK, "lw": 0.8, "capsize": 2})
    for place, (rate, each) in enumerate(zip(rates, rounds, strict=True)):
        weight = "bold" if names[place] == KIT else "normal"
        axes.annotate(
            said("rate", rate), (max(each), place), (5, 0), textcoords="offset points", va="center", weight=weight
        )
    axes.set_title(textwrap.fill(scenario.title, 48), loc="left", fontsize=9.5, weight="bold")
    axes.set_xlim(0, max(map(max, rounds)) * 1.18)
    axes.xaxis.set_visible(False)
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
