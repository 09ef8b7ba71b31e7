"""Which exceptions may be answered with an error, and which must always propagate."""

from __future__ import annotations

import asyncio

__all__ = ["must_propagate"]


def must_propagate(error: BaseException) -> bool:
    """Whether an exception must propagate: the running task itself was cancelled, or the process is to end.

    A CancelledError without a request to cancel, such as that of a cancelled task which a handler awaited, is an
    error like any other; so is the SystemExit of a handler, or one client could stop the server for all.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)
