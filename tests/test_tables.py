"""Tables of cases fail with all rows that fail, and hide nothing else."""

import asyncio

import pytest

from .tables import table


def test_all_failing_rows_are_told() -> None:
    """Failures of each kind are collected, with a note of their row, and the other rows run."""
    ran = []

    def run() -> None:
        for row in table([("a", 1), ("b", 2), ("c", 3), ("d", "x" * 1000)]):
            with row as (name, value):
                ran.append(name)
                if name == "b":
                    pytest.fail("no")
                assert value == 1

    with pytest.raises(ExceptionGroup, match="3 of 4 rows failed") as caught:
        run()
    assert ran == ["a", "b", "c", "d"]
    notes = [error.__notes__ for error in caught.value.exceptions]
    assert notes[:2] == [["in the row ('b', 2)"], ["in the row ('c', 3)"]]
    assert len(notes[2][0]) < 150


def test_a_table_that_holds_passes() -> None:
    """Nothing is raised where no row fails."""
    for row in table({"a": 1}.items()):
        with row as (name, value):
            assert (name, value) == ("a", 1)


def test_a_table_without_rows_fails() -> None:
    """A test without cases would pass for ever."""
    with pytest.raises(AssertionError, match="without rows"):
        list(table([]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_what_ends_the_run_is_not_kept(error: type[BaseException]) -> None:
    """An interruption ends the test at once."""

    def run() -> None:
        for row in table([1, 2]):
            with row:
                raise error

    with pytest.raises(error):
        run()
