"""Finding an app: from `module:attribute` or the working directory to an App, or to one line that says why not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wampkit import App
from wampkit.runner.errors import CommandError
from wampkit.runner.loading import load_app

from ..support.command import write
from ..support.tables import rows

KINDS = """
from wampkit import App, Router

application = App()
router = Router()
number = 3
nothing = None


class Site:
    class inner:
        app = App()


def make() -> App:
    return App()


def needy(config) -> App:
    return App()


def failing() -> App:
    raise ValueError("no luck")


async def awaited() -> App:
    return App()


def three() -> int:
    return 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user, with modules that are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def mistake(name: str | None, project: Path) -> CommandError:
    """What keeps an app from being loaded."""
    with pytest.raises(CommandError) as caught:
        load_app(name, project)
    assert "\n" not in str(caught.value)
    return caught.value


# ---- what is found


@pytest.mark.parametrize("name", ["kinds:application", "kinds:make", "kinds:Site.inner.app", "kinds"])
def test_apps_that_are_found(project: Path, name: str) -> None:
    """An app is an attribute, a dotted one too, what a function without arguments makes, or the one of its module."""
    write(project, kinds=KINDS)
    assert isinstance(load_app(name, project), App)


def test_packages(project: Path) -> None:
    """A module may be inside a package."""
    (project / "shop").mkdir()
    write(project / "shop", web="from wampkit import App\napp = App()\n")
    assert load_app("shop.web:app", project) is sys.modules["shop.web"].app


@pytest.mark.parametrize("file", ["app", "main"])
def test_a_lone_app(project: Path, file: str) -> None:
    """Without a name the one App in app.py or main.py is served, whatever it is called."""
    write(project, **{file: "from wampkit import App\nthing = again = App()\n"})
    assert load_app(None, project) is sys.modules[file].thing


def test_main_behind_an_app_file_without_app(project: Path) -> None:
    """An app.py that has no App leaves the choice to main.py."""
    write(project, app="app = 'something else'\n", main="from wampkit import App\nserver = App()\n")
    assert load_app(None, project) is sys.modules["main"].server


def test_app_wins_among_several(project: Path) -> None:
    """A module with several Apps is no riddle when one of them is called app."""
    write(project, two="from wampkit import App\nadmin, app = App(), App()\n")
    assert load_app("two", project) is sys.modules["two"].app


# ---- what is not


@rows(
    ("name", "text", "code"),
    [
        ("nowhere:app", "no module 'nowhere' in {here} or on the Python path", 1),
        ("kind:app", "no module 'kind' in {here} or on the Python path; did you mean 'kinds'?", 1),
        ("nowhere.sub:app", "no module 'nowhere' in {here}", 1),
        ("kinds.sub:app", "no module 'kinds.sub' in {here}", 1),
        ("kinds.py:app", "'kinds.py:app' is a file; name the module instead: kinds:app", 2),
        ("src/shop.py", "'src/shop.py' is a file; name the module instead: src.shop:app", 2),
        ("kinds:", "'' is no attribute name; an app is named module:attribute", 2),
        (":app", "'' is no module name", 2),
        ("", "'' is no module name", 2),
        (".relative:app", "'.relative' is no module name", 2),
        ("my kinds:app", "'my kinds' is no module name", 2),
        ("kinds:make()", "'make()' is no attribute name", 2),
        ("kinds:aplication", "there is no 'aplication' in kinds (kinds.py); did you mean 'application'?", 1),
        ("kinds:Site.iner", "there is no 'iner' in kinds:Site; did you mean 'inner'?", 1),
        ("kinds:router", "kinds:router is a Router, not an App; did you mean kinds:application?", 1),
        ("kinds:number", "kinds:number is an int, not an App", 1),
        ("kinds:nothing", "kinds:nothing is None, not an App", 1),
        ("kinds:App", "kinds:App is the class App itself, not an App", 1),
        ("kinds:needy", "kinds:needy is the function needy, and to make the app it must work without arguments", 1),
        ("kinds:failing", "kinds:failing failed: kinds.py:24: ValueError: no luck", 1),
        ("kinds:awaited", "kinds:awaited is async", 1),
        ("kinds:three", "kinds:three returned an int, not an App", 1),
        (None, "which app? neither app.py nor main.py is there in {here}", 2),
    ],
)
def test_what_is_no_app(project: Path, name: str | None, text: str, code: int) -> None:
    """Each wrong name is one line that says what is there and what would be right."""
    write(project, kinds=KINDS)
    found = mistake(name, project)
    assert text.format(here=project) in str(found)
    assert found.code == code


@rows(
    ("source", "text"),
    [
        ("import json\nimport nothing_here\n", "broken.py:2: ModuleNotFoundError: No module named 'nothing_here'"),
        ("from json import nothing\n", "broken.py:1: ImportError: cannot import name 'nothing' from 'json'"),
        ("import json\n\njson.loads('{')\n", "broken.py:3: JSONDecodeError: Expecting property name"),
        ("x = 1\ndef f(:\n    pass\n", "broken.py:2: SyntaxError: invalid syntax"),
        ("def f():\n    return [][1]\n\nf()\n", "broken.py:2: IndexError: list index out of range"),
        ("raise SystemExit(3)\n", "broken.py:1: SystemExit: 3"),
        ("raise ValueError('two\\nlines \\x1b[2J')\n", "broken.py:1: ValueError: two lines \\x1b[2J"),
        (
            "from wampkit import App\napp = App(keepalive=-1)\n",
            "broken.py:2: keepalive is a number of seconds above 0, or None",
        ),
    ],
)
def test_mistakes_in_the_module(project: Path, source: str, text: str) -> None:
    """What fails inside the user's module is told with file and line of the user's code, fit for a terminal."""
    write(project, broken=source)
    found = mistake("broken:app", project)
    assert str(found).startswith(text)
    assert found.code == 1
    assert found.__cause__ is not None, "the traceback can be shown"


def test_a_file_that_a_module_imports(project: Path) -> None:
    """The line that is named is the one that failed, not the one that was asked for."""
    write(project, outer="import inner\n", inner="import nothing_here\n")
    assert str(mistake("outer:app", project)).startswith("inner.py:1: ModuleNotFoundError")


def test_several_apps(project: Path) -> None:
    """Of several Apps one must be chosen, and the line names them."""
    write(project, two="from wampkit import App\nadmin, public = App(), App()\n")
    assert str(mistake("two", project)).endswith("choose one: two:admin, two:public")


def test_a_module_without_apps(project: Path) -> None:
    """A module without an App says so, with its file."""
    write(project, none="x = 1\n")
    assert str(mistake("none", project)).startswith("there is no App in none (none.py)")
