"""The console as a developer uses it, in a real Chromium: called, watched, published to, searched, lost and found."""

import ast
import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct
from playwright.async_api import Browser, Page, expect

from wampkit import App, Connection, Cra, Credentials, Topic, WampError

from ..support.browser import served, window
from ..support.command import command, write
from ..support.wire import Peer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

JAVASCRIPT = Path(__file__).parents[2] / "wampkit" / "javascript"
SIZE = {"width": 1280, "height": 800}
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"{{x}}'


class Visit:
    """A page that is looked at, with what it complained of and whom it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url))


@asynccontextmanager
async def looking(
    chromium: Browser, address: str, place: str = "", *, lost: bool = False, **options: Any
) -> AsyncIterator[Page]:
    """The console of a server in a browser, which must not complain, nor load anything from elsewhere.

    Args:
        chromium: The browser.
        address: The server's host and port.
        place: What follows the page's address.
        lost: Whether the server is lost meanwhile: the browser itself writes of each attempt that failed.
        options: The browser context's.
    """
    async with window(chromium, **{"viewport": SIZE, **options}) as context:
        page = await context.new_page()
        page.set_default_timeout(8000)
        visit = Visit(page)
        await page.goto(f"http://{address}/ws{place}")
        await expect(page.get_by_role("status").first).to_have_text(re.compile("connected"))
        yield page
        assert [each for each in visit.complaints if not (lost and "net::ERR_CONNECTION_REFUSED" in each)] == []
        assert {url.split("/")[2] for url in visit.asked if not url.startswith("data:")} == {address}
        assert await page.evaluate("window.hacked") is None


class Address(Struct):
    street: str
    city: Annotated[str, Meta(min_length=1, max_length=20)]


class User(Struct):
    """Somebody."""

    name: str
    age: Annotated[int, Meta(ge=0, le=150)]
    address: Address | None = None
    tags: list[str] = []


class Tree(Struct):
    """A type that contains itself."""

    name: str
    child: "Tree | None" = None


class Message(Struct):
    text: Annotated[str, Meta(max_length=500)]


def make(**options: Any) -> App:
    """An app with something of each kind."""
    literal = {name: f"{name}:" for name in ("chat", "closed", "evil", "many", "open", "t", "user")}
    app = App(prefixes={"calc": "http://example.com/calc#", **literal}, console=True, **options)

    @app.rpc("calc:add")
    async def add(x: float, y: float = 1.5) -> float:
        """Add two numbers."""
        return x + y

    @app.rpc("calc:divide")
    async def divide(x: float, y: float) -> float:
        """Divide x by y."""
        if y == 0:
            raise WampError("calc:division-by-zero", "cannot divide by zero", {"x": x})
        return x / y

    @app.rpc("calc:crash")
    async def crash() -> None:
        raise RuntimeError(EVIL)

    @app.rpc("user:create")
    async def create(user: User, kind: Literal["guest", "admin"] = "guest", notify: bool = True) -> dict[str, Any]:
        return {"user": user, "kind": kind, "notify": notify}

    @app.topic("chat:{room}")
    async def room(event: Message, topic: Topic, room: str) -> dict[str, Any]:
        """Runs for each PUBLISH."""
        return {"room": room, "text": event.text}

    app.topic("open:all", relay=True)
    return app


# ---- calling


async def test_calling(chromium: Browser) -> None:
    """A form made from the types checks what is entered, calls, and shows the result, the time and the frames."""
    async with served(make().web_app()) as address, looking(chromium, address) as page:
        await page.get_by_role("link", name="calc:add").click()
        main = page.get_by_role("main")
        await expect(main.get_by_role("heading", level=2)).to_have_text("calc:add")
        await expect(main).to_contain_text("Add two numbers.")
        await expect(main).to_contain_text("http://example.com/calc#add")
        call = main.get_by_role("button", name="Call")
        await call.click()
        await expect(main.locator(".field .wrong")).to_have_text("is needed")
        await expect(main.get_by_label("x", exact=False).first).to_be_focused()
        await page.fill("#field-x", "two")
        await call.click()
        await expect(main.locator(".field .wrong")).to_have_text("is no number")
        await page.fill("#field-x", "2")
        await expect(main.locator(".field .wrong")).to_have_count(0)
        await call.click()
        answer = main.locator(".answer").first
        await expect(answer.locator("pre")).to_have_text("3.5")
        await expect(answer).to_contain_text(re.compile(r"Result\s*\(2\) · [\d.]+ m?s"))
        await answer.locator("summary").click()
        sent, received = await answer.locator(".frames code").all_inner_texts()
        assert json.loads(sent)[2:] == ["calc:add", 2]
        assert json.loads(received) == [3, json.loads(sent)[1], 3.5]


async def test_an_error_is_shown_whole(chromium: Browser) -> None:
    """A CALLERROR is shown with its description, its URI and its details."""
    async with served(make().web_app()) as address, looking(chromium, address, "#/procedure/calc%3Adivide") as page:
        await page.fill("#field-x", "1")
        await page.fill("#field-y", "0")
        await page.keyboard.press("Control+Enter")
        problem = page.locator(".answer.failed .problem")
        await expect(problem.locator("strong")).to_have_text("cannot divide by zero")
        await expect(problem.locator("code")).to_have_text("http://example.com/calc#division-by-zero")
        await expect(problem.locator("pre")).to_have_text('{\n  "x": 1\n}')


async def test_waiting_no_longer(chromium: Browser) -> None:
    """A call that takes long can be given up, and the page says that it runs on."""
    app = make()
    begun = asyncio.Event()

    @app.rpc("t:slow")
    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with served(app.web_app()) as address, looking(chromium, address, "#/procedure/t%3Aslow") as page:
        await page.get_by_role("button", name="Call").click()
        await asyncio.wait_for(begun.wait(), 5)
        await expect(page.get_by_role("main")).to_contain_text("waiting for the answer")
        await page.get_by_role("button", name="Stop waiting").click()
        await expect(page.locator(".answer.failed")).to_contain_text("the procedure runs on")
        await expect(page.get_by_role("button", name="Call")).to_be_enabled()


async def test_nested_types(chromium: Browser) -> None:
    """Structs are fieldsets, choices are lists, and what is left out is left out."""
    async with served(make().web_app()) as address, looking(chromium, address, "#/procedure/user%3Acreate") as page:
        await page.fill("[id='field-user.name']", "Ann")
        await page.fill("[id='field-user.age']", "200")
        await page.fill("[id='field-user.address.street']", "Main St")
        await page.get_by_role("button", name="Call").click()
        wrong = page.locator(".field .wrong")
        await expect(wrong).to_have_text(["must be at most 150", "is needed"])
        await page.fill("[id='field-user.age']", "20")
        await page.fill("[id='field-user.address.city']", "Oslo")
        await page.fill("[id='field-user.tags']", '["a", "b"]')
        await page.select_option("#field-notify", "false")
        await page.get_by_role("button", name="Call").click()
        shown = await page.locator(".answer pre").first.inner_text()
        user = {"name": "Ann", "age": 20, "address": {"street": "Main St", "city": "Oslo"}, "tags": ["a", "b"]}
        assert json.loads(shown) == {"user": user, "kind": "guest", "notify": False}


async def test_a_type_that_contains_itself(chromium: Browser) -> None:
    """Its form ends: the inmost is entered as JSON, and what is left empty is left out."""
    app = make()

    @app.rpc("t:plant")
    async def plant(tree: Tree) -> Tree:
        return tree

    async with served(app.web_app()) as address, looking(chromium, address, "#/procedure/t%3Aplant") as page:
        await page.fill("[id='field-tree.name']", "a")
        call, answer = page.get_by_role("button", name="Call"), page.locator(".answer pre").first
        await call.click()
        await expect(answer).to_have_text('{\n  "name": "a",\n  "child": null\n}')
        await page.fill("[id='field-tree.child.name']", "b")
        await page.fill("[id='field-tree.child.child.name']", "c")
        await page.fill("[id='field-tree.child.child.child']", '{"name": "d"}')
        await call.click()
        await expect(answer).to_contain_text('"d"')
        leaf = {"name": "d", "child": None}
        assert json.loads(await answer.inner_text()) == {
            "name": "a",
            "child": {"name": "b", "child": {"name": "c", "child": leaf}},
        }


async def test_the_code_to_copy_does_the_same(chromium: Browser, tmp_path: Path) -> None:
    """The line for a terminal, the Python and the JavaScript call what the form calls, with its arguments."""
    async with (
        served(make().web_app()) as address,
        looking(chromium, address, "#/procedure/user%3Acreate") as page,
    ):
        await page.fill("[id='field-user.name']", 'O\'Hara $HOME `x` "é"')
        await page.fill("[id='field-user.age']", "7")
        await page.select_option("#field-notify", "false")
        code = page.locator(".snippets").last
        outputs = []
        for name in ("Terminal", "Python", "JavaScript"):
            await code.get_by_role("tab", name=name).click()
            outputs.append(await _run(name, await code.locator("pre").inner_text(), tmp_path))
        terminal, python, javascript = outputs
        expected = {"name": 'O\'Hara $HOME `x` "é"', "age": 7, "address": None, "tags": []}
        assert json.loads(terminal)["user"] == expected
        assert json.loads(terminal)["notify"] is False
        assert ast.literal_eval(python)["user"] == expected
        assert ast.literal_eval(python)["notify"] is False
        assert json.loads(javascript)["user"] == expected
        assert json.loads(javascript)["notify"] is False


async def test_the_code_to_publish(chromium: Browser, tmp_path: Path) -> None:
    """Each form of the code publishes what the form would."""
    app = make()
    async with served(app.web_app()) as address, looking(chromium, address, "#/topic/chat%3A%7Broom%7D") as page:
        await page.fill("[id='field-{room}']", "a b'c")
        await page.get_by_role("button", name="Subscribe").click()
        await eventually(lambda: "chat:a b'c" in app.topics)
        await page.fill("[id='field-event.text']", "it's ✓")
        code = page.locator(".publish .snippets")
        for number, name in enumerate(["Terminal", "Python", "JavaScript"], 1):
            await code.get_by_role("tab", name=name).click()
            await _run(name, await code.locator("pre").inner_text(), tmp_path)
            await expect(page.locator(".events code")).to_have_text(['{"room":"a b\'c","text":"it\'s ✓"}'] * number)


async def _run(name: str, code: str, folder: Path) -> str:
    """What a piece of code prints."""
    if name == "Terminal":
        line = code.replace("wampkit", f"{shlex.quote(sys.executable)} -m wampkit", 1)
        process = await asyncio.create_subprocess_shell(line, stdout=subprocess.PIPE)
    else:
        # A module cannot be imported from an address in Node, and a client keeps a program alive.
        local = re.sub(r'from "http[^"]*"', f'from "{(JAVASCRIPT / "wampkit.js").as_uri()}"', code)
        local = f"console.log = (value) => process.stdout.write(JSON.stringify(value));\n{local}\nclient.close();\n"
        file = folder / ("snippet.mjs" if name == "JavaScript" else "snippet.py")
        file.write_text(local if name == "JavaScript" else code)
        words = ["node", "--experimental-websocket"] if name == "JavaScript" else [sys.executable]
        process = await asyncio.create_subprocess_exec(*words, str(file), stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    return output.decode()


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
