"""A dashboard: numbers that the server pushes, plotted live on a page.

Run it:   python -m examples.dashboard.server      then open http://127.0.0.1:8080/
"""

import asyncio
import os
import resource
import sys
import time
from collections import deque
from pathlib import Path

from aiohttp import web
from msgspec import Struct

from wampkit import App

app = App(prefixes={"dashboard": "http://example.com/dashboard/"})
app.topic("dashboard:numbers")


class Numbers(Struct):
    """What is measured once a second."""

    time: float
    load: float
    lag: float
    memory: float
    connections: int


history: deque[Numbers] = deque(maxlen=300)


async def loop_lag() -> float:
    """Milliseconds by which the event loop is late, as everything that it does is then."""
    began = time.perf_counter()
    await asyncio.sleep(0.01)
    return max(0.0, (time.perf_counter() - began - 0.01) * 1000)


@app.every(seconds=1)
async def measure() -> None:
    # The most that this process ever had: bytes on macOS, kilobytes elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    numbers = Numbers(time.time(), os.getloadavg()[0], await loop_lag(), peak, len(app.connections))
    history.append(numbers)
    await app.publish("dashboard:numbers", numbers)


@app.rpc("dashboard:history")
async def told_so_far() -> list[Numbers]:
    """The numbers of the last five minutes, for a page that has just been opened."""
    return list(history)


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).with_name("dashboard.html"))


def site() -> web.Application:
    """The page at / and the socket at /ws."""
    site = web.Application()
    site.router.add_get("/", page)
    app.setup(site, path="/ws")
    return site


if __name__ == "__main__":
    web.run_app(site(), host="127.0.0.1", port=8080)
