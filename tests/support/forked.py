"""Commands that end by themselves, each in a process of its own that is forked from one that has imported wampkit.

To start Python and import the package takes many times as long as most commands do.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

__all__ = ["Forks"]


class Forks:
    """What runs commands, one after the other. It ends with this process.

    Args:
        env: The environment of the process that is forked.
        patience: Seconds after which a command is killed.
    """

    def __init__(self, env: dict[str, str], patience: float) -> None:
        words = [sys.executable, "-m", "tests.support.forked", str(patience)]
        self._process = subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()

    def run(self, args: tuple[str, ...], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `python -m wampkit` with these arguments."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"args": args, "cwd": str(cwd), "env": env}) + "\n")
            self._process.stdin.flush()
            code, out, err = json.loads(self._process.stdout.readline())
        assert code != -signal.SIGALRM, f"it took too long: wampkit {' '.join(args)}\n{out}\n{err}"
        return subprocess.CompletedProcess(["wampkit", *args], code, out, err)


def _serve(patience: float) -> None:
    """Run what is asked for on stdin, a line of JSON each."""
    import wampkit.cli.main  # noqa: F401  # for all of them

    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                signal.alarm(int(patience))
                _run(json.loads(line), out, err)
            _, status = os.waitpid(child, 0)
            sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), _text(out), _text(err)]) + "\n")
            sys.stdout.flush()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _run(request: dict[str, Any], out: IO[bytes], err: IO[bytes]) -> NoReturn:
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = ["wampkit", *request["args"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]  # with which workers are started
    sys.path[0] = request["cwd"]
    # What this raises ends the process as it ends Python's own: with its exit functions, and its threads waited for.
    runpy.run_module("wampkit", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
