"""Which road the frames of new sockets take into their connections: the direct one where it can be taken."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import aiohttp

from ..telemetry.logs import logger_of
from .reader import Socket

__all__ = ["INLET", "direct_road", "open_socket"]

logger = logger_of(__name__)

WRITTEN_FOR = ((3, 14, 5), (3, 15))
"""The aiohttp versions, from the first to before the second, whose private names the direct road knows."""

INLET = "WAMPKIT_INLET"
"""The environment variable that takes the public road in any case, where its value is "public"."""


def direct_road() -> type[Socket] | None:
    """The sockets of the direct road, or None for the public one; a log line says so where it was not asked for."""
    return None if os.environ.get(INLET) == "public" else _direct_socket(aiohttp.__version__)


@cache
def _direct_socket(version: str) -> type[Socket] | None:
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    first, before = (".".join(map(str, each)) for each in WRITTEN_FOR)
    if WRITTEN_FOR[0] <= numbers < WRITTEN_FOR[1]:
        try:
            from .direct_reader import DirectSocket

            return DirectSocket
        except (ImportError, AttributeError, TypeError) as error:
            reason = str(error)
    else:
        reason = f"wampkit knows aiohttp {first} and later, before {before}, from the inside"
    logger.warning("with aiohttp %s frames take a slower way in, for about a third fewer calls: %s", version, reason)
    return None


def open_socket(direct: type[Socket] | None, *, compress: bool, **options: Any) -> Socket:
    """A server's WebSocket with what WAMP needs of it. One that may compress takes the public road in any case."""
    options |= {"compress": compress, "autoclose": False, "autoping": False, "decode_text": False}
    kind = Socket if direct is None or compress else direct
    return kind(**options)
