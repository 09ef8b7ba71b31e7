"""The test suite that a test of the pytest plugin writes and runs."""

import pytest

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

from ..support.plugin_suite import Suite


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)
