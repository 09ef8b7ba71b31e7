"""Worker threads for blocking functions: handlers written with plain `def`, and `run_on_loop` for them.

Threads are few and a function that blocks cannot be stopped, so they are shared fairly: one connection holds a bounded
share of them, waiting connections take turns, and hooks and logins have threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from ..errors import Busy
from ..telemetry.counters import Counters
from ..telemetry.logs import logger_of

__all__ = ["PoolState", "ThreadPools", "Threads", "ThreadsState", "is_async", "run_on_loop"]

logger: logging.Logger = logger_of(__name__)

P = ParamSpec("P")

T = TypeVar("T")

LOG_AFTER = 1.0
"""Seconds after which a function that waits for a thread, or whose caller has left, is logged."""

PAUSE = 5.0
"""Seconds between two such lines."""

_home: contextvars.ContextVar[asyncio.AbstractEventLoop] = contextvars.ContextVar("wampkit_loop")


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the app's loop from a `def` handler, and wait for it: `run_on_loop(topic.publish(event))`.

    Returns what the coroutine returns and raises what it raises.

    Raises:
        RuntimeError: The caller is not a `def` handler, hook or dependency of a running app.
    """
    loop = _home.get(None)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if loop is not None:
            return asyncio.run_coroutine_threadsafe(work, loop).result()
    work.close()
    raise RuntimeError("run_on_loop is for def handlers; in async def, use await")


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling a function, a partial or a callable object gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class _Job:
    """One running or waiting function."""

    __slots__ = ("call", "function", "future", "given_up", "loop", "share", "since", "told")

    def __init__(self, share: _Share, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        context = contextvars.copy_context()
        context.run(_home.set, self.loop)
        self.call = functools.partial(context.run, function, *args, **kwargs)
        self.share = share
        self.function = function
        self.since = self.loop.time()  # when it began to wait for a thread, or was given up
        self.given_up = False
        self.told = False


class _Share:
    """The functions of one connection that run in threads or wait for one.

    Args:
        owner: The connection, or None for the app itself.
        limit: Functions of it that may run at once.
    """

    __slots__ = ("limit", "owner", "running", "waiting")

    def __init__(self, owner: Hashable, limit: int) -> None:
        self.owner = owner
        self.limit = limit
        self.running: int = 0
        self.waiting: OrderedDict[_Job, None] = OrderedDict()


class PoolState(Protocol):
    """The number of functions that run and wait in a pool of worker threads."""

    @property
    def limit(self) -> int:
        """Functions that run at once; further ones wait."""

    @property
    def running(self) -> int:
        """Functions that run now."""

    @property
    def waiting(self) -> int:
        """Functions that wait for a thread now."""

    @property
    def held(self) -> int:
        """Running functions whose call has timed out or whose client has left: no thread can be stopped."""


class ThreadsState(Protocol):
    """The worker threads of an app, as `app.threads` shows them."""

    @property
    def handlers(self) -> PoolState:
        """Those of handlers and their dependencies."""

    @property
    def hooks(self) -> PoolState:
        """Those of hooks, those of topics too, of periodic functions and error handlers."""

    @property
    def logins(self) -> PoolState:
        """Those of WAMP-CRA's lookups and key derivation, and of the functions of `Sessions` and `Tickets`."""


class Threads:
    """Worker threads that run functions with the caller's context variables; started on demand.

    Args:
        limit: Functions that run at once; further ones wait.
        share: Functions of one connection that run at once; None for `limit`.
        queue: Functions that may wait; None for any number. Beyond it, each connection may still have one waiting, so
            that others cannot block it.
        counters: Count the refused functions.
        what: The kind of functions that run here, for the log.

    Attributes:
        limit: As in `PoolState`, and so are `running`, `waiting` and `held`.
    """

    def __init__(
        self,
        limit: int,
        *,
        share: int | None = None,
        queue: int | None = None,
        counters: Counters | None = None,
        what: str = "def handlers",
    ) -> None:
        self.limit = limit
        self.running: int = 0
        self.waiting: int = 0
        self.held: int = 0
        self._share = limit if share is None else min(share, limit)
        self._queue = queue
        self._counters = counters or Counters()
        self._what = what
        self._shares: dict[Hashable, _Share] = {}
        self._turns: OrderedDict[_Share, None] = OrderedDict()  # those that may start one when a thread is free
        self._active: set[_Job] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._looked = float("-inf")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the app's own, such as a start-up hook.

        If the wait is cancelled, a function that has started still runs to its end.

        Returns:
            What `function` returns; it raises what `function` raises.
        """
        result: T = await self._done(self._enter(self._share_of(None), function, args, kwargs))
        return result

    async def run_for(self, owner: Hashable, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function for a connection, within its share; otherwise as `run`.

        Raises:
            Busy: Too many functions wait for a thread.
        """
        share = self._share_of(owner)
        if share.waiting and self._queue is not None and self.waiting >= self._queue:
            self._counters.over_limit += 1
            raise Busy("the server is busy; try again later")
        result: T = await self._done(self._enter(share, function, args, kwargs))
        return result

    async def ask_for(self, owner: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Run one of the app's functions: an `async def` on the loop, a `def` in a thread, as `run_for` does."""
        answer = await function(*args) if is_async(function) else await self.run_for(owner, function, *args)
        # A plain function may wrap an async one, as many decorators make them.
        return await answer if inspect.isawaitable(answer) else answer

    async def clean_up_for(self, owner: Hashable, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the cleanup of a connection: it is never refused, and runs before its waiting functions.

        A cancelled wait continues until the function has ended: the next cleanup must not run beside it.
        """
        share = self._share_of(owner)
        job = self._enter(share, function, args, kwargs)
        if job in share.waiting:
            share.waiting.move_to_end(job, last=False)
        while not job.future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({job.future})
        result: T = await self._done(job)
        return result

    def close(self) -> None:
        """Start nothing more; running functions end by themselves."""
        self._closed = True
        if self._look_timer is not None:
            self._look_timer.cancel()
        for job in list(self._all_waiting()):
            job.future.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- start, wait, end

    def _share_of(self, owner: Hashable) -> _Share:
        share = self._shares.get(owner)
        return _Share(owner, self.limit if owner is None else self._share) if share is None else share

    def _enter(self, share: _Share, function: Callable[..., Any], args: Any, kwargs: Any) -> _Job:
        if self._closed:
            raise RuntimeError("the app has stopped; nothing is begun any more")
        job = _Job(share, function, args, kwargs)
        self._shares[share.owner] = share
        if self.running < self.limit and share.running < share.limit:
            self._begin(job)
        else:
            share.waiting[job] = None
            self.waiting += 1
            if share.running < share.limit:
                self._turns[share] = None
            self._look_soon()
        return job

    def _begin(self, job: _Job) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.limit, thread_name_prefix="wampkit")
        self.running += 1
        job.share.running += 1
        self._active.add(job)
        self._pool.submit(self._work, job)

    def _work(self, job: _Job) -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job.call()
        except StopIteration as error:
            # A future cannot carry it: the caller would wait without end.
            failure = RuntimeError("the function raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            job.loop.call_soon_threadsafe(self._ended, job, result, failure)

    def _ended(self, job: _Job, result: Any, failure: BaseException | None) -> None:
        share = job.share
        self._active.discard(job)
        self.running -= 1
        share.running -= 1
        if job.given_up:
            self.held -= 1
        elif job.future.done():
            pass
        elif failure is not None:
            job.future.set_exception(failure)
        else:
            job.future.set_result(result)
        if share.waiting:
            self._turns[share] = None
        self._forget_if_idle(share)
        while self._turns and self.running < self.limit and not self._closed:
            self._begin_next()

    def _begin_next(self) -> None:
        share = self._turns.popitem(last=False)[0]
        job = share.waiting.popitem(last=False)[0]
        self.waiting -= 1
        self._begin(job)
        if share.waiting and share.running < share.limit:
            self._turns[share] = None

    async def _done(self, job: _Job) -> Any:
        try:
            return await job.future
        except asyncio.CancelledError:
            self._give_up(job)
            raise
        finally:
            del job  # the traceback of what it raised would refer back to it

    def _give_up(self, job: _Job) -> None:
        share = job.share
        if job in self._active:
            job.given_up = True
            job.since = job.loop.time()
            self.held += 1
            self._look_soon()
        elif job in share.waiting:
            del share.waiting[job]
            self.waiting -= 1
            if not share.waiting:
                self._turns.pop(share, None)
            self._forget_if_idle(share)

    def _forget_if_idle(self, share: _Share) -> None:
        if not share.running and not share.waiting:
            self._shares.pop(share.owner, None)

    # ---- the log

    def _all_waiting(self) -> Iterable[_Job]:
        return (job for share in self._shares.values() for job in share.waiting)

    def _look_soon(self) -> None:
        if self._look_timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._look_timer = loop.call_at(max(loop.time() + LOG_AFTER, self._looked + PAUSE), self._look)

    def _look(self) -> None:
        self._look_timer = None
        self._looked = asyncio.get_running_loop().time()
        patience = LOG_AFTER - 0.01  # timers may run early by the clock's resolution
        # The first of each connection has waited longest.
        waits = [self._looked - next(iter(share.waiting)).since for share in self._shares.values() if share.waiting]
        if waits and max(waits) >= patience:
            logger.warning(
                "%s: %d wait for a thread, the longest for %.0f s; %d of %d threads are taken, by %s",
                *(self._what, self.waiting, max(waits), self.running, self.limit, _names(self._active)),
            )
        late = self._looked - patience
        lost = [job for job in self._active if job.given_up and not job.told and job.since <= late]
        if lost:
            logger.warning(
                "%s: %s still running though its call timed out or its client left; %d of %d threads are held so",
                *(self._what, _names(lost), self.held, self.limit),
            )
        for job in lost:
            job.told = True
        if self.waiting or any(job.given_up and not job.told for job in self._active):
            self._look_soon()


def _names(jobs: Iterable[_Job]) -> str:
    names = Counter(_name(job.function) for job in jobs)
    shown = [name if count == 1 else f"{name} ({count} times)" for name, count in names.most_common(3)]
    return ", ".join(shown) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _name(function: Any) -> str:
    # A dependency with a cleanup is entered and left by methods of its context manager.
    function = getattr(getattr(function, "__self__", None), "gen", function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else str(name)


class ThreadPools:
    """The threads of an app: handlers, hooks and logins have a pool each, so that none keeps another waiting.

    Args:
        limit: Functions of each of the three pools that run at once.
        counters: Count the refused functions.
        share: Functions of one connection that run at once in each; None for a quarter of `limit`.
        queue: Handlers that may wait for a thread.

    Attributes:
        handlers: As in `ThreadsState`, and so are `hooks` and `logins`.
    """

    def __init__(self, limit: int, counters: Counters, *, share: int | None = None, queue: int | None = None) -> None:
        share = max(1, limit // 4) if share is None else share
        self.handlers: Threads = Threads(limit, share=share, queue=queue, counters=counters)
        self.hooks: Threads = Threads(limit, share=share, what="def hooks")
        self.logins: Threads = Threads(limit, share=share, what="def lookups of logins")

    def close(self) -> None:
        """Start nothing more; running functions end by themselves."""
        for threads in (self.handlers, self.hooks, self.logins):
            threads.close()
