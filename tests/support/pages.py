"""The pages of the documentation: their snippets, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["MODULES", "PAGES", "ROOT", "Page", "Snippet", "page", "snippets"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]*)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        page: The path of its page below `ROOT`.
        language: The word behind the opening fence.
        body: Its lines.
        output: The `text` block that follows it immediately, or "".
    """

    page: str
    language: str
    body: str
    output: str = ""

    @property
    def first(self) -> str:
        """Its first line."""
        return self.body.partition("\n")[0]

    @property
    def name(self) -> str:
        """The file that its first line names, such as `# chat.py` or `// calls.mjs`; else ""."""
        found = re.fullmatch(r"(?:#|//) (\w+\.(?:py|mjs))", self.first)
        return found[1] if found else ""

    @property
    def key(self) -> str:
        """Its page and first line, to name it in a table."""
        return f"{self.page}: {self.first}"


class Page:
    """A Markdown file.

    Attributes:
        path: The file.
        name: Its path below `ROOT`.
        text: What it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def snippets(self) -> list[Snippet]:
        """Its fenced blocks, in order."""
        found: list[Snippet] = []
        end = -1
        for block in _FENCE.finditer(self.text):
            language, body = block.groups()
            if (
                language == "text"
                and found
                and found[-1].language == "js"
                and not self.text[end : block.start()].strip()
            ):
                body, found[-1] = "", Snippet(self.name, found[-1].language, found[-1].body, body)
            if body:
                found.append(Snippet(self.name, language, body))
            end = block.end()
        return found

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """The targets of its links and pictures."""
        return _LINK.findall(_CODE.sub("code", self.prose))

    @property
    def anchors(self) -> set[str]:
        """The names by which links reach its headings, as GitHub makes them."""
        names: list[str] = []
        for heading in _HEADING.findall(self.prose):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
            name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
            names.append(f"{name}-{names.count(name)}" if name in names else name)
        return set(names)


PAGES = [
    Page(path)
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "wampkit").rglob("README.md")),
        ROOT / "CHANGELOG.md",
    )
]


def page(name: str) -> Page:
    """The page of this path below `ROOT`."""
    return next(each for each in PAGES if each.name == name)


def snippets(*languages: str) -> list[Snippet]:
    """The snippets of all pages in these languages."""
    return [each for one in PAGES for each in one.snippets if each.language in languages]


MODULES = {each.name: each.body for each in snippets("python") if each.name}
"""The Python snippets that are files, by file name."""
