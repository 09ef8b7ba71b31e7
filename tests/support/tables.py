"""Tables of cases: one test goes through all rows, and fails with each row that failed, not with the first alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pytest

__all__ = ["Row", "rows", "table"]

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


def table(values: Iterable[Any]) -> Iterator[Row]:
    """The rows of a table, each to be entered once: `for row in table(CASES): with row as (given, expected): ...`.

    The loop must not be left early: only its end tells of the rows that failed.

    Raises:
        ExceptionGroup: Rows failed, or there is none; each failure has a note of its row.
    """
    failures: list[Exception] = []
    count = 0
    for count, value in enumerate(values, 1):  # noqa: B007
        yield Row(value, failures)
    assert count, "a table without rows holds nothing"
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {count} rows failed", failures)


def rows(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test's function for each row of a table, as `pytest.mark.parametrize` does, in one test.

    The other parameters are fixtures, as ever, and are made once; but each row finds `caplog` empty, a `tmp_path` of
    its own, and a `monkeypatch` that is undone when it ends.

    Args:
        names: The parameters that a row gives: "name" alone, or several in a tuple.
        values: The rows: a value each, or a tuple for several names.
    """
    cases = [dict(zip(names, value, strict=True)) if isinstance(names, tuple) else {names: value} for value in values]
    given = names if isinstance(names, tuple) else (names,)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(fixtures: dict[str, Any]) -> Iterator[tuple[Row, dict[str, Any]]]:
            for number, row in enumerate(table(cases)):
                with ExitStack() as stack:
                    yield row, {**fixtures, **_anew(fixtures, number, stack)}

        @functools.wraps(function)
        def in_turn(**fixtures: Any) -> None:
            for row, own in run(fixtures):
                with row as case:
                    function(**own, **case)

        @functools.wraps(function)
        async def in_turn_async(**fixtures: Any) -> None:
            for row, own in run(fixtures):
                with row as case:
                    await function(**own, **case)

        made = in_turn_async if inspect.iscoroutinefunction(function) else in_turn
        signature = inspect.signature(function)
        assert set(given) <= signature.parameters.keys(), f"{function.__name__} does not take {', '.join(given)}"
        kept = [each for name, each in signature.parameters.items() if name not in given]
        made.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # what pytest looks at
        return made

    return decorate


def _anew(fixtures: dict[str, Any], number: int, stack: ExitStack) -> dict[str, Any]:
    """The fixtures that each row has of its own."""
    own: dict[str, Any] = {}
    if "caplog" in fixtures:
        fixtures["caplog"].clear()
    if "monkeypatch" in fixtures:
        own["monkeypatch"] = stack.enter_context(pytest.MonkeyPatch.context())
    if "tmp_path" in fixtures:
        own["tmp_path"] = fixtures["tmp_path"] / str(number)
        own["tmp_path"].mkdir()
    return own


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
