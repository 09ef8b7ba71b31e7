"""The benchmarks run: every server of ours is understood by the generator, and the figures come out. Not how fast."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import generator

from ..support.command import PATIENCE, environment
from ..support.wire import eventually

ROOT = Path(__file__).parents[2]
CALLERS = ["wampkit", "wampkit + middleware", "by hand", "raw echo"]
RELAYS = ["wampkit", "by hand", "shared frame"]
TINY = ["--rounds", "1", "--seconds", "0.05"]


def benchmarks(*args: str, path: str = "", **env: str) -> subprocess.Popen[str]:
    """`python -m benchmarks` in this checkout, under a `PYTHONPATH` that begins with `path`."""
    given = environment(env)
    given["PYTHONPATH"] = os.pathsep.join(filter(None, [path, given["PYTHONPATH"]]))
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a benchmark that ends by itself."""
    try:
        out, err = process.communicate(timeout=2 * PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


@dataclass
class Session:
    """What a benchmark came to: its table and its raw figures."""

    table: str
    file: Path

    @property
    def stored(self) -> dict[str, Any]:
        stored: dict[str, Any] = json.loads(self.file.read_text())
        return stored

    def figures(self, scenario: str) -> dict[str, dict[str, float]]:
        """The figures of each server in a scenario; a run that failed is an error here."""
        runs = [run for run in self.stored["runs"] if run["scenario"] == scenario]
        assert [run["error"] for run in runs if run["error"]] == []
        return {run["server"]: run["figures"] for run in runs}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    """Three tiny benchmarks, side by side: how fast anything is does not matter here."""
    directory = tmp_path_factory.mktemp("benchmarks")
    asked = {
        "calls": ["--only", "rpc-1x1", "--servers", ",".join(CALLERS)],
        "events": ["--only", "topics", "--servers", ",".join(RELAYS)],
        "kit": ["--only", "fresh,slow-readers", "--servers", "wampkit"],
    }
    files = {name: directory / f"{name}.json" for name in asked}
    generator.build()
    running = {name: benchmarks(*TINY, "--json", str(files[name]), *words) for name, words in asked.items()}
    ended = {name: said(process) for name, process in running.items()}
    assert [code for code, _, _ in ended.values()] == [0, 0, 0], ended
    return {name: Session(table, files[name]) for name, (_, table, _) in ended.items()}


def test_calls(sessions: dict[str, Session]) -> None:
    """Every server of ours answers calls as the generator wants it, and all are in the table."""
    session = sessions["calls"]
    measured = session.figures("rpc-1x1")
    assert sorted(measured) == sorted(CALLERS)
    for server, figures in measured.items():
        assert figures["rate"] > 0
        assert re.search(rf"^\| {re.escape(server)} +\| +{figures['rate']:,.0f} \|", session.table, re.MULTILINE)
    assert re.search(r"^\| p50 of a call, 1 x 1 / raw echo +\| +[\d.]+ \|.*\| (not )?met", session.table, re.MULTILINE)


def test_events(sessions: dict[str, Session]) -> None:
    """Every server of ours relays the events of many topics: all of them, in order, once. A ratio comes of it."""
    session = sessions["events"]
    measured = session.figures("topics-250x4")
    assert sorted(measured) == sorted(RELAYS)
    (target,) = (each for each in session.stored["targets"] if each["ratios"])
    assert target["title"] == "events/s, 250 topics x 4 / shared frame"
    assert target["ratios"] == [measured["wampkit"]["rate"] / measured["shared frame"]["rate"]]


def test_read(sessions: dict[str, Session]) -> None:
    """The table can be had again from the raw figures."""
    session = sessions["events"]
    assert said(benchmarks("--read", str(session.file))) == (0, session.table, "")


def test_slow_readers(sessions: dict[str, Session]) -> None:
    """Subscribers that read nothing are cut off by wampkit before they hold all that was published."""
    figures = sessions["kit"].figures("slow-readers")["wampkit"]
    assert figures["stalled_cut"] == 10
    assert 0 < figures["stalled_kb"] < 8192
    assert "10 cut off" in sessions["kit"].table


def test_fresh(sessions: dict[str, Session]) -> None:
    """A process is measured before and after it is warm."""
    figures = sessions["kit"].figures("fresh")["wampkit"]
    assert f"once warm {figures['warm_rate']:,.0f}/s" in sessions["kit"].table


def test_failure(tmp_path: Path) -> None:
    """A server that does not start is a failure with its last words, in the table and in the raw figures."""
    (tmp_path / "msgspec.py").write_text("raise ImportError('no msgspec here')\n")
    file = tmp_path / "failed.json"
    words = ["--only", "rpc-1x1", "--servers", "wampkit,raw echo", "--json", str(file)]
    code, table, _ = said(benchmarks(*TINY, *words, path=str(tmp_path)))
    assert code == 1
    errors = {run["server"]: run["error"] for run in json.loads(file.read_text())["runs"]}
    assert errors == {"wampkit": "the server did not start: ImportError: no msgspec here", "raw echo": ""}
    assert re.search(r"^\| wampkit +\| failed \|", table, re.MULTILINE), table
    assert "rpc-1x1: wampkit failed: the server did not start: ImportError: no msgspec here (1 of 1 rounds)" in table


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stop(number: signal.Signals) -> None:
    """A signal ends the benchmark, its server and its generator, and what was measured so far is shown."""
    process = benchmarks("--only", "rpc-1x1", "--servers", "wampkit", "--seconds", "3600")
    try:
        await eventually(lambda: len(children(process.pid)) == 2, "a server and a generator", PATIENCE)
        started = children(process.pid)
        process.send_signal(number)
    finally:
        code, out, _ = said(process)
    assert code == 130
    assert "stopped before the end" in out
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def test_one_line_errors(tmp_path: Path) -> None:
    """What is wrong is said in one line, before anything is measured."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    (tmp_path / "other.json").write_text("[]")
    wrong = {
        ("--only", "nothing"): "benchmarks: no scenario is called 'nothing'; there are rpc-64x1, ",
        ("--plot", "figures.pdf"): "benchmarks: --plot figures.pdf: the suffix says which kind, .png or .svg\n",
        ("--plot", "figures.png"): "benchmarks: --plot needs matplotlib: pip install 'wampkit[bench]'\n",
        ("--read", f"{tmp_path}/other.json"): f"benchmarks: {tmp_path}/other.json holds no figures that --json wrote\n",
    }
    for words, sentence in wrong.items():
        code, out, err = said(benchmarks(*words, path=str(tmp_path)))
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith(sentence)


def test_missing_peers() -> None:
    """A peer that is not installed is named, not left out in silence."""
    code, out, _ = said(benchmarks("--list", PATH=""))
    assert code == 0
    assert re.search(r"^  Socket.IO \(Node\) not installed: node$", out, re.MULTILINE)
    assert re.search(r"^  Ratchet +not installed: php$", out, re.MULTILINE)
