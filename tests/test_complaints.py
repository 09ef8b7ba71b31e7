"""A peer that repeats its mistake does not repeat itself in the log."""

import logging

import pytest

from wampkit.complaints import Complaints


def test_ten_thousand_complaints_are_a_handful_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The first is written in full, then each power of ten with its count, then what was not written."""
    complaints = Complaints("connection x")
    for _ in range(12_345):
        complaints.add("malformed", "bad message")
    complaints.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "connection x: bad message",
        "connection x: bad message (10 times)",
        "connection x: bad message (100 times)",
        "connection x: bad message (1000 times)",
        "connection x: bad message (10000 times)",
        "connection x: 12340 further complaints of the same kinds",
    ]


def test_each_kind_has_its_first_line(caplog: pytest.LogCaptureFixture) -> None:
    """Another kind of complaint is not hidden behind the first."""
    complaints = Complaints("x")
    complaints.add("a", "one")
    complaints.add("b", "two")
    complaints.close()
    assert [record.getMessage() for record in caplog.records] == ["x: one", "x: two"]


def test_inventing_kinds_does_not_flood(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that makes up a new kind each time is counted together after a few."""
    complaints = Complaints("x")
    for number in range(10_000):
        complaints.add(number, f"mistake {number}")
    complaints.close()
    assert len(caplog.records) < 50


def test_an_error_brings_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first line of a kind carries the traceback, the others do not."""
    complaints = Complaints("x")
    for _ in range(10):
        complaints.add("a", "failed", level=logging.ERROR, error=ValueError("boom"))
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
