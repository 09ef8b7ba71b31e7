"""`wampkit routes`: as a table and as JSON."""

import json
from pathlib import Path

from ..support.command import wampkit

ROUTES = """\
prefix     calc          http://example.com/calc#
procedure  calc:add      (x: float, y: float = 1) -> float within 5 s                                   Add two numbers.
procedure  paint/{name}  (colour: Annotated[Colour, Meta(title='c')] = Colour.RED, *more: int) -> None
procedure  fail          ()
procedure  crash         ()
procedure  echo          (value: Any) -> Any
procedure  say           (topic: str, *events: Any) -> None
procedure  admin/stop    (*reasons)
topic      room/{name}   handler (event: Message) -> dict
topic      secret        server only
topic      lobby         relay
topic      news          server only
"""


def test_routes(project: Path) -> None:
    """Each route is a line: kind, URI, what is sent as it was written, who may publish, the docstring's first line."""
    done = wampkit("routes", "shop:app", cwd=project)
    assert done.stdout == ROUTES
    assert done.stderr == "chatter of the module\n"
    assert done.returncode == 0


def test_routes_with_middlewares(project: Path) -> None:
    """--middlewares shows what handshakes pass, and what each route's messages pass, outermost first."""
    lines = wampkit("routes", "shop:app", "--middlewares", cwd=project).stdout.splitlines()
    assert lines[0] == "handshake  AllowOrigins > Users"
    assert lines[lines.index("procedure  admin/stop    (*reasons)") + 1] == "           through Users > timing > admins"
    assert lines[lines.index("topic      lobby         relay") + 1] == "           through Users > timing"


def test_routes_in_json(project: Path) -> None:
    """--json prints one document that a script can read, with full URIs, middlewares and JSON Schemas."""
    listing = json.loads(wampkit("routes", "shop:app", "--json", cwd=project).stdout)
    assert listing["prefixes"] == {"calc": "http://example.com/calc#"}
    assert listing["handshake"] == ["AllowOrigins", "Users"]
    by_name = {route["declared"]: route for route in listing["routes"]}
    assert by_name["calc:add"] == {
        "kind": "procedure",
        "declared": "calc:add",
        "uri": "http://example.com/calc#add",
        "publish": None,
        "signature": "(x: float, y: float = 1) -> float",
        "timeout": 5,
        "doc": "Add two numbers.",
        "middlewares": ["Users", "timing"],
        "requires": {},
        "documentation": "Add two numbers.\n\nNot more.",
        "variables": [],
        "parameters": [
            {"name": "x", "schema": {"type": "number"}, "required": True, "variadic": False},
            {"name": "y", "schema": {"type": "number"}, "required": False, "variadic": False, "default": 1},
        ],
        "definitions": {},
    }
    assert [by_name[name]["publish"] for name in ("room/{name}", "lobby", "news")] == [
        "handler",
        "relay",
        "server only",
    ]
