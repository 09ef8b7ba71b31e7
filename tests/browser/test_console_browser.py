"""The console in a real Chromium: topics, search, reconnecting, live figures, hostile input, logins."""

import json
import re
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, expect

from wampkit import Connection, Cra, Credentials, WampError

from ..support.browser import served
from ..support.command import command, write
from ..support.console_page import EVIL, looking, make
from ..support.wire import Peer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


# ---- topics


async def test_watching_and_publishing(chromium: Browser) -> None:
    """A topic's variables are asked for, its events appear as they come, what is published arrives, leaving leaves."""
    app = make()
    async with served(app.web_app()) as address, looking(chromium, address, "#/topic/chat%3A%7Broom%7D") as page:
        await page.get_by_role("button", name="Subscribe").click()
        await expect(page.locator(".field .wrong")).to_have_text("is needed")
        await page.fill("[id='field-{room}']", "lobby")
        await page.get_by_role("button", name="Subscribe").click()
        await expect(page.locator(".log")).to_contain_text("0 events")
        await eventually(lambda: "chat:lobby" in app.topics)
        await page.fill("[id='field-event.text']", "hello")
        publish = page.get_by_role("button", name="Publish")
        await publish.click()
        events = page.locator(".events code")
        await expect(events).to_have_text(['{"room":"lobby","text":"hello"}'])
        await page.get_by_label("leave out this page").check()
        await publish.click()
        await app.publish("chat:lobby", {"from": "the server"})
        await expect(events).to_have_text(['{"from":"the server"}', '{"room":"lobby","text":"hello"}'])
        await expect(page.locator(".log")).to_contain_text("2 events")
        await page.get_by_role("button", name="Pause").click()
        await app.publish("chat:lobby", 3)
        await expect(page.locator(".log")).to_contain_text("3 events")
        await expect(events).to_have_count(2)
        await page.get_by_role("button", name="Go on").click()
        await expect(events).to_have_count(3)
        await page.get_by_role("button", name="Clear").click()
        await expect(events).to_have_count(0)
        await page.get_by_role("button", name="Unsubscribe").click()
        await eventually(lambda: "chat:lobby" not in app.topics)


async def test_a_subscription_that_is_refused_says_so(chromium: Browser) -> None:
    """Where the server lets nobody subscribe, the page tells."""
    app = make()
    hook = app.topic("closed:all").on_subscribe

    @hook
    async def refuse() -> None:
        raise WampError("t:no", "no")

    async with served(app.web_app()) as address, looking(chromium, address, "#/topic/closed%3Aall") as page:
        await page.get_by_role("button", name="Subscribe").click()
        await expect(page.locator(".log")).to_contain_text("the server refused this subscription")


# ---- finding


async def test_finding_with_the_keyboard(chromium: Browser) -> None:
    """A slash goes to the search, arrows through what it found, and Enter opens it; the address leads there again."""
    async with served(make().web_app()) as address, looking(chromium, address) as page:
        links = page.get_by_role("complementary").get_by_role("link")
        await expect(links).to_have_count(6)
        await page.keyboard.press("/")
        await page.keyboard.type("calc add")
        await expect(links).to_have_count(1)
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("main").get_by_role("heading", level=2)).to_have_text("calc:add")
        assert page.url.endswith("#/procedure/calc%3Aadd")
        await page.reload()
        await expect(page.get_by_role("main").get_by_role("heading", level=2)).to_have_text("calc:add")
        await page.keyboard.press("/")
        await page.keyboard.type("nothing like it")
        await expect(page.get_by_role("complementary")).to_contain_text("Nothing matches “nothing like it”.")


async def test_thousands_of_routes(chromium: Browser) -> None:
    """A long list is all there, and can still be searched."""
    app = make()
    for number in range(2000):

        async def handler(x: int) -> int:
            return x

        app.add_rpc(f"many:procedure-{number}", handler)
    async with served(app.web_app()) as address, looking(chromium, address) as page:
        side = page.get_by_role("complementary")
        await expect(side.get_by_role("heading", name="Procedures")).to_have_text("Procedures 2004")
        await side.get_by_role("searchbox").fill("procedure-1999")
        await side.get_by_role("link").click()
        await page.fill("#field-x", "5")
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".answer pre").first).to_have_text("5")


# ---- losing the server


SERVED = """
from wampkit import App

app = App(prefixes={"t": "t:"})


@app.rpc("t:one")
async def one() -> int:
    return 1


topic = app.topic("t:news")


@app.every(seconds=0.2)
async def tick() -> None:
    await app.publish("t:news", "{word}")
"""


async def test_a_server_that_is_killed_and_comes_back(chromium: Browser, tmp_path: Path) -> None:
    """The page says that the server is gone, connects again, goes on watching, and shows what has changed."""
    write(tmp_path, served=SERVED.replace("{word}", "before"))
    async with command("run", "served:app", "--debug", "--port", "0", cwd=tmp_path) as first:
        url = await first.url()
        port = url.rpartition(":")[2].split("/")[0]
        async with looking(chromium, f"127.0.0.1:{port}", "#/topic/t%3Anews", lost=True) as page:
            await page.get_by_role("button", name="Subscribe").click()
            await expect(page.locator(".events code").first).to_have_text('"before"')
            first.signal(signal.SIGKILL)
            await first.exit()
            await expect(page.get_by_role("main")).to_contain_text("The connection is gone")
            write(tmp_path, served=SERVED.replace("{word}", "after").replace("t:one", "t:two"))
            async with command("run", "served:app", "--debug", "--port", port, cwd=tmp_path) as second:
                await second.url()
                await expect(page.locator(".events code").first).to_have_text('"after"')
                await expect(page.get_by_role("link", name="t:two")).to_be_visible()
                await expect(page.get_by_role("link", name="t:one")).to_have_count(0)
                await expect(page.get_by_role("main")).not_to_contain_text("The connection is gone")


# ---- live


async def test_the_live_picture(chromium: Browser) -> None:
    """Figures move, plots are drawn, connections and topics can be searched, and an error opens its traceback."""
    app = make(debug=True)
    async with served(app.web_app()) as address, looking(chromium, address, "#/live") as page:
        peer = await Peer.open(f"ws://{address}/ws")
        await peer.call("calc:crash")
        await peer.send(5, "chat:lobby")
        for number in range(50):
            await peer.call("calc:add", number)
        main = page.get_by_role("main")
        await expect(main.locator(".tiles")).to_contain_text("connections2")
        await expect(main.locator(".tiles")).to_contain_text("errors since the start1")
        await expect(main.locator("canvas")).to_have_count(4)
        await expect(main.get_by_role("img", name="Connections: open 2")).to_be_visible()
        rows = main.get_by_label("Connections", exact=True).locator("tbody tr")
        await expect(rows).to_have_count(2)
        await expect(rows.filter(has_text="this page")).to_have_count(1)
        await main.get_by_role("searchbox", name="Address, user, session id").fill(peer.id)
        await expect(rows).to_have_count(1)
        await rows.get_by_role("button").click()
        await expect(main.locator(".more")).to_contain_text("chat:lobby")
        failure = main.locator("details.failure")
        await failure.locator("summary").click()
        await expect(failure.locator("pre")).to_contain_text("RuntimeError: " + EVIL)
        await expect(failure.locator("pre")).to_contain_text("in crash")
        await main.get_by_label("Topics with subscribers").get_by_role("link", name="chat:lobby").click()
        await expect(page.locator("[id='field-{room}']")).to_have_value("lobby")
        await page.get_by_role("button", name="Subscribe").click()
        await eventually(lambda: len(app.topics["chat:lobby"]) == 2)
        await peer.close()


# ---- hostile input


async def test_hostile_names_stay_text(chromium: Browser) -> None:
    """Markup in topics, events, users, errors and docstrings is shown as it is, and does nothing."""

    class Claims:
        async def connect(self, connection: Connection) -> None:
            connection.user = connection.request.query.get("user")

    app = make(debug=True, middlewares=[Claims()])

    @app.rpc("evil:" + EVIL.replace("{{x}}", "") + "/")
    async def evil(value: str = EVIL) -> str:
        raise WampError(EVIL.replace(" ", "/"), EVIL, {EVIL: EVIL})

    evil.__doc__ = EVIL
    async with served(app.web_app()) as address, looking(chromium, address) as page:
        peer = await Peer.open(f"ws://{address}/ws", params={"user": EVIL})
        await peer.send(5, "chat:" + EVIL.replace("/", ""))
        await peer.call("calc:crash")
        await peer.call("none:" + EVIL)
        await page.get_by_role("link", name="evil:").click()
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".problem strong")).to_have_text(EVIL)
        await page.goto(f"http://{address}/ws#/topic/chat%3A%7Broom%7D")
        await page.fill("[id='field-{room}']", EVIL.replace("/", ""))
        await page.get_by_role("button", name="Subscribe").click()
        await expect(page.locator(".log strong")).to_have_text("chat:" + EVIL.replace("/", ""))
        await eventually(lambda: len(app.topics["chat:" + EVIL.replace("/", "")]) == 2)
        await app.publish("chat:" + EVIL.replace("/", ""), {EVIL: EVIL})
        await expect(page.locator(".events code")).to_have_text(json.dumps({EVIL: EVIL}, separators=(",", ":")))
        await page.goto(f"http://{address}/ws#/live")
        await expect(page.get_by_role("main").locator("tbody").first).to_contain_text(EVIL)
        await expect(page.get_by_role("main").locator(".failures")).to_contain_text("none:" + EVIL)
        await page.goto(f"http://{address}/ws#/{EVIL}/{EVIL}?{EVIL}={EVIL}")
        await expect(page.get_by_role("main")).to_contain_text("There is no")
        await peer.close()


# ---- logging in


async def test_logging_in(chromium: Browser) -> None:
    """An app with logins tells the page nothing before one: a wrong secret is said, the right one opens all."""

    async def lookup(authkey: str, extra: Any) -> Credentials | None:
        return Credentials("right", user=authkey) if authkey == "ann" else None

    app = make(cra=Cra(lookup))
    async with served(app.web_app()) as address, looking(chromium, address) as page:
        await expect(page.get_by_role("complementary").get_by_role("link")).to_have_count(0)
        for secret in ("wrong", "right"):
            await page.get_by_label("Auth key").fill("ann")
            await page.get_by_label("Secret").fill(secret)
            await page.get_by_role("button", name="Log in").last.click()
            if secret == "wrong":
                await expect(page.get_by_role("alert")).to_contain_text("the signature is wrong")
        await expect(page.get_by_role("status").first).to_have_text("connected as ann")
        await expect(page.get_by_role("link", name="calc:add")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("status").first).to_have_text("connected")
        await expect(page.get_by_label("Auth key")).to_be_visible()


# ---- how it looks


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light"), (320, "dark")])
async def test_it_fits(chromium: Browser, width: int, scheme: Literal["light", "dark"]) -> None:
    """On a desktop and on a phone, no view is wider than its window, and text stands out from its ground."""
    app = make(debug=True)
    viewport = {"width": width, "height": 700}
    async with (
        served(app.web_app()) as address,
        looking(chromium, address, viewport=viewport, color_scheme=scheme) as page,
    ):
        for place in ("#/", "#/procedure/user%3Acreate", "#/topic/chat%3A%7Broom%7D", "#/live"):
            await page.goto(f"http://{address}/ws{place}")
            await expect(page.get_by_role("main").get_by_role("heading", level=2).first).to_be_visible()
            for element in ("html", "main"):
                assert await page.evaluate(f"document.querySelector('{element}').scrollWidth") <= width, place
        light, dark = await page.evaluate(
            "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
        )
        assert _contrast(light, dark) > 7


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2.1 defines it."""

    def luminance(color: str) -> float:
        parts = [int(each) / 255 for each in re.findall(r"\d+", color)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted([luminance(one), luminance(other)], reverse=True)
    return (bright + 0.05) / (dim + 0.05)
