"""The public names."""

import inspect

import wampkit

from ..support.tables import rows

NAMES = [
    name
    for name in wampkit.__all__
    if inspect.isclass(getattr(wampkit, name)) or inspect.isfunction(getattr(wampkit, name))
]


def test_all_names_exist_once() -> None:
    """`__all__` is what `from wampkit import *` gives."""
    assert len(set(wampkit.__all__)) == len(wampkit.__all__)
    assert [name for name in wampkit.__all__ if not hasattr(wampkit, name)] == []


@rows("name", NAMES)
def test_public_things_say_what_they_are_for(name: str) -> None:
    """Each public class and function, and each public method of a class, has a docstring."""
    thing = getattr(wampkit, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value) or inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


def test_the_version_is_the_changelogs() -> None:
    """The package's version is the newest one in the changelog."""
    from pathlib import Path

    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    newest = next(line for line in changelog.splitlines() if line.startswith("## [") and "Unreleased" not in line)
    assert newest.startswith(f"## [{wampkit.__version__}]")
