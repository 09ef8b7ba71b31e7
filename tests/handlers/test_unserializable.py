"""Results and events that JSON cannot carry are refused with their place and the cure."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wampkit import App

from ..support.wire import PUBLISH, serve


class Question:
    """As much of a pydantic model as is needed here."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        return {}


class Answer(Question):
    """Another one."""


CURES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "pydantic": (Question, "tests.handlers.test_unserializable.Question", '.model_dump(mode="json")'),
    "within": (lambda: {"all": [Answer()]}, "tests.handlers.test_unserializable.Answer", '.model_dump(mode="json")'),
    "sqlite3.Row": (
        lambda: sqlite3.Row(sqlite3.connect(":memory:").cursor(), (1,)),
        "sqlite3.Row",
        "dict(...)",
    ),
    "generator": (lambda: (each for each in "abc"), "generator", "list"),
    "future": (lambda: asyncio.get_running_loop().create_future(), "_asyncio.Future", "await"),
    "object": (object, " object:", "dataclass"),
}


async def test_what_json_cannot_carry_is_named_with_its_cure(caplog: pytest.LogCaptureFixture) -> None:
    """The log says of a result or an event of which type it is, where it comes from, and what to do about it."""
    app = App(debug=True)

    @app.rpc("result/{name}")
    async def result(name: str) -> Any:
        return CURES[name][0]()

    @app.rpc("publish/{name}")
    async def publish(name: str) -> None:
        await app.publish("topic", CURES[name][0]())

    @app.topic("topic")
    async def topic(event: str) -> Any:
        return CURES[event][0]()

    async with serve(app) as server:
        peer = await server.peer()
        wrong = []
        for name, (_, kind, cure) in CURES.items():
            where: dict[str, Awaitable[Any]] = {
                f"procedure 'result/{name}'": peer.call(f"result/{name}"),
                f"procedure 'publish/{name}'": peer.call(f"publish/{name}"),
                "PUBLISH 'topic'": peer.send(PUBLISH, "topic", name),
            }
            for place, message in where.items():
                caplog.clear()
                await message
                await peer.settle()
                lines = [record.getMessage() for record in caplog.records]
                if not any(place in line and kind in line and cure in line for line in lines):
                    wrong.append((name, place, lines))
        assert wrong == []
