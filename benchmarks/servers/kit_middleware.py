"""The wampkit app of `kit` with one middleware more, which passes every message on: what the first one costs."""

from typing import Any

from wampkit import App, CallNext, Incoming


async def pass_on(message: Incoming, call_next: CallNext) -> Any:
    return await call_next(message)


app = App(prefixes={"calc": "http://example.com/calc#"}, middlewares=[pass_on])


@app.rpc("calc:add")
async def add(x: float, y: float) -> float:
    return x + y


app.topic("topic{number}", relay=True)
