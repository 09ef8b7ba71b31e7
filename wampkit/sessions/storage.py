"""What a storage of aiohttp-session says to a handshake: a session, or in words why there is none.

aiohttp-session answers a cookie that it cannot read with an error of any class or with an empty session, and does not
say which of a dozen reasons it had. Here each has its sentence, whatever the cookie holds leads to one of them, and a
storage that does not answer is told apart from all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import logging
import math
import re
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp_session
from aiohttp import web
from aiohttp_session import AbstractStorage
from cryptography.fernet import Fernet, InvalidToken

from ..auth.keys import CLOCK_SKEW, fingerprint
from ..errors import quote
from ..limits import STORE_TIMEOUT
from .session import GONE, SessionEnded, SessionUnavailable

__all__ = ["Found", "Missing", "Storage", "quiet_undecryptable_cookies"]

NO_COOKIE = "no cookie came"

SECOND_HEADER = "the cookie came in a second Cookie header, of which only the first is read"

TWO_COOKIES = "two session cookies came, of which one may be somebody else's"

HIDDEN_COOKIE = "the session's cookie came within another cookie, which somebody else may have set"

NOT_DECRYPTED = "the cookie came but does not decrypt (wrong or rotated-out key, or altered)"

FROM_THE_FUTURE = "the cookie was made over a minute from now: the clocks of the servers differ"

NO_SESSION = "the cookie came, but what it stands for is no session"

EXPIRED = "the cookie has expired"

UNKNOWN = "the storage knows no such session"

EMPTY = "the session is empty"

_IN_NAMES = r"A-Za-z0-9!#$%&'*+.^_`|~\-"
"""What names of cookies are made of (RFC 6265), for a set of a regular expression."""

_BAD_DATA = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, InvalidToken)
"""What storages raise for data that they cannot read; whatever else they raise is their own trouble."""

_BAD_KEY = "ValidationException"
"""What aiomcache raises for a cookie that cannot be the key of anything in memcached."""


@dataclass(frozen=True, slots=True)
class Found:
    """A session that has something in it.

    Attributes:
        identity: Its key in a storage on the server; None where it lives in its cookie.
        data: What it holds.
        created: When it was begun or last changed, in seconds since 1970.
        expires: When it ends, likewise, or None for never.
    """

    identity: str | None
    data: Mapping[str, Any]
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no session, and why: a sentence without secrets."""

    why: str


class _Unreadable(Exception):
    """What the cookie holds, or what the storage has under it, is no session."""


class Storage:
    """Reads and changes the sessions of one storage.

    Args:
        storage: A storage of aiohttp-session.
    """

    def __init__(self, storage: AbstractStorage) -> None:
        self._storage = storage
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._named = re.compile(rf"(?<![{_IN_NAMES}]){re.escape(storage.cookie_name)}\s*=")
        fernet = getattr(storage, "_fernet", None)
        self._fernet = fernet if isinstance(fernet, Fernet) else None
        self._encrypts = self._fernet is not None or hasattr(storage, "_secretbox")  # that of NaClCookieStorage

    @property
    def fingerprint(self) -> str:
        """A text that differs where the keys of the cookies do; empty where that cannot be told."""
        return "" if self._fernet is None else fingerprint(self._fernet)

    def describe(self) -> str:
        """The storage in words."""
        most = self._storage.max_age
        lasts = "that never expires" if most is None else f"that lasts {most:,} s"
        return f"{type(self._storage).__name__}, cookie {self._storage.cookie_name} {lasts}"

    async def read(self, request: web.Request) -> Found | Missing:
        """The session of a handshake.

        Raises:
            SessionUnavailable: The storage does not answer within `STORE_TIMEOUT` seconds, or fails.
        """
        inside, cookies, written = self._count_cookies(request)
        if written > 1:
            return Missing(TWO_COOKIES)
        if written > cookies:
            return Missing(HIDDEN_COOKIE)
        try:
            async with self._asking(request):
                return self._judged(await self._storage.load_session(request), request, inside, cookies)
        except (_Unreadable, *_BAD_DATA):
            altered = self._fernet is not None and self._token_time(request) is None
            return Missing(NOT_DECRYPTED if altered else NO_SESSION)

    async def change(self, request: web.Request, identity: str, changes: Mapping[str, Any]) -> Found | Missing:
        """Apply changes to what the storage holds now under a key, and nothing to what has ended meanwhile.

        In Redis nobody can write in between. Of other storages aiohttp-session knows no more than to load and to save:
        there a session that ends in just that moment is brought back.

        Args:
            request: The handshake.
            identity: The key that the session had then.
            changes: New values; `GONE` for what shall be deleted.

        Returns:
            The session as it is now; missing if nothing is left in it.

        Raises:
            SessionEnded: There is no such session any more.
            SessionUnavailable: The storage does not answer; the changes may have been written or not.
            TypeError, ValueError: The storage cannot write a value.
        """

        def apply(loaded: aiohttp_session.Session) -> None:
            if loaded.empty or str(loaded.identity) != identity:
                raise SessionEnded("the session has ended: log in again")
            for key, value in changes.items():
                if value is not GONE:
                    loaded[key] = value
                elif key in loaded:
                    del loaded[key]

        lock = self._locks.setdefault(identity, asyncio.Lock())
        async with lock, self._asking(request):
            redis = _redis_of(self._storage)
            if redis is None:
                loaded = await self._storage.load_session(request)
                apply(loaded)
                await self._storage.save_session(request, web.Response(), loaded)
            else:
                loaded = await _change_in_redis(self._storage, redis, identity, request, apply)
            return self._judged(loaded, request, 1, 1)

    # ---- judging what came

    def _count_cookies(self, request: web.Request) -> tuple[int, int, int]:
        """How many cookies have the session's name: in the header that aiohttp reads, in all, and by their text.

        Browsers separate cookies by semicolons. aiohttp's parser also ends one at white space, and takes semicolons
        between quotes for part of one, so that a cookie of a neighbouring host can hold one of the session's name, or
        hide the real one. Therefore the name may stand before a `=` once only, wherever that is. It also drops all that
        Unicode calls white space around a name, where to a browser that makes another one.
        """
        name = self._storage.cookie_name
        headers = request.headers.getall("Cookie", [])
        counts = [
            sum(
                key.strip(" \t") == name
                for key, equals, _ in (part.partition("=") for part in header.split(";"))
                if equals
            )
            for header in headers
        ]
        written = sum(len(self._named.findall(header)) for header in headers)
        return (counts[0] if counts else 0, sum(counts), written)

    def _judged(
        self, loaded: aiohttp_session.Session, request: web.Request, inside: int, cookies: int
    ) -> Found | Missing:
        created, most = loaded.created, self._storage.max_age
        if isinstance(created, bool) or not isinstance(created, int | float) or not math.isfinite(created):
            raise _Unreadable
        now = time.time()
        if not loaded.empty:
            identity = None if loaded.identity is None else str(loaded.identity)
            # A clock that was ahead lets nobody in for longer.
            expires = None if most is None else min(created, now) + most
            return Found(identity, copy.deepcopy(dict(loaded)), created, expires)
        if loaded.new and not cookies:
            return Missing(NO_COOKIE)
        if loaded.new:
            return Missing(self._undecrypted(request) if inside else SECOND_HEADER)
        return Missing(EXPIRED if most is not None and now - created > most else EMPTY)

    def _undecrypted(self, request: web.Request) -> str:
        """Why a storage took a cookie for none."""
        if not self._encrypts:
            return UNKNOWN
        made, most = self._token_time(request), self._storage.max_age
        if made is None:
            return NOT_DECRYPTED
        if most is not None and made + most < time.time():
            return EXPIRED
        return FROM_THE_FUTURE if made > time.time() + CLOCK_SKEW else NO_SESSION

    def _token_time(self, request: web.Request) -> int | None:
        """When an encrypted cookie was made, or None if no key fits."""
        if self._fernet is None:
            return None
        try:
            return self._fernet.extract_timestamp((self._storage.load_cookie(request) or "").encode())
        except (InvalidToken, ValueError):
            return None

    # ---- asking

    @contextlib.asynccontextmanager
    async def _asking(self, request: web.Request) -> AsyncIterator[None]:
        """Around what may wait for the storage: bounded in time, its failures told apart from those of the data."""
        quiet = _asked.set(True)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                yield
        except (SessionEnded, _Unreadable, *_BAD_DATA):
            raise
        except Exception as error:
            if type(error).__name__ == _BAD_KEY:
                raise _Unreadable from error
            raise SessionUnavailable(self._trouble(request, error)) from error
        finally:
            _asked.reset(quiet)

    def _trouble(self, request: web.Request, error: Exception) -> str:
        if isinstance(error, TimeoutError) and not str(error):
            return f"no answer within {STORE_TIMEOUT:g} s"
        text = str(error)
        cookie = self._storage.load_cookie(request)
        if cookie:  # an error may name the key that was asked for
            text = text.replace(cookie, "(cookie)")
        return f"{type(error).__name__}: {quote(text)}"


# ---- Redis


def _redis_of(storage: AbstractStorage) -> Any:
    """The Redis client of aiohttp-session's own storage, or None for another."""
    module = sys.modules.get("aiohttp_session.redis_storage")
    return storage._redis if module is not None and type(storage) is module.RedisStorage else None  # type: ignore[attr-defined]  # it has


async def _change_in_redis(
    storage: AbstractStorage,
    redis: Any,
    identity: str,
    request: web.Request,
    apply: Callable[[aiohttp_session.Session], None],
) -> aiohttp_session.Session:
    """Load, change and save as one: begun anew when somebody else wrote or deleted the session meanwhile.

    The storage itself reads and writes, over a pipeline in the place of its client.
    """
    from redis.exceptions import WatchError

    key = f"{storage.cookie_name}_{identity}"
    async with redis.pipeline(transaction=True) as pipe:
        bound: Any = copy.copy(storage)
        bound._redis = pipe
        while True:
            await pipe.watch(key)
            loaded: aiohttp_session.Session = await bound.load_session(request)
            apply(loaded)
            pipe.multi()
            await bound.save_session(request, web.Response(), loaded)
            try:
                await pipe.execute()
            except WatchError:
                continue
            return loaded


# ---- what aiohttp-session logs

_asked: contextvars.ContextVar[bool] = contextvars.ContextVar("wampkit_asks_storage", default=False)


class _NotOurs(logging.Filter):
    """Holds back what aiohttp-session writes about each bad cookie of a handshake: the gate has its own line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _asked.get()


@contextlib.contextmanager
def quiet_undecryptable_cookies() -> Iterator[None]:
    """Keep aiohttp-session's warnings about handshakes out of the log; those about the site's own pages stay."""
    target, ours = logging.getLogger("aiohttp_session"), _NotOurs()
    target.addFilter(ours)
    try:
        yield
    finally:
        target.removeFilter(ours)
