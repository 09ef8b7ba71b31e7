"""Testing: the fixtures call the app over real frames, on a real socket.

Run it:   pytest examples/test_calculator.py
"""

import pytest

from wampkit import App, CallError

from .calculator import app


@pytest.fixture
def wamp_app() -> App:
    """Which app the fixtures serve; the ini option `wampkit_app = "examples.calculator:app"` does the same."""
    return app


async def test_add(wamp_client):
    assert await wamp_client.call("calc:add", 2, 3) == 5


async def test_divide_by_zero_says_so(wamp_client):
    with pytest.raises(CallError) as failed:
        await wamp_client.call("calc:divide", 1, 0)
    assert failed.value.uri == "http://example.com/calc#division-by-zero"
    assert failed.value.details == {"x": 1}


def test_sum_without_async(rpc):
    assert rpc("calc:sum", 1, 2, 3) == 6


def test_arguments_are_checked(rpc):
    with pytest.raises(CallError, match='argument 2 "y": expected float, got "two"'):
        rpc("calc:add", 1, "two")
