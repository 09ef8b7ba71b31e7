"""The project in whose folder the commands run."""

from pathlib import Path

import pytest

from ..support.cli_project import APP
from ..support.command import write


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an app."""
    directory = tmp_path_factory.mktemp("project")
    write(directory, shop=APP)
    return directory
