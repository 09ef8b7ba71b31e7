"""The project whose app is served."""

from pathlib import Path

import pytest

from ..support.command import write
from ..support.served import APP, PROCEDURES


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app that has a topic, and one that has procedures alone."""
    write(tmp_path, served=APP, procedures=PROCEDURES)
    return tmp_path
