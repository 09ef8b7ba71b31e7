"""Change the code in one place at a time and see whether the tests notice: `python -m tests.mutation`.

    python -m tests.mutation --list                        # the modules and their tests
    python -m tests.mutation protocol.messages --sample 40     # forty mutants of each, drawn by the seed
    python -m tests.mutation --sample 20 --jobs 2          # twenty of every module

Each mutant is tried on a copy of the checkout, so the checkout itself is never touched. A mutant that the tests do not
notice is printed; some of those change nothing that anything could see, which only a reader can tell. Those that a
reader has judged so stand in `EQUIVALENT` and are not tried.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent

TESTS: dict[str, str] = {
    "handlers.arguments": "handlers/test_binding dispatch/test_calls",
    "concurrency.background": "concurrency/test_background",
    "handlers.binding": (
        "handlers/test_binding handlers/test_depends handlers/test_transaction "
        "handlers/test_transaction_events handlers/test_cancelled_transactions dispatch/test_calls"
    ),
    "handlers.plan": (
        "handlers/test_binding handlers/test_depends handlers/test_transaction "
        "handlers/test_transaction_events handlers/test_cancelled_transactions dispatch/test_calls"
    ),
    "dispatch.calls": (
        "dispatch/test_calls dispatch/test_errors dispatch/test_concurrent_calls "
        "dispatch/test_cancelled_calls dispatch/test_topic_messages handlers/test_depends "
        "handlers/test_transaction handlers/test_transaction_events handlers/test_cancelled_transactions "
        "test_declarations test_limits test_limits_rate test_limits_in_flight system/test_drain"
    ),
    "client.client": (
        "client/test_client client/test_handshake client/test_reconnecting client/test_foreign_servers "
        "client/test_login dispatch/test_builtins client/test_connection"
    ),
    "connection.connection": (
        "connection/test_connection connection/test_malformed_messages connection/test_closing "
        "system/test_slow_peers system/test_queue_bounds connection/test_keepalive system/test_drain "
        "system/test_faults"
    ),
    "protocol.cra": (
        "protocol/test_cra client/test_login dispatch/test_rights auth/test_authenticator auth/test_unknown_keys"
    ),
    "handlers.depends": (
        "handlers/test_depends handlers/test_transaction handlers/test_transaction_events "
        "handlers/test_cancelled_transactions dispatch/test_calls dispatch/test_cancelled_calls"
    ),
    "client.dialer": (
        "client/test_client client/test_handshake client/test_reconnecting client/test_foreign_servers "
        "client/test_login"
    ),
    "dispatch.dispatcher": (
        "dispatch/test_calls dispatch/test_errors dispatch/test_concurrent_calls "
        "dispatch/test_cancelled_calls dispatch/test_topic_messages pubsub/test_topics pubsub/test_receivers "
        "pubsub/test_on_unsubscribe pubsub/test_on_subscribe test_limits test_limits_rate "
        "test_limits_in_flight"
    ),
    "server.handshake": (
        "server/test_handshake server/test_gates access/test_addresses access/test_hosts "
        "connection/test_connection connection/test_malformed_messages connection/test_closing"
    ),
    "limits": (
        "test_limits test_limits_rate test_limits_in_flight connection/test_connection "
        "connection/test_malformed_messages connection/test_closing auth/test_login_limits "
        "auth/test_login_timeout"
    ),
    "access.proxies": "test_networks access/test_addresses access/test_proxies",
    "auth.login_limits": "auth/test_login_limits auth/test_unknown_keys",
    "connection.server_connection": (
        "connection/test_connection connection/test_malformed_messages connection/test_closing "
        "connection/test_keepalive system/test_drain system/test_slow_peers"
    ),
    "connection.registry": "connection/test_registry connection/test_user_connections",
    "connection.reader": (
        "connection/test_reader connection/test_connection connection/test_malformed_messages "
        "connection/test_closing system/test_faults"
    ),
    "connection.sockets": "connection/test_keepalive concurrency/test_background system/test_half_open",
    "client.connection": (
        "client/test_connection client/test_client client/test_handshake client/test_reconnecting "
        "client/test_foreign_servers"
    ),
    "client.event_queue": (
        "client/test_subscriptions client/test_client client/test_handshake client/test_reconnecting "
        "client/test_foreign_servers"
    ),
    "client.handshake": "client/test_handshake client/test_foreign_servers",
    "auth.authenticator": (
        "client/test_login dispatch/test_rights auth/test_authenticator auth/test_credentials "
        "auth/test_login_limits auth/test_unknown_keys auth/test_login_timeout"
    ),
    "protocol.messages": (
        "protocol/test_messages protocol/test_v1 handlers/test_unserializable "
        "connection/test_malformed_messages test_limits test_limits_in_flight"
    ),
    "server.runtime": (
        "handlers/test_hooks server/test_runtime pubsub/test_broker concurrency/test_background "
        "system/test_drain system/test_slow_peers system/test_queue_bounds"
    ),
    "access.origins": "access/test_origins access/test_hosts",
    "connection.outbox_variants": "connection/test_outbox system/test_slow_peers system/test_queue_bounds",
    "connection.outbox": (
        "connection/test_outbox pubsub/test_topics pubsub/test_on_subscribe connection/test_keepalive "
        "system/test_slow_peers system/test_queue_bounds"
    ),
    "protocol.v1": (
        "protocol/test_v1 protocol/test_messages dispatch/test_calls dispatch/test_errors "
        "dispatch/test_concurrent_calls dispatch/test_cancelled_calls dispatch/test_topic_messages "
        "test_limits"
    ),
    "dispatch.requirements": (
        "dispatch/test_rights dispatch/test_requirements dispatch/test_refusals "
        "connection/test_user_connections dispatch/test_calls dispatch/test_errors "
        "dispatch/test_concurrent_calls dispatch/test_cancelled_calls dispatch/test_topic_messages "
        "test_declarations auth/test_authenticator auth/test_credentials auth/test_login_limits "
        "auth/test_unknown_keys auth/test_login_timeout"
    ),
    "sessions.middleware": (
        "sessions/test_middleware sessions/test_cookies sessions/test_session sessions/test_storage "
        "sessions/test_redis sessions/test_redis_changes cli/test_check_sessions"
    ),
    "sessions.storage": (
        "sessions/test_middleware sessions/test_cookies sessions/test_session sessions/test_storage "
        "sessions/test_redis sessions/test_redis_changes"
    ),
    "sessions.session": (
        "sessions/test_middleware sessions/test_cookies sessions/test_session sessions/test_storage "
        "sessions/test_redis sessions/test_redis_changes"
    ),
    "dispatch.topic_messages": (
        "pubsub/test_topics pubsub/test_receivers pubsub/test_on_unsubscribe pubsub/test_on_subscribe "
        "dispatch/test_middleware dispatch/test_rights dispatch/test_calls dispatch/test_errors "
        "dispatch/test_concurrent_calls dispatch/test_cancelled_calls dispatch/test_topic_messages "
        "dispatch/test_requirements dispatch/test_refusals connection/test_user_connections test_limits "
        "test_limits_rate test_limits_in_flight server/test_runtime"
    ),
    "client.subscriptions": (
        "client/test_subscriptions client/test_client client/test_handshake client/test_reconnecting "
        "client/test_foreign_servers"
    ),
    "concurrency.threads": "concurrency/test_threads",
    "auth.tickets": "auth/test_tickets",
    "pubsub.registry": (
        "pubsub/test_broker pubsub/test_topics pubsub/test_receivers pubsub/test_on_unsubscribe "
        "pubsub/test_on_subscribe dispatch/test_rights handlers/test_transaction "
        "handlers/test_transaction_events handlers/test_cancelled_transactions dispatch/test_calls "
        "dispatch/test_errors dispatch/test_concurrent_calls dispatch/test_cancelled_calls "
        "dispatch/test_topic_messages system/test_faults"
    ),
    "handlers.transaction": (
        "handlers/test_transaction handlers/test_transaction_events handlers/test_cancelled_transactions"
    ),
    "sessions.watcher": (
        "sessions/test_middleware sessions/test_cookies sessions/test_session sessions/test_storage "
        "sessions/test_redis sessions/test_redis_changes"
    ),
    "connection.tasks": (
        "dispatch/test_calls dispatch/test_errors dispatch/test_concurrent_calls "
        "dispatch/test_cancelled_calls dispatch/test_topic_messages pubsub/test_topics pubsub/test_receivers "
        "pubsub/test_on_unsubscribe pubsub/test_on_subscribe server/test_runtime test_limits test_limits_rate "
        "test_limits_in_flight"
    ),
}
"""The modules that decide, and the tests that should notice, the quickest first."""

EQUIVALENT: set[tuple[str, str, str]] = {
    # handlers.arguments: the path of an error never leads beyond what was given.
    ("handlers.arguments", "index < len(args)", "(index <= len(args))"),
    # client.client: one second after the start of the loop's clock is as long past as its start.
    ("client.client", "0.0", "1.0"),
    # connection.sockets: two turns a tick instead of one, where there are few connections.
    ("connection.sockets", "batches = max(1, -(-len(waiting) // PING_BATCH))", "2"),
    # connection.sockets: a delay of one tick to the last bit.
    ("connection.sockets", "now - due > tick", "(now - due >= tick)"),
    # auth.authenticator: without a salt, deriving gives the secret itself, only later.
    ("auth.authenticator", "credentials.derived or credentials.salt is None", "(credentials.derived)"),
    # connection.outbox: nothing is written, to those who received an event before.
    ("connection.outbox", "events", "True"),
    # connection.outbox: it is flushed more often, and finds nothing to write. The deque is judged
    # when it has been added to.
    ("connection.outbox", "self._marked = True", "False"),
    ("connection.outbox_variants", "alone = not self._kept", "(self._kept)"),
    # connection.outbox: one byte more, of those that only the kernel can tell, or before there is anything to send by.
    ("connection.outbox_variants", "if excess <= 0 or not self._kept:", "1"),
    ("connection.outbox", "buffered = buffered_bytes(self._transport) if self._transport is not None else 0", "1"),
    (
        "connection.outbox_variants",
        "buffered = buffered_bytes(self._transport) if self._transport is not None else 0",
        "1",
    ),
    # protocol.v1: `known` spares the expansion of the usual names, which gives the same URIs.
    ("protocol.v1", "known or {}", "({})"),
    ("protocol.v1", "self._known.get(name) or self.resolve(name)", "(self.resolve(name))"),
    # concurrency.threads: the timer goes on as long as any function runs, and finds nothing to log.
    ("concurrency.threads", "job.given_up and not job.told", "(job.given_up or not job.told)"),
    # sessions.middleware: a session that expires within this half second, in the log.
    (
        "sessions.middleware",
        'return "never expires" if expires is None else f"expires in {max(0, round(expires - time.time())):,} s"',
        "1",
    ),
}
"""Mutants that change nothing that could be seen: module, the code as it is, the mutant.

Where the code alone would say too little, as `False` does, its whole line stands for it.
"""

COPIED = (
    "wampkit",
    "pytest_wampkit.py",
    "tests",
    "examples",
    "docs",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "pyproject.toml",
)

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        module: The module's name.
        line: Where.
        before: The code as it is.
        after: The code in its place.
        start: The first byte that is replaced.
        end: The byte behind the last one.
    """

    module: str
    line: int
    before: str
    after: str
    start: int
    end: int

    def applied(self, source: bytes) -> bytes:
        """The source of the module with the change in it."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before!r} -> {self.after!r}"


def _file(root: Path, module: str) -> Path:
    return root / "wampkit" / f"{module.replace('.', '/')}.py"


def missing() -> list[str]:
    """The modules and test files that are named here and do not exist, in order."""
    modules = TESTS.keys() | {module for module, _, _ in EQUIVALENT}
    tests = {name for names in TESTS.values() for name in names.split()}
    files = {_file(ROOT, module) for module in modules} | {ROOT / "tests" / f"{name}.py" for name in tests}
    return sorted(str(file.relative_to(ROOT)) for file in files if not file.exists())


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module that Python can read, those left out that are judged to change nothing."""
    text = _file(ROOT, module).read_text()
    begins, lines = [0], text.splitlines(keepends=True)
    for line in lines:
        begins.append(begins[-1] + len(line.encode()))
    data, found = text.encode(), []
    for node, after in _changes(ast.parse(text)):
        start = begins[node.lineno - 1] + node.col_offset
        end = begins[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = data[start:end].decode()
        mutant = Mutant(module, node.lineno, before, after, start, end)
        judged = {(module, before, after), (module, lines[node.lineno - 1].strip(), after)} & EQUIVALENT
        if before != after and not judged and _compiles(mutant.applied(data)):
            found.append(mutant)
    return list(dict.fromkeys(found))


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Nodes, and what stands in their place. Only bodies of functions are changed: the rest is declarations."""
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in outer.body:
                yield from _of_statement(statement)


def _of_statement(statement: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign | ast.Assert):
            continue
        yield from _of_node(node)


def _of_node(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield node, _unparsed(node, lambda copy: copy.ops.__setitem__(0, SWAPS[type(op)]()))
        case ast.BoolOp():
            yield node, _unparsed(node, lambda copy: setattr(copy, "op", SWAPS[type(node.op)]()))
            for left_out in range(len(node.values)):
                yield node, _unparsed(node, lambda copy, index=left_out: copy.values.pop(index))
        case ast.BinOp() if type(node.op) in SWAPS and not isinstance(node.left, ast.Constant | ast.JoinedStr):
            yield node, _unparsed(node, lambda copy: setattr(copy, "op", SWAPS[type(node.op)]()))
        case ast.UnaryOp(op=ast.Not()):
            yield node, f"({ast.unparse(node.operand)})"
        case ast.If() | ast.While() | ast.IfExp():
            yield node.test, "True"
            yield node.test, "False"
        case ast.Constant(value=bool()):
            yield node, repr(not node.value)
        case ast.Constant(value=int() | float()):
            yield node, repr(node.value + 1)
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield node, "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Continue():
            yield node, "pass"
        case ast.Break():
            yield node, "continue"


def _unparsed(node: ast.expr, change: Callable[[ast.expr], object]) -> str:
    copy = ast.parse(ast.unparse(node), mode="eval").body
    change(copy)
    return f"({ast.unparse(copy)})"


# ---- trying them


class Copies:
    """Copies of the checkout, one a job.

    Args:
        directory: Where they are.
        jobs: How many.
    """

    def __init__(self, directory: Path, jobs: int) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy = directory / f"copy-{number}"
            copy.mkdir()
            for name in COPIED:
                whole = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                whole(ROOT / name, copy / name)
            self._free.put(copy)

    def notices(self, mutant: Mutant) -> bool:
        """Whether a test fails, or does not end."""
        copy = self._free.get()
        file = _file(copy, mutant.module)
        original = file.read_bytes()
        try:
            file.write_bytes(mutant.applied(original))
            return not passes(copy, mutant.module)
        finally:
            file.write_bytes(original)
            self._free.put(copy)


def passes(root: Path, module: str) -> bool:
    """Whether the tests of a module pass in a checkout.

    Raises:
        RuntimeError: They were ended from outside, or pytest was called wrongly: neither says anything of the code.
    """
    files = [f"tests/{name}.py" for name in TESTS[module].split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=30", *files]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            code = process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return False
    # A test that hangs beyond its own timeout ends pytest with 1, as a failure does; 2 is a module that cannot be read.
    if code not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {code}: {' '.join(files)}")
    return code == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="See what the tests notice.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="all of the list by default")
    parser.add_argument("--sample", type=int, default=20, help="mutants of each module (default: 20)")
    parser.add_argument("--seed", default="0", help="which ones")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="print the modules, their mutants and their tests")
    args = parser.parse_args()
    modules = args.modules or list(TESTS)
    if unknown := set(modules) - TESTS.keys():
        parser.error(f"no such modules: {', '.join(sorted(unknown))}; --list tells them")
    if absent := missing():
        sys.exit(f"tests/mutation.py names files that do not exist: {', '.join(absent)}")
    if args.list:
        for module in modules:
            print(f"{module}: {len(mutants_of(module))} mutants, {TESTS[module]}")
        return
    sys.exit(_try(modules, args.sample, args.seed, args.jobs))


def _try(modules: list[str], sample: int, seed: str, jobs: int) -> int:
    chosen = []
    for module in modules:
        every = mutants_of(module)
        chosen += random.Random(f"{seed}-{module}").sample(every, min(sample, len(every)))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(jobs) as pool:
        copies = Copies(Path(directory), jobs)
        broken = [module for module in modules if not passes(Path(directory) / "copy-0", module)]
        if broken:
            print(f"the tests fail without any change: {', '.join(broken)}")
            return 2
        alive = 0
        for mutant, noticed in zip(chosen, pool.map(copies.notices, chosen), strict=True):
            if not noticed:
                alive += 1
                print(f"lives: {mutant}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants noticed (seed {seed})")
    return 1 if alive else 0


if __name__ == "__main__":
    main()
