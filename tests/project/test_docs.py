"""The documentation holds together: its links lead somewhere, its tables are complete, and all its snippets are run."""

import re
import subprocess
import sys
from inspect import signature
from urllib.parse import unquote

import pytest

from wampkit import App

from ..support.pages import MODULES, PAGES, ROOT, Page, page, snippets

NOT_RUN = {
    "README.md: python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && sh tests/install-system-packages "
    "&& .venv/bin/python -m pytest -n auto --dist loadfile": "it is what runs this test; .ci/run has the same line",
    "docs/performance.md: pip install -e '.[bench]'": "it takes fifteen minutes; test_benchmarks runs it shortened",
}
"""The snippets that no test runs, each with the reason."""


# ---- snippets


def test_every_snippet_is_run() -> None:
    """Each snippet belongs to a test, by its language or by name, or is listed with the reason why it is not run."""
    from .test_docs_commands import SHELL
    from .test_docs_javascript import IN_BROWSER, IN_NODE
    from .test_docs_python import USES

    found = snippets("python", "console", "sh", "js", "html")
    assert [each.key for one in PAGES for each in one.snippets if each not in found] == []
    own = {**NOT_RUN, **SHELL, **IN_BROWSER, **IN_NODE}
    unnamed = [each.key for each in found if each.language in ("sh", "js", "html") and not each.name]
    assert sorted(unnamed) == sorted(own)
    assert set(MODULES) == set(USES)


def test_every_file_has_one_snippet() -> None:
    """No two Python snippets have the same name, as they are written into one directory."""
    names = [each.name for each in snippets("python") if each.name]
    assert sorted(names) == sorted(MODULES)


def test_a_script_shows_what_it_prints() -> None:
    """Each named JavaScript snippet is followed by its output, which test_docs_javascript compares."""
    assert [each.key for each in snippets("js") if each.name and not each.output] == []


# ---- links


@pytest.mark.parametrize("one", PAGES, ids=repr)
def test_every_link_leads_somewhere(one: Page) -> None:
    """Each relative link and picture is a file of the repository, and each anchor a heading of its page."""
    assert [target for target in one.links if not leads_somewhere(one, target)] == []
    assert not re.search(r"^\[[^\]]+\]: |<(a|img)\b", one.prose, re.MULTILINE), "links of another form are not checked"


def leads_somewhere(one: Page, target: str) -> bool:
    """Whether a link of a page leads to the web, or to a file and a heading of the repository."""
    if re.match(r"https?://", target):
        return True
    path, _, anchor = unquote(target).partition("#")
    file = (one.path.parent / path).resolve() if path else one.path
    if not (file.exists() and file.is_relative_to(ROOT.resolve())):
        return False
    return not anchor or anchor in Page(file).anchors


def test_every_mention_of_a_page_in_the_code_is_one() -> None:
    """Docstrings and comments of the package name pages that exist."""
    mentioned = {
        name for file in (ROOT / "wampkit").rglob("*.py") for name in re.findall(r"docs/[\w-]+\.md", file.read_text())
    }
    assert [name for name in mentioned if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_every_page_is_in_the_index(index: str) -> None:
    """The README and the index by task link to each page in docs/."""
    folder = (ROOT / index).parent
    linked = {(folder / target.partition("#")[0]).resolve() for target in page(index).links}
    assert [one for one in PAGES if one.path.parent == ROOT / "docs" and one.path not in linked | {ROOT / index}] == []


@pytest.mark.parametrize("one", [each for each in PAGES if each.name.startswith("docs/")], ids=repr)
def test_a_page_begins_with_what_it_is_for(one: Page) -> None:
    """Below its title, a page has a paragraph before anything else."""
    title, _, rest = one.text.partition("\n\n")
    assert re.fullmatch(r"# \S[^\n]+", title)
    assert re.match(r"[A-Z`]", rest)


# ---- the README


def test_the_readme_is_a_page() -> None:
    """The README has at most 200 lines and 1,000 words."""
    text = page("README.md").text
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1000


def test_ci_calls_the_test_command() -> None:
    """What CI runs is the command that the README shows, to the letter."""
    commands = [each.body.strip() for each in page("README.md").snippets if each.language == "sh"]
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text().splitlines()


# ---- tables


def test_the_options_are_those_of_the_app() -> None:
    """The table of options names each option of `App`, with its default."""
    table = page("docs/options.md").text.split("## Options of `App`")[1].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))
    shown = {"none": (None, ()), "see [errors](procedures.md#errors)": (None,), "Limits()": (None,)}
    for name, parameter in list(signature(App).parameters.items()):
        text = rows[name].strip().strip("`")
        assert parameter.default in shown.get(text, ()) or str(parameter.default) == text.strip('"'), name
    assert list(rows) == list(signature(App).parameters)


def test_the_options_are_those_of_the_command() -> None:
    """The table of `wampkit run` names each option in the order of its help, with its default."""
    table = page("docs/cli.md").text.split("## Options of `wampkit run`")[1].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (.+?) \|", table, re.MULTILINE))
    command = [sys.executable, "-m", "wampkit", "run", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT).stdout
    listed = printed.partition("Options:")[2].replace("\n  --", "\0--").split("\0")[1:]
    helps = {text.split()[0]: " ".join(text.split()) for text in listed}
    helps.pop("--help")
    assert list(rows) == list(helps)
    for name, default in rows.items():
        said = re.search(r"default: ([^;\]]+)", helps[name])
        assert default in ("off", "the app's") if said is None else default == f"`{said[1]}`", name


def test_the_error_uris_are_the_packages() -> None:
    """The table of errors has each kind with its URI."""
    from wampkit import ERROR_URIS

    table = page("docs/procedures.md").text.split("## Errors")[1]
    assert dict(re.findall(r"^\| `(\w+)` \| `(\S+)` \|", table, re.MULTILINE)) == dict(ERROR_URIS)


def test_the_pages_are_found() -> None:
    """The pages are where this test looks for them: a folder that moves is noticed."""
    names = {one.name for one in PAGES}
    assert {"README.md", "CHANGELOG.md", "docs/README.md", "docs/protocol.md", "wampkit/javascript/README.md"} <= names
