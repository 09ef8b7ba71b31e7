"""The browser's client as files: served by the app, in the wheel, as an npm package, and for TypeScript."""

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

import wampkit
from wampkit import AllowOrigins, App, Tickets
from wampkit.server.static import STATIC

from ..support.wire import Server, serve

ROOT = Path(__file__).parents[2]
JS = Path(__file__).parent / "js"

PACKAGE = {"LICENSE", "README.md", "package.json", "wampkit.d.ts", "wampkit.global.js", "wampkit.js"}
MODULE = (STATIC / "wampkit.js").read_bytes()
BOUND = 6000
"""Bytes that the module may have when it is packed."""

MOST = 60.0
"""Seconds that a tool is given."""


async def tool(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a tool to its end: its exit code, and what it wrote to stdout."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), MOST)
    sys.stderr.write(err.decode())
    assert process.returncode is not None
    return process.returncode, out.decode()


async def get(server: Server, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """What the server answers: its status, its headers, and the body as it came."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as http,
        http.get(f"http://127.0.0.1:{server.port}{path}", headers=sent) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


# ---- served


async def test_the_files_are_served() -> None:
    """The module, the script and the declarations, below the socket's path, with what browsers and caches must know."""
    script = b'(() => {\n"use strict";\n' + MODULE.replace(b"\nexport {", b"\nglobalThis.wampkit = {") + b"})();\n"
    expected = {
        "wampkit.js": ("text/javascript; charset=utf-8", MODULE),
        "wampkit.global.js": ("text/javascript; charset=utf-8", script),
        "wampkit.d.ts": ("text/plain; charset=utf-8", (STATIC / "wampkit.d.ts").read_bytes()),
    }
    async with serve(App(ident="mine")) as server:
        for name, (content_type, content) in expected.items():
            status, headers, body = await get(server, f"/ws/{name}")
            assert (status, body) == (200, content)
            assert headers["Content-Type"] == content_type
            assert headers["Cache-Control"] == "no-cache"
            assert headers["Vary"] == "Accept-Encoding"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert headers["Server"] == "mine"
            assert "Content-Encoding" not in headers
        assert (await get(server, "/ws/package.json"))[0] == 404


async def test_gzip_is_sent_to_whom_takes_it() -> None:
    """As Accept-Encoding says, also where it forbids gzip by its weight."""
    takes = {"gzip": True, "deflate, gzip;q=1.0, *;q=0.5": True, "GZIP": True, "br, gzip; q=0.1": True}
    refuses = {"gzip;q=0": False, "gzip; q=0.000, br": False, "br": False, "": False, "x-gzipped": False}
    async with serve(App()) as server:
        for accepted, packed in (takes | refuses).items():
            _, headers, body = await get(server, "/ws/wampkit.js", Accept_Encoding=accepted)
            assert headers.get("Content-Encoding") == ("gzip" if packed else None), accepted
            assert (gzip.decompress(body) if packed else body) == MODULE
            assert int(headers["Content-Length"]) == len(body)


async def test_who_has_it_already_gets_304() -> None:
    """By the ETag of either form, among others, weak ones too; of another one the whole file."""
    async with serve(App()) as server:
        plain = (await get(server, "/ws/wampkit.js"))[1]["ETag"]
        packed = (await get(server, "/ws/wampkit.js", Accept_Encoding="gzip"))[1]["ETag"]
        assert plain != packed
        for etag in (plain, f"W/{plain}", f'"other", {plain}', "*"):
            status, headers, body = await get(server, "/ws/wampkit.js", If_None_Match=etag)
            assert (status, body, headers["ETag"]) == (304, b"", plain)
            assert headers["Cache-Control"] == "no-cache"
            assert headers["Vary"] == "Accept-Encoding"
        kept = {"If_None_Match": packed, "Accept_Encoding": "gzip"}
        assert (await get(server, "/ws/wampkit.js", **kept))[0] == 304
        assert (await get(server, "/ws/wampkit.js", If_None_Match=packed))[0] == 200
        assert (await get(server, "/ws/wampkit.js", If_None_Match='"other"'))[0] == 200


@pytest.mark.parametrize(("path", "below"), [("/", ""), ("/a/b", "/a/b"), ("/live/", "/live")])
async def test_the_files_lie_below_any_path(path: str, below: str) -> None:
    """Also where the socket is at the root of the site."""
    async with serve(App(), path) as server:
        assert (await get(server, f"{below}/wampkit.js"))[2] == MODULE
        assert (await get(server, f"{below}/wampkit.global.js"))[0] == 200


async def test_the_files_can_be_turned_off() -> None:
    """`App(javascript=False)` serves the socket alone."""
    app = App(javascript=False)
    async with serve(app) as server:
        for name in ("wampkit.js", "wampkit.global.js", "wampkit.d.ts"):
            assert (await get(server, f"/ws/{name}"))[0] == 404
        assert (await server.peer()).id


async def test_no_gate_is_asked_for_the_files() -> None:
    """They are the same for everybody; the socket's gates stand before the socket."""
    app = App(middlewares=[AllowOrigins("https://example.com"), Tickets("x" * 43 + "=", required=True)])
    async with serve(app) as server:
        status, _, body = await get(server, "/ws/wampkit.js", Origin="https://evil.example")
        assert (status, body) == (200, MODULE)


# ---- small


def test_the_module_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    """Under 6 kB packed; the number is printed. A fifth of it are the checks of what servers send."""
    size = len(gzip.compress(MODULE, 9))
    with capsys.disabled():
        print(f"\nwampkit.js: {size:,} bytes gzipped, of {BOUND:,} that it may have")  # noqa: T201
    assert size < BOUND


# ---- packaged


async def test_the_wheel_has_it(tmp_path: Path) -> None:
    """Every file of the two folders is in the wheel, and an app from the wheel serves it."""
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert (await tool(*build, cwd=ROOT))[0] == 0
    (wheel,) = tmp_path.glob("wampkit-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    package = Path(wampkit.__file__).parent
    for name, needed in (
        ("javascript", PACKAGE - {"wampkit.global.js"}),
        ("console/assets", {"console.html", "vendor/LICENSE-uplot.txt"}),
    ):
        source, built = package / name, tmp_path / "site" / "wampkit" / name
        kept = _files_in(source) - {"wampkit.global.js"}
        assert _files_in(built) == kept
        assert needed <= kept
        assert all((built / file).read_bytes() == (source / file).read_bytes() for file in kept)
    program = "import wampkit; print(wampkit.__file__, *map(str, wampkit.App().web_app().router.resources()))"
    _, out = await tool(sys.executable, "-c", program, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")})
    assert out.startswith(str(tmp_path))
    assert "/ws/wampkit.js" in out


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_npm_packs_it(tmp_path: Path) -> None:
    """`npm pack` in the folder makes a package with these files alone, which Node imports by its name."""
    folder = tmp_path / "static"
    shutil.copytree(STATIC, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)  # the checkout's may be one that nothing can be written to
    quiet = {"npm_config_cache": str(tmp_path / "npm"), "npm_config_update_notifier": "false"}
    status, out = await tool("npm", "pack", "--json", "--pack-destination", str(tmp_path), cwd=folder, env=quiet)
    assert status == 0
    (made,) = json.loads(out)
    assert {each["path"] for each in made["files"]} == PACKAGE
    assert (made["name"], made["version"]) == ("wampkit", wampkit.__version__)

    modules = tmp_path / "node_modules"
    modules.mkdir()
    with tarfile.open(tmp_path / made["filename"]) as packed:
        packed.extractall(modules)  # what npm has just made
    (modules / "package").rename(modules / "wampkit")
    names = ["CallError", "ConnectionLost", "connect", "deriveKey", "sign"]
    program = """
    import * as wampkit from "wampkit";
    import { createRequire } from "node:module";
    import "wampkit/global";
    const { version } = createRequire(`${process.cwd()}/`)("wampkit/package.json");
    console.log(JSON.stringify([version, Object.keys(wampkit), Object.keys(globalThis.wampkit).sort()]));
    """
    status, out = await tool("node", "--input-type=module", "-e", program, cwd=tmp_path)
    assert json.loads(out) == [wampkit.__version__, names, names]

    async with serve(App()) as server:
        served = (await get(server, "/ws/wampkit.global.js"))[2]
    assert (modules / "wampkit" / "wampkit.global.js").read_bytes() == served
    assert (STATIC / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


# ---- TypeScript


async def test_typescript_takes_an_app_and_shows_mistakes(tmp_path: Path) -> None:
    """A sample of everything passes `tsc --strict`; of the mistakes each is shown in its line."""
    shutil.copytree(STATIC, tmp_path / "node_modules" / "wampkit")
    for name in ("sample.ts", "mistakes.ts", "script.ts"):
        shutil.copy(JS / name, tmp_path)
    (tmp_path / "package.json").write_text('{ "type": "module" }')
    tsc = ("tsc", "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--pretty", "false")
    by_folder = tool(
        *tsc, *("--module", "es2022", "--moduleResolution", "node", "sample.ts", "script.ts"), cwd=tmp_path
    )
    by_exports = tool(*tsc, *("--module", "node16", "--moduleResolution", "node16", "mistakes.ts"), cwd=tmp_path)
    (status, out), (_, mistakes) = await asyncio.gather(by_folder, by_exports)
    assert (status, out) == (0, "")
    lines = (JS / "mistakes.ts").read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("// wrong")]
    assert len(wrong) > 20
    assert re.findall(r"^([\w.]+)\((\d+),", mistakes, re.MULTILINE) == [("mistakes.ts", str(each)) for each in wrong]
