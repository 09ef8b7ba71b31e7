"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytest_plugins = ["pytester"]

if not os.access(Path(__file__).parent.parent, os.W_OK):
    # What Hypothesis learns of Unicode would be kept in the checkout.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir(), f"hypothesis-{os.getuid()}")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make reports fit to be handed from one process to another: log lines may hold half surrogate pairs."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """A Chromium for the tests of a module, which run in its loop: `pytest.mark.asyncio(loop_scope="module")`."""
    from .support.browser import launched

    async with launched() as browser:
        yield browser
