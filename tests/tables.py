"""Tables of cases: one test goes through all rows, and fails with each row that failed, not with the first alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import pytest

__all__ = ["Row", "table"]

LONGEST = 100
"""Characters that are shown of a row."""


class Row:
    """One row, for a `with` statement whose `as` gives its value; what fails in the block is kept for the end."""

    def __init__(self, value: Any, failures: list[Exception]) -> None:
        self._value = value
        self._failures = failures

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if isinstance(error, pytest.fail.Exception):
            error = AssertionError(error.msg).with_traceback(error.__traceback__)
        if not isinstance(error, Exception):
            return False
        error.add_note(f"in the row {_shown(self._value)}")
        self._failures.append(error)
        return True


def table(rows: Iterable[Any]) -> Iterator[Row]:
    """The rows of a table, each to be entered once: `for row in table(ROWS): with row as (given, expected): ...`.

    The loop must not be left early: only its end tells of the rows that failed.

    Raises:
        ExceptionGroup: Rows failed, or there is none; each failure has a note of its row.
    """
    failures: list[Exception] = []
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        yield Row(row, failures)
    assert count, "a table without rows holds nothing"
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {count} rows failed", failures)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
