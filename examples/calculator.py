"""Remote procedure calls: typed arguments, errors with details, a time limit. And a topic with a clock.

Run it:   wampkit run --debug examples.calculator:app      then open http://127.0.0.1:8080/ws in a browser
Call it:  wampkit call ws://127.0.0.1:8080/ws calc:divide 1 4
"""

import asyncio
from datetime import datetime
from typing import Annotated

from msgspec import Meta

from wampkit import App, WampError

app = App(prefixes={"calc": "http://example.com/calc#"})


@app.rpc("calc:add")
async def add(x: float, y: float) -> float:
    """Add two numbers."""
    return x + y


@app.rpc("calc:divide")
async def divide(x: float, y: float) -> float:
    """Divide x by y."""
    if y == 0:
        raise WampError("calc:division-by-zero", "cannot divide by zero", {"x": x})
    return x / y


@app.rpc("calc:sum")
async def total(*numbers: float) -> float:
    """Add as many numbers as you like."""
    return sum(numbers)


@app.rpc("calc:countdown", timeout=5)
async def countdown(seconds: Annotated[float, Meta(ge=0, le=60)]) -> str:
    """Answer after a while; calls that take longer than 5 seconds end with a timeout error."""
    await asyncio.sleep(seconds)
    return "lift-off"


@app.rpc("calc:is_prime")
def is_prime(n: Annotated[int, Meta(ge=0, le=10**12)]) -> bool:
    """A blocking function: plain `def` runs in a worker thread and holds up no other call."""
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


app.topic("calc:clock")


@app.every(seconds=1)
async def tick() -> None:
    """Tell whoever is subscribed what time it is."""
    await app.publish("calc:clock", datetime.now())
