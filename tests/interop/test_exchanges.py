"""Every exchange of the corpus behaves as its steps say, over a real WebSocket.

`exchanges.json` holds scripted exchanges as real servers and clients of WAMP v1 have them, those of WAMP-CRA too.
"""

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wampkit import App

from ..support.loops import LOOPS
from ..support.tables import rows
from .demo_app import make_app, make_cra_app
from .exchange_runner import Mismatch, Player

CORPUS = json.loads(Path(__file__).with_name("exchanges.json").read_text())["exchanges"]
DEMO = [exchange for exchange in CORPUS if exchange["server"] == "demo"]
CRA = [exchange for exchange in CORPUS if exchange["server"] != "demo"]

HOSTS = ["asyncio-direct", "asyncio-queued", "uvloop-direct", "uvloop-queued"]
Urls = Callable[[str], str]


@pytest.fixture(scope="module", params=HOSTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The demo app, served in a thread for all exchanges, on each loop and with each reader: none may harm the next."""
    with hosted(request.param, make_app()) as url:
        yield url


@pytest.fixture(scope="module", params=HOSTS)
def cra_url(request: pytest.FixtureRequest) -> Iterator[Urls]:
    """Gives the URL of a demo app with logins, by the server's name in the corpus."""
    with contextlib.ExitStack() as stack:
        names = {exchange["server"] for exchange in CRA}
        urls = {name: stack.enter_context(hosted(request.param, make_cra_app(name))) for name in names}
        yield urls.__getitem__


@contextlib.contextmanager
def hosted(host: str, app: App) -> Iterator[str]:
    """The URL of an app on a kind of loop, with one of the readers."""
    name, reader = host.split("-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAMPKIT_READER", reader)
        yield from served(LOOPS[name](), app)


def served(loop: asyncio.AbstractEventLoop, app: App) -> Iterator[str]:
    """The URL of the app, which runs on a loop in a thread."""
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    runner = web.AppRunner(app.web_app("/"), access_log=None)

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return "ws://{}:{}/".format(*runner.addresses[0])

    async def left() -> tuple[int, int]:
        for _ in range(200):
            if not app.connections and not app.topics:
                break
            await asyncio.sleep(0.01)
        return len(app.connections), len(app.topics)

    try:
        yield run(start())
        assert run(left()) == (0, 0), "connections or topics are left behind"
    finally:
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@rows("exchange", DEMO)
async def test_exchange(exchange: dict[str, Any], url: str) -> None:
    """One exchange does what its steps say."""
    async with aiohttp.ClientSession() as http:
        await Player(http, url).play(exchange)


@rows("exchange", CRA)
async def test_exchange_of_a_login(exchange: dict[str, Any], cra_url: Urls) -> None:
    """One exchange of WAMP-CRA does what its steps say, with the server that it is for."""
    async with aiohttp.ClientSession() as http:
        await Player(http, cra_url(exchange["server"])).play(exchange)


def test_the_corpus_is_whole() -> None:
    """All 168 exchanges of the demo server and all 28 of the servers with logins are here, of every level."""
    assert (len(DEMO), len(CRA)) == (168, 28)
    assert set(Counter(exchange["level"] for exchange in DEMO)) == {"must", "should", "choice"}


async def test_the_player_notices_what_differs(url: str) -> None:
    """A script that expects another answer fails, so that the exchanges above can fail."""
    wrong: list[list[dict[str, Any]]] = [
        [{"client": "A", "send": [2, "c", "ping"]}, {"client": "A", "expect": [3, "c", "pang"]}],
        [{"client": "A", "send": [2, "c", "ping"]}, {"client": "A", "sync": True}],
        [{"client": "A", "send": [2, "c", "ping"]}, {"client": "A", "expect_close": [1002]}],
        [{"client": "A", "send_raw": "nonsense"}, {"client": "A", "expect_close": [1000]}],
        [{"client": "A", "send_raw": "nonsense"}, {"client": "A", "sync": True}],
        [{"client": "B", "open": {"protocols": ["wamp"]}, "expect_http": [400]}],
        [{"client": "A", "send": [2, "c", "ping"]}, {"client": "A", "expect": [3, "c", {"$not": "pong"}]}],
    ]
    async with aiohttp.ClientSession() as http:
        for steps in wrong:
            with pytest.raises(Mismatch):
                await Player(http, url).play({"steps": steps})
