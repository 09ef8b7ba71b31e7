"""Tables of cases fail with all rows that fail, and hide nothing else."""

import asyncio
import os
from pathlib import Path

import pytest

from .tables import rows, table


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


ODD = [(1, 2), (2, 4), (3, 7), (4, 9)]


@rows(("given", "expected"), [(1, 2), (2, 4)])
def test_a_test_of_rows_takes_fixtures_too(
    given: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row finds a folder of its own and none of what another row patched."""
    assert 2 * given == expected
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert "WAMPKIT_ROW" not in os.environ
    monkeypatch.setenv("WAMPKIT_ROW", "1")


async def test_a_test_of_rows_runs_them_all() -> None:
    """The function of a test, async or not, is run for each row, and fails with those that failed."""
    ran = []

    @rows(("given", "expected"), ODD)
    def double(given: int, expected: int) -> None:
        ran.append(given)
        assert 2 * given == expected

    @rows("pair", ODD)
    async def double_async(pair: tuple[int, int]) -> None:
        await asyncio.sleep(0)
        double.__wrapped__(*pair)

    with pytest.raises(ExceptionGroup, match="2 of 4 rows failed") as caught:
        double()
    assert caught.value.exceptions[0].__notes__ == ["in the row {'given': 3, 'expected': 7}"]
    with pytest.raises(ExceptionGroup, match="2 of 4 rows failed"):
        await double_async()
    assert ran == [1, 2, 3, 4] * 2


def test_the_rows_fit_the_function() -> None:
    """A name that the function does not have, and a row of another length, are mistakes of the table."""
    with pytest.raises(AssertionError, match="does not take other"):
        rows("other", [1])(lambda given: None)
    with pytest.raises(ValueError, match="argument 2 is"):
        rows(("a", "b"), [(1,)])
