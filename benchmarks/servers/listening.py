"""What all Python servers share: a port, a queue of connections as long as the others', and one of two event loops."""

import argparse
import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

BACKLOG = 4096


def main(serve: Any, *arguments: Any) -> None:
    """Run `serve(*arguments, port)` on the loop that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    run(serve(*arguments, options.port), uvloop=options.uvloop)


def run(coroutine: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    """`asyncio.run` on one of the two loops."""
    with asyncio.Runner(loop_factory=_uvloop if uvloop else None) as runner:
        runner.run(coroutine)


def _uvloop() -> asyncio.AbstractEventLoop:
    from uvloop import new_event_loop

    return new_event_loop()


async def aiohttp_site(application: web.Application, port: int) -> None:
    """Serve an aiohttp application until the process is ended."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
    await until_ended()


async def until_ended() -> None:
    """Tell the one who started this process that clients can connect, and leave the end to him."""
    print("ready", flush=True)
    await asyncio.Event().wait()
