"""docs/javascript.md: its snippets print what it shows, and its table of options is that of the client."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from wampkit.server.static import STATIC

from ..support.command import command, write

DOC = (Path(__file__).parents[2] / "docs" / "javascript.md").read_text()
APP = re.findall(r"^```python\n# served\.py\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
SNIPPETS = {
    name: (code, output)
    for name, code, output in re.findall(
        r"^```js\n// (\w+\.mjs)\n(.*?)^```\n\n```text\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL
    )
}


@pytest.mark.parametrize("name", SNIPPETS)
async def test_a_snippet_prints_what_is_shown(name: str, tmp_path: Path) -> None:
    """Each snippet with a name runs in Node against the page's app, and prints the text below it."""
    code, output = SNIPPETS[name]
    write(tmp_path, served=APP[0])
    async with command("run", "served:app", "--port", "0", cwd=tmp_path) as server:
        head = f'import {{ connect }} from "{STATIC / "wampkit.js"}";\nconst URL = "{await server.url()}";\n'
        (tmp_path / name).write_text(head + code)
        process = await asyncio.create_subprocess_exec(
            "node", "--no-warnings", "--experimental-websocket", name, cwd=tmp_path, stdout=subprocess.PIPE
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 20)
    assert printed.decode() == output


def test_every_part_has_a_snippet() -> None:
    """Connecting, calls, events and publishes are shown by snippets that run."""
    assert list(SNIPPETS) == ["connecting.mjs", "calls.mjs", "events.mjs", "confirming.mjs"]
    assert len(APP) == 1


def test_the_table_of_options_is_the_clients() -> None:
    """Each option of the declarations is in the table, with the default that the client has."""
    declared = (STATIC / "wampkit.d.ts").read_text().split("export interface Options {")[1].split("\n}")[0]
    source = (STATIC / "wampkit.js").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", DOC.split("## Options")[1], re.MULTILINE))
    assert set(rows) == set(re.findall(r"^  (\w+)\?:", declared, re.MULTILINE))
    for name, default in rows.items():
        value = default.strip("`")
        if value not in ("none", "the runtime's", "false", "0"):
            assert re.search(rf"\b{name} (=|\?\?) {re.escape(value)}", source), name
        elif value == "0":
            assert re.search(rf"\b{name}( = 0)?[,; ]", source), name
