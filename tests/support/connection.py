"""An app that notes how its connections end."""

from typing import Any

from wampkit import App, Connection

from .wire import eventually

T = "http://example.com/topic/"


class Ends:
    """What on_disconnect was told."""

    def __init__(self, app: App) -> None:
        self.seen: list[tuple[int | None, str]] = []
        app.on_disconnect(self.gone)

    async def gone(self, connection: Connection) -> None:
        self.seen.append((connection.close_code, connection.close_reason))

    async def first(self) -> tuple[int | None, str]:
        await eventually(lambda: self.seen)
        assert len(self.seen) == 1
        return self.seen[0]


def make(**options: Any) -> App:
    app = App(prefixes={"t": T}, **options)
    app.topic("t:relay", relay=True)

    @app.rpc("t:echo")
    async def echo(x: Any) -> Any:
        return x

    return app
