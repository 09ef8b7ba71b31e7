"""The processes that serve one app, and warnings about what they cannot share.

Processes on other machines, or started separately behind a load balancer, are not known.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from urllib.parse import urlsplit

from ..auth.tickets import Tickets, is_shared
from ..errors import DeclarationError
from ..pubsub.broker import Broker, MemoryBroker
from ..telemetry.logs import logger_of
from .settings import Settings

__all__ = ["Processes", "check_processes", "obstacles", "under_gunicorn"]

logger: logging.Logger = logger_of(__name__)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that serve an app.

    Attributes:
        count: How many there are.
        first: Whether this process is the first of them.
        server: The command that started them.
        replaces_first: Whether a replacement of the first process is the first again.
    """

    count: int = 1
    first: bool = True
    server: str = ""
    replaces_first: bool = True


def under_gunicorn() -> Processes:
    """The worker processes of gunicorn, if this process is one of them; else one process.

    A worker is forked inside a method of its arbiter, so that the arbiter is found on the stack, in the state in which
    it started this worker.
    """
    arbiter_class = getattr(sys.modules.get("gunicorn.arbiter"), "Arbiter", None)
    if arbiter_class is None:
        return Processes()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "spawn_worker" and isinstance(arbiter := frame.f_locals.get("self"), arbiter_class):
            count, age = getattr(arbiter, "num_workers", 1), getattr(arbiter, "worker_age", 1)
            return Processes(count, age == 1, f"gunicorn -w {count}", replaces_first=False)
        frame = frame.f_back
    return Processes()


def obstacles(settings: Settings, *, topics: bool) -> Iterator[str]:
    """Yield a line for each part of an app that several processes cannot serve, with the cure."""
    if topics and _stays_in_process(settings.broker):
        yield (
            "this app has topics, and with the broker memory:// an event never leaves its process, so that subscribers "
            "on other workers miss it; give App(broker=...) one that the workers share"
        )
    if any(isinstance(gate, Tickets) and not is_shared(gate) for gate in settings.middlewares):
        yield (
            "each worker remembers spent tickets by itself, so that a ticket can be used once on each of them; "
            "give Tickets(..., spent=...) a store that they share"
        )


def _stays_in_process(broker: Broker | str) -> bool:
    return urlsplit(broker).scheme == "memory" if isinstance(broker, str) else isinstance(broker, MemoryBroker)


def check_processes(
    processes: Processes, settings: Settings, *, topics: bool, each: Iterable[str], one: Iterable[str]
) -> None:
    """Log in the first of several processes what they cannot share, one line for each problem.

    Args:
        processes: The processes.
        settings: The app's options.
        topics: Whether the app has topics.
        each: The names of the periodic functions without `one_worker`.
        one: The names of those with `one_worker=True`.

    Raises:
        DeclarationError: Functions shall run in one process, and it is not known which.
    """
    if processes.count == 1:
        return
    if (names := ", ".join(one)) and not processes.replaces_first:
        raise DeclarationError(
            f"every: {names} shall run in one worker, and {processes.server} does not tell which: start it with -w 1, "
            "or with `wampkit run --workers`"
        )
    if not processes.first:
        return
    for obstacle in obstacles(settings, topics=topics):
        logger.error("%s: %s, or start it with -w 1", processes.server, obstacle)
    if settings.cra is not None and settings.cra.hide_unknown_keys and settings.cra.decoy_key is None:
        logger.warning(
            "%s: each worker draws a key for the salts of unknown users, which shows who is unknown; give all of them "
            "the same Cra(decoy_key=...)",
            processes.server,
        )
    if names := ", ".join(each):
        logger.warning(
            "%s: every worker runs what @app.every declares (%s); say every(..., one_worker=True) for what shall run "
            "once, or one_worker=False if that is right",
            processes.server,
            names,
        )
