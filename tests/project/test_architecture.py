"""The house's rule: a unit imports only units of a lower rank, and the protocol knows no network."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import wampkit

from ..support.tables import rows

PACKAGE = Path(wampkit.__file__).parent

RANK = {
    "errors": 0,
    "telemetry": 1, "limits": 1, "networks": 1,
    "protocol": 2, "concurrency": 2,
    "connection": 3, "client": 3,
    "handlers": 4,
    "router": 5, "pubsub": 5,
    "dispatch": 6,
    "access": 7, "auth": 7, "schema": 7,
    "sessions": 8,
    "server": 9,
    "console": 10,
    "lifecycle": 11,
    "app": 12,
    "runner": 13, "testing": 13,
    "cli": 14,
    "__init__": 15, "__main__": 15,
}  # fmt: skip
"""Each unit, a package or a module beside them, and its rank: it imports units of lower ranks alone."""

WITHOUT_NETWORK = ("errors", "limits", "networks", "protocol")
NETWORK = {"asyncio", "aiohttp", "socket", "threading"}
CLIENT_USES = {"client", "errors", "telemetry", "protocol", "limits"}
PRIVATE = {"aiohttp": {"connection.direct_reader"}, "asyncio": {"concurrency.eager"}}


def modules() -> list[str]:
    """Every module of the package, by its dotted path within; a package is its `__init__`."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts) for path in paths)


def unit_of(module: str) -> str:
    return module.partition(".")[0]


def _nodes(module: str) -> Iterator[ast.AST]:
    """What runs of a module: what type checkers alone import is nothing at run time."""
    pending: list[ast.AST] = [ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending.extend(node.orelse)
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))


def _target(module: str, node: ast.ImportFrom, name: str) -> str:
    """The module of the package that a relative import takes a name from."""
    base = module.split(".")[: -node.level]
    path = [*base, *(node.module.split(".") if node.module else [])]
    for candidate in ([*path, name], path):
        if candidate and (PACKAGE / f"{'/'.join(candidate)}.py").exists():
            return ".".join(candidate)
    return ".".join([*path, "__init__"])


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """The modules of the package, and the other top-level modules, that a module imports anywhere in it."""
    own: set[str] = set()
    others: set[str] = set()
    for node in _nodes(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {_target(module, node, alias.name) for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom):
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return own, others


def private_names(module: str, library: str) -> set[str]:
    """The names of a library that a module imports though they begin with an underscore."""
    return {
        alias.name
        for node in _nodes(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == library
        for alias in node.names
        if alias.name.startswith("_") or any(part.startswith("_") for part in (node.module or "").split("."))
    }


def test_every_unit_has_its_rank() -> None:
    """A new package or module beside them is entered into the table above, as low as its imports allow."""
    assert {unit_of(module) for module in modules()} == set(RANK)


@rows("module", modules())
def test_imports_come_from_lower_ranks(module: str) -> None:
    """What a module imports of the package is its own unit or one of a lower rank."""
    own, others = imports_of(module)
    unit = unit_of(module)
    above = {name for name in own if unit_of(name) != unit and RANK[unit_of(name)] >= RANK[unit]}
    assert above == set(), f"{module} imports {', '.join(sorted(above))}, whose rank is not lower"
    assert "wampkit" not in others, "import relatively, so that the ranks can be seen"


def test_no_unit_has_a_cycle() -> None:
    """The modules of a package import one another in one direction."""
    graphlib.TopologicalSorter({module: imports_of(module)[0] for module in modules()}).prepare()


@rows("unit", WITHOUT_NETWORK)
def test_the_protocol_knows_no_network(unit: str) -> None:
    """Neither asyncio nor aiohttp is imported by the protocol, nor by what it imports."""
    pending = [module for module in modules() if module == unit or module.startswith(f"{unit}.")]
    assert pending
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        seen.add(name)
        own, others = imports_of(name)
        assert others & NETWORK == set(), name
        pending.extend(own - seen)


def test_the_client_needs_little_of_the_core() -> None:
    """Of the core the client uses errors, logs, limits and the protocol only."""
    for module in modules():
        if unit_of(module) == "client":
            assert {unit_of(each) for each in imports_of(module)[0]} <= CLIENT_USES, module


@rows("library", sorted(PRIVATE))
def test_private_names_of_a_library_stand_in_one_module(library: str) -> None:
    """When a library changes inside, one file has to follow."""
    assert {module for module in modules() if private_names(module, library)} == PRIVATE[library]


def test_ids_are_not_drawn_from_random() -> None:
    """`random` can be predicted; it serves for the client's back-off alone."""
    assert [module for module in modules() if "random" in imports_of(module)[1]] == ["client.dialer"]
