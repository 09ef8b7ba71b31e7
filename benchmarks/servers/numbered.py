"""An app for `benchmarks.drain`: each call writes its number before it does anything else, then takes its time."""

import asyncio
import os

from wampkit import App

app = App()
begun = open(os.environ.get("BEGUN", os.devnull), "a", buffering=1)  # noqa: SIM115  # as long as the process


@app.rpc("work")
async def work(number: int, seconds: float) -> int:
    begun.write(f"{number}\n")
    await asyncio.sleep(seconds)
    return number
