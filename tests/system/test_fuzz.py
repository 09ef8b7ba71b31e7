"""The fuzzer, a few seconds of it, with another seed each time; `python -m tests.fuzz` runs it as long as wanted."""

import time

import pytest

from ..fuzz.clients import fuzz_javascript, fuzz_python
from ..fuzz.report import Report
from ..fuzz.server import CONFIGURATIONS, fuzz_server
from ..support.loops import on_each_loop

SECONDS = 0.8


def check(report: Report, command: str) -> None:
    """Fail with what was found, and how to find it again."""
    assert report.found == [], f"python -m tests.fuzz {command}\n{report}"
    assert report.connections > 5
    assert report.answers > 5


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@on_each_loop
async def test_the_server_stands_what_clients_send(configuration: str) -> None:
    """Nothing is left of them, no error is logged, all answers are WAMP v1, and a client beside them never notices."""
    seed = str(time.time_ns())
    report = await fuzz_server(seed, SECONDS, configurations=[configuration])
    check(report, f"server --seed {seed} --configuration {configuration}")


@on_each_loop
async def test_the_python_client_stands_what_servers_say() -> None:
    """Each call, subscription and publish ends, in a documented way, and nothing is left running."""
    seed = str(time.time_ns())
    check(await fuzz_python(seed, 2 * SECONDS), f"python --seed {seed}")


async def test_the_browsers_client_stands_what_servers_say() -> None:
    """Each promise ends, in a documented way, and nothing is thrown where it cannot be caught."""
    seed = str(time.time_ns())
    check(await fuzz_javascript(seed, 2 * SECONDS), f"javascript --seed {seed}")
