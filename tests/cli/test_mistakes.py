"""One line and an exit code for each mistake in the arguments, the file, the variables or the app."""

from pathlib import Path

import pytest

from ..support.command import free_port, wampkit, write
from ..support.tables import rows

MISTAKES = [
    ("run nowhere:app", "wampkit: no module 'nowhere' in {here} or on the Python path", 1),
    ("run shop:ap", "wampkit: there is no 'ap' in shop (shop.py); did you mean 'app'?", 1),
    ("run shop:router", "wampkit: shop:router is a Router, not an App; did you mean shop:app?", 1),
    ("run broken:app", "wampkit: broken.py:1: ModuleNotFoundError: No module named 'nothing_here'", 1),
    ("routes broken:app", "wampkit: broken.py:1: ModuleNotFoundError: No module named 'nothing_here'", 1),
    ("run", "wampkit: which app?", 2),
    ("run wrong:app", "wampkit: x (f, {here}/wrong.py:6): parameter 'y': JSON cannot be converted to App", 1),
    ("routes wrong:app", "wampkit: x (f, {here}/wrong.py:6): parameter 'y': JSON cannot be converted to App", 1),
    ("run sour:app --port 0", "wampkit: the app failed to start: sour.py:6: OSError: the database is gone", 1),
    ("run calm:app --port 70000", "wampkit run: Invalid value for '--port': 70000 is not in the range", 2),
    ("run calm:app --workers 0", "wampkit run: Invalid value for '--workers': 0 is not in the range", 2),
    ("run calm:app --drain nan", "wampkit run: Invalid value for '--drain': 'nan' is no number of seconds", 2),
    ("run calm:app --path ws", "wampkit run: Invalid value for '--path': 'ws' is no path such as /ws", 2),
    ("run calm:app --host nowhere.invalid", "wampkit: host 'nowhere.invalid': ", 1),
    ("run calm:app --host 203.0.113.77", "wampkit: host '203.0.113.77' is no address of this machine", 1),
    ("run calm:app --broker carrier://:pigeon@x", "wampkit: --broker: there is no broker for carrier://", 1),
    ("run calm:app --reload --workers 2", "wampkit: --reload runs one process; leave out --workers", 2),
    ("run calm:app --prot 1", "wampkit run: No such option '--prot'", 2),
    ("walk", "wampkit: No such command 'walk'", 2),
    ("call 127.0.0.1:8080 f", "wampkit call: '127.0.0.1:8080' is no WebSocket URL; write ws://host:port/path", 2),
    ("call ws://127.0.0.1:{free}/ws f", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("publish ws://127.0.0.1:{free}/ws t 1", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("subscribe ws://127.0.0.1:{free}/ws t", "wampkit: ws://127.0.0.1:{free}/ws: Connection refused", 1),
    ("call ws://nowhere.invalid/ws f", "wampkit: ws://nowhere.invalid/ws: ", 1),
    (
        "call ws://127.0.0.1:{free}/ws f 1 hello",
        "wampkit call: the argument hello is not JSON; quote text twice: '\"hello\"'",
        2,
    ),
    ("call ws://127.0.0.1:{free}/ws f NaN", "wampkit call: the argument NaN is not JSON", 2),
    ("call ws://127.0.0.1:{free}/ws f --tiemout", "wampkit call: the argument --tiemout is not JSON", 2),
    ("publish ws://127.0.0.1:{free}/ws t {{x}}", "wampkit publish: the argument {{x}} is not JSON", 2),
    ("call ws://127.0.0.1:{free}/ws f --prefix calc", "wampkit call: Invalid value for '--prefix': 'calc' must", 2),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the apps of `MISTAKES`."""
    directory = tmp_path_factory.mktemp("mistakes")
    write(
        directory,
        shop="from wampkit import App, Router\napp, router = App(), Router()\n",
        calm="from wampkit import App\napp = App()\n",
        broken="import nothing_here\n",
        wrong="from wampkit import App\n\napp = App()\n\n\n@app.rpc('x')\ndef f(y: App): ...\n",
        sour="from wampkit import App\napp = App()\n\n@app.on_startup\ndef start():\n"
        "    raise OSError('the database is gone')\n",
    )
    return directory


@rows(("args", "text", "code"), MISTAKES)
def test_a_mistake_is_one_line(mistaken: Path, args: str, text: str, code: int) -> None:
    """Each mistake is one clear line on stderr and a non-zero exit code."""
    names = {"here": mistaken, "free": free_port()}
    done = wampkit(*args.format(**names).split(), cwd=mistaken)
    (line,) = done.stderr.splitlines()
    assert line.startswith(text.format(**names))
    assert "pigeon" not in line, "the password of a broker"
    assert done.stdout == ""
    assert done.returncode == code


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("prot = 1", "wampkit: pyproject.toml: [tool.wampkit] has no key 'prot'; did you mean 'port'?"),
        ("port = true", "wampkit run: [tool.wampkit] in pyproject.toml: Invalid value for '--port': 'true'"),
        ("port = 80.5", "wampkit run: [tool.wampkit] in pyproject.toml: Invalid value for '--port': '80.5'"),
        ("port = [[1]]", "wampkit: pyproject.toml: [tool.wampkit] port: no option takes this"),
        ("port =", "wampkit: pyproject.toml: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, line: str, text: str) -> None:
    """What is wrong in pyproject.toml is one line that says where, and exit code 2."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.wampkit]\n{line}\n")
    done = wampkit("run", cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(text)
    assert done.returncode == 2


def test_a_mistake_in_a_variable_is_one_line(tmp_path: Path) -> None:
    """What is wrong in a variable names the variable."""
    done = wampkit("run", cwd=tmp_path, env={"WAMPKIT_PORT": "http"})
    assert done.stderr.startswith("wampkit run: WAMPKIT_PORT: Invalid value for '--port': 'http'")
    assert done.returncode == 2


def test_the_traceback_can_be_seen(tmp_path: Path) -> None:
    """With --log-level debug the traceback of the user's own mistake is shown, and the line as its last."""
    write(tmp_path, broken="import nothing_here\n")
    done = wampkit("run", "broken:app", "--log-level", "debug", cwd=tmp_path)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("wampkit: broken.py:1: ModuleNotFoundError")


@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [("watchfiles", "--reload", "wampkit[reload]"), ("uvloop", "--loop uvloop", "wampkit[speed]")],
)
def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, module: str, args: str, extra: str) -> None:
    """An option whose package is missing says what to install; without the option nobody misses it."""
    write(tmp_path, calm="from wampkit import App\napp = App()\nraise OSError('this far')\n")
    write(tmp_path, **{module: "raise ImportError\n"})
    done = wampkit("run", "calm:app", *args.split(), cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 1
    assert extra in done.stderr
    assert done.returncode != 0
    assert "this far" in wampkit("run", "calm:app", cwd=tmp_path).stderr
