"""Procedures in the console, in a real Chromium: forms, results, errors, and code to copy."""

import ast
import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct
from playwright.async_api import Browser, expect

from ..support.browser import served
from ..support.console_page import looking, make
from ..support.wire import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


JAVASCRIPT = Path(__file__).parents[2] / "wampkit" / "javascript"


class Tree(Struct):
    """A type that contains itself."""

    name: str
    child: "Tree | None" = None


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
