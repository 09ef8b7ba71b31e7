"""The house's rule: a file imports only from lower layers, and the protocol knows no network."""

import ast
from pathlib import Path

from .tables import rows

PACKAGE = Path(__file__).parent.parent / "wampkit"

LAYERS: list[set[str]] = [
    {"errors"},
    {"logs"},
    {
        "frames",
        "complaints",
        "counters",
        "cra",
        "eager",
        "fatal",
        "flood",
        "memory",
        "sockets",
        "states",
        "users",
        "permissions",
        "heartbeat",
        "transaction",
        "addresses",
        "texts",
        "stderr",
    },
    {"threads", "strict_json"},
    {
        "hosts",
        "forwarded",
        "uris",
        "limits",
        "messages",
        "depends",
        "broker",
        "signatures",
        "arguments",
        "outbox",
        "refusals",
        "keys",
        "httplog",
        "places",
        "authentication",
        "guessing",
    },
    {"background", "browser", "origins", "protocol", "binding", "router", "work", "inlet", "hub", "session"},
    {"connection", "link", "storage"},
    {"login", "direct"},
    {"dialing", "roads"},
    {
        "connections",
        "gates",
        "topics",
        "incoming",
        "keepalive",
        "lifecycle",
        "subscriptions",
        "failures",
        "tickets",
        "watch",
        "time_limit",
        "handshakes",
    },
    {"middleware", "client", "sessions", "to_user", "logins"},
    {"meter", "requirements", "names", "own", "settings"},
    {"chains"},
    {"calls", "subscribing", "serving"},
    {"dispatch", "reference"},
    {"console", "node"},
    {"console_page", "door"},
    {"assembly", "live", "mounting", "processes"},
    {"app"},
    {"loading", "testing"},
    {"listing", "rehearsal", "process", "options", "talk", "watchdog"},
    {"server", "checking"},
    {"children"},
    {"reload", "workers"},
    {"cli"},
    {"__main__", "__init__"},
]
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer}

PURE = ("errors", "uris", "messages", "protocol", "cra", "addresses", "hosts", "origins")
EDGES = LAYER_OF.keys() & {
    "client", "dialing", "link", "login", "states", "subscriptions", "loading", "testing", "listing", "rehearsal",
    "checking", "process", "options", "talk", "watchdog", "stderr", "server", "children", "reload", "workers", "cli",
}  # fmt: skip
OF_THE_CLIENT = {"client", "dialing", "link", "login", "states", "subscriptions"}


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """The modules of the package, and the other top-level modules, that a module imports anywhere in it.

    Not what type checkers alone import: at run time that is nothing.
    """
    own: set[str] = set()
    others: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return own - {"__version__"}, others


def test_every_module_has_its_layer() -> None:
    """A new module is entered into the table above, in the lowest layer that its imports allow."""
    assert sorted(path.stem for path in PACKAGE.glob("*.py")) == sorted(LAYER_OF)


@rows("module", sorted(LAYER_OF))
def test_imports_come_from_lower_layers(module: str) -> None:
    """What a module imports of the package lies beneath it."""
    own, others = imports_of(module)
    above = {name for name in own if LAYER_OF[name] >= LAYER_OF[module]}
    assert above == set(), f"{module} imports {', '.join(sorted(above))}, which does not lie beneath it"
    assert "wampkit" not in others, "import relatively, so that the layers can be seen"


@rows("module", PURE)
def test_the_protocol_knows_no_network(module: str) -> None:
    """Neither asyncio nor aiohttp is imported by the protocol or the rules of the door, or by what they import."""
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        seen.add(name)
        own, others = imports_of(name)
        assert others & {"asyncio", "aiohttp", "socket", "threading"} == set(), name
        pending.extend(own - seen)


def test_the_core_imports_no_edge() -> None:
    """Client, commands and fixtures stand outside: the core works without them."""
    for module in LAYER_OF.keys() - EDGES - {"__init__", "__main__"}:
        assert imports_of(module)[0] & EDGES == set(), module


def test_the_client_needs_little_of_the_core() -> None:
    """Of the core the client uses errors, the log, names, messages, the protocol and WAMP-CRA's arithmetic only."""
    allowed = OF_THE_CLIENT | {"errors", "logs", "uris", "messages", "protocol", "cra"}
    for module in OF_THE_CLIENT:
        assert imports_of(module)[0] <= allowed, module


def test_ids_are_not_drawn_from_random() -> None:
    """`random` can be predicted; it serves for the client's back-off alone."""
    users = [module for module in LAYER_OF if "random" in imports_of(module)[1]]
    assert users == ["dialing"]
