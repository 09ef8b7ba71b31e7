"""Measure wampkit against other servers, in turn, in one session, and print the figures and their ratios.

Linux only, with gcc for the load generator, which checks every answer and every event that it counts. What the
figures mean, and what they do not, is told in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TypeVar

from . import generator, machine, plot, session
from .catalogue import KIT, Server, catalogue
from .generator import Failure
from .lab import Lab
from .processes import end_once
from .results import Results
from .scenarios import SCENARIOS, TARGETS, Scenario
from .table import report, said

T = TypeVar("T", Scenario, Server)

INTERRUPTED = 130


def main() -> int:
    """Do what the command line says; the exit code is 1 if wampkit itself failed anywhere."""
    end_once()
    parser = _parser()
    options = parser.parse_args()
    try:
        if options.plot:
            plot.check(options.plot)
        if options.list:
            print(_listing(catalogue(ratchet=options.ratchet)))
            return 0
        results = Results.read(options.read) if options.read else None
        interrupted = False
        if results is None:
            results, interrupted = _measure(options)
        _show(results, options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (Failure, OSError) as error:
        parser.exit(2, f"benchmarks: {error}\n")
    if interrupted:
        return INTERRUPTED
    return int(any(run.server == KIT for run in results.failures()))


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_rounds, help="how often each server is measured (default 5)")
    parser.add_argument("--seconds", type=_seconds, help="how long one measurement lasts (default 2)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of half a second: to see that it works")
    parser.add_argument("--only", default="", metavar="WORD,...", help="these scenarios; a part of the name will do")
    parser.add_argument("--servers", default="", metavar="WORD,...", help="these servers; a part of the name will do")
    parser.add_argument("--uvloop", action="store_true", help="run the Python servers on uvloop")
    parser.add_argument(
        "--ratchet",
        default=os.environ.get("RATCHET_AUTOLOAD", ""),
        metavar="FILE",
        help="the vendor/autoload.php behind which Composer has put cboden/ratchet (default: $RATCHET_AUTOLOAD)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a .png or .svg (needs matplotlib)")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: show what --json wrote earlier")
    parser.add_argument("--list", action="store_true", help="name the scenarios and servers, and measure nothing")
    return parser


def _seconds(text: str) -> float:
    if not 0 < (number := float(text)) <= 3600:
        raise argparse.ArgumentTypeError("must be above 0, and at most 3600")
    return number


def _rounds(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _listing(servers: list[Server]) -> str:
    scenarios = [f"  {each.name:16} {each.title}" for each in SCENARIOS]
    named = [f"  {each.name:16}{f' not installed: {each.missing}' if each.missing else ''}" for each in servers]
    return "\n".join(["scenarios", *scenarios, "servers", *map(str.rstrip, named)])


def _measure(options: argparse.Namespace) -> tuple[Results, bool]:
    """What was measured, and whether somebody stopped it half-way."""
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 2.0)
    scenarios = _chosen(SCENARIOS, options.only, "scenario")
    servers = _chosen(catalogue(uvloop=options.uvloop, ratchet=options.ratchet), options.servers, "server")
    wanted = session.plan(scenarios, servers, machine.open_files())
    cores = machine.cores()
    if cores[0] is None:
        wanted.notes.append("there is one core only, which the servers and the generator share")
    generator.build()
    results = Results(machine.facts(uvloop=options.uvloop), rounds, seconds, wanted.notes)
    try:
        for run in session.run(Lab(seconds, cores), wanted, results):
            outcome = run.error or f"{said('rate', run.figures['rate'])}/s"
            place = f"round {run.round} of {rounds}, {run.scenario}, {run.server}"
            print(f"{place}: {outcome}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        wanted.notes.append("stopped before the end")
        return results, True
    return results, False


def _chosen(things: list[T], words: str, kind: str) -> list[T]:
    """Those whose name one of the words is, or is a part of if no name is that word."""
    names = [each.name for each in things]
    found: set[str] = set()
    for word in words.split(","):
        matches = {word} if word in names else {name for name in names if word in name}
        if not matches:
            raise Failure(f"no {kind} is called {word!r}; there are {', '.join(names)}")
        found |= matches
    return [each for each in things if each.name in found]


def _show(results: Results, options: argparse.Namespace) -> None:
    print(report(results))
    if options.json:
        results.write(options.json, TARGETS)
    if options.plot:
        plot.draw(results, options.plot)


if __name__ == "__main__":
    sys.exit(main())
