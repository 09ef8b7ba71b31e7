"""`[tool.wampkit]` in pyproject.toml."""

from pathlib import Path

import pytest

from wampkit.cli.options import read_config
from wampkit.runner.errors import CommandError


def test_no_configuration(tmp_path: Path) -> None:
    """A directory without pyproject.toml, or with one that says nothing of wampkit, configures nothing."""
    assert read_config(tmp_path) == {}
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert read_config(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tool.wampkit\n", "pyproject.toml: Expected"),
        ("tool = 3\n", "pyproject.toml: "),
        ("[tool]\nwampkit = 3\n", "must be a table"),
    ],
)
def test_broken_configuration(tmp_path: Path, text: str, problem: str) -> None:
    """A pyproject.toml that cannot be read is a mistake in the usage."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(CommandError, match=problem) as caught:
        read_config(tmp_path)
    assert caught.value.code == 2
