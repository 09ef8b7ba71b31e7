"""The wampkit app that is measured: one typed procedure, relayed topics, everything at its default."""

import asyncio
import sys

from aiohttp import web

from wampkit import App

app = App(prefixes={"calc": "http://example.com/calc#"})


@app.rpc("calc:add")
async def add(x: float, y: float) -> float:
    return x + y


app.topic("topic{number}", relay=True)


async def main(port: int) -> None:
    runner = web.AppRunner(app.web_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
