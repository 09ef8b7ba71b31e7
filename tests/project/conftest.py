"""What the tests of the pages share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.pages import MODULES


@pytest.fixture
def page_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with every Python module of the pages, importable as long as the test runs."""
    for name, body in MODULES.items():
        (tmp_path / name).write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(Path(name).stem, None)
