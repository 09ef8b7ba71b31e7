"""Loads and changes sessions in a storage of aiohttp-session, and explains why a handshake has none.

aiohttp-session answers a cookie that it cannot read with an error of any class or with an empty session, and does not
tell the dozen possible reasons apart. Here each reason has its sentence, any cookie leads to a session or to one of
them, and a storage that does not answer is an error of its own.
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
from typing import Any, Final

import aiohttp_session
from aiohttp import web
from aiohttp_session import AbstractStorage
from cryptography.fernet import Fernet, InvalidToken

from ..auth.keys import CLOCK_SKEW, fingerprint
from ..errors import NotAllowed, quote
from ..limits import STORE_TIMEOUT

__all__ = [
    "ENDED",
    "GONE",
    "LoadedSession",
    "NoSession",
    "SessionEnded",
    "SessionUnavailable",
    "Storage",
    "quiet_undecryptable_cookies",
]

# Why a handshake has no session.
NO_COOKIE = "no cookie came"
SECOND_HEADER = "the cookie came in a second Cookie header, of which only the first is read"
TWO_COOKIES = "two session cookies came, of which one may be somebody else's"
HIDDEN_COOKIE = "the session's cookie came within another cookie, which somebody else may have set"
NOT_DECRYPTED = "the cookie came but does not decrypt (wrong or rotated-out key, or altered)"
FROM_THE_FUTURE = "the cookie was made over a minute from now: the clocks of the servers differ"
NOT_A_SESSION = "the cookie came, but what it stands for is no session"
EXPIRED = "the cookie has expired"
UNKNOWN = "the storage knows no such session"
EMPTY = "the session is empty"

_IN_NAMES = r"A-Za-z0-9!#$%&'*+.^_`|~\-"
"""The characters of cookie names (RFC 6265), for a set of a regular expression."""

_DATA_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, InvalidToken)
"""Exceptions of storages for data that they cannot read; all others mean that the storage itself fails."""

_KEY_ERROR = "ValidationException"
"""The exception of aiomcache for a cookie that can be no key in memcached."""


class SessionEnded(NotAllowed):
    """The session was logged out of or has expired since it was read; nothing was written."""


class SessionUnavailable(Exception):
    """The storage that holds the session did not answer."""


ENDED = "the session has ended: log in again"


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE: Final = _Gone()
"""Stands for the value of a key that was deleted."""


@dataclass(frozen=True, slots=True)
class LoadedSession:
    """A session that is not empty.

    Attributes:
        key: Its key in a storage on the server; None if it lives in its cookie.
        data: Its keys and values.
        created: When it was begun or last changed, in seconds since 1970.
        expires: When it ends, likewise, or None for never.
    """

    key: str | None
    data: Mapping[str, Any]
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class NoSession:
    """The reason why there is no session: a sentence without secrets."""

    why: str


class _Unreadable(Exception):
    """The content of the cookie, or of the storage under its key, is no session."""


class Storage:
    """Reads and changes the sessions of one storage of aiohttp-session."""

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

    async def read(self, request: web.Request) -> LoadedSession | NoSession:
        """Load the session of a handshake.

        Raises:
            SessionUnavailable: The storage does not answer within `STORE_TIMEOUT` seconds, or fails.
        """
        first, cookies, written = self._count_cookies(request)
        if written > 1:
            return NoSession(TWO_COOKIES)
        if written > cookies:
            return NoSession(HIDDEN_COOKIE)
        try:
            async with self._bounded(request):
                loaded = await self._storage.load_session(request)
                return self._result(loaded, request, has_cookie=cookies > 0, is_first=first > 0)
        except (_Unreadable, *_DATA_ERRORS):
            altered = self._fernet is not None and self._token_time(request) is None
            return NoSession(NOT_DECRYPTED if altered else NOT_A_SESSION)

    async def change(self, request: web.Request, key: str, changes: Mapping[str, Any]) -> LoadedSession | NoSession:
        """Load a session, apply changes (`GONE` deletes a key) and save it, unless it has ended meanwhile.

        In Redis this is one transaction. Other storages can only load and save, so that a session which ends just in
        between is saved again.

        Returns:
            The session as it is now; NoSession if it is empty.

        Raises:
            SessionEnded: There is no such session any more.
            SessionUnavailable: The storage does not answer; the changes may have been written or not.
            TypeError, ValueError: The storage cannot write a value.
        """

        def apply(loaded: aiohttp_session.Session) -> None:
            if loaded.empty or str(loaded.identity) != key:
                raise SessionEnded(ENDED)
            for name, value in changes.items():
                if value is not GONE:
                    loaded[name] = value
                elif name in loaded:
                    del loaded[name]

        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock, self._bounded(request):
            redis = _redis_of(self._storage)
            if redis is None:
                loaded = await self._storage.load_session(request)
                apply(loaded)
                await self._storage.save_session(request, web.Response(), loaded)
            else:
                loaded = await _change_in_redis(self._storage, redis, key, request, apply)
            return self._result(loaded, request, has_cookie=True, is_first=True)

    # ---- reasons

    def _count_cookies(self, request: web.Request) -> tuple[int, int, int]:
        """Count the cookies with the session's name: in the first Cookie header, in all, and as text anywhere.

        Browsers separate cookies by semicolons. aiohttp's parser also ends one at white space, and takes semicolons
        between quotes for part of one, so that a cookie of a neighbouring host can hold one of the session's name, or
        hide the real one. Therefore the name may stand before a `=` only once in all headers. The parser also strips
        every kind of Unicode white space from a name, which to a browser is part of it.
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

    def _result(
        self, loaded: aiohttp_session.Session, request: web.Request, *, has_cookie: bool, is_first: bool
    ) -> LoadedSession | NoSession:
        """What a storage has loaded, or why that is no session.

        Args:
            loaded: The storage's answer.
            request: The handshake.
            has_cookie: Whether a cookie of the session's name came.
            is_first: Whether it came in the first Cookie header, the only one that aiohttp reads.
        """
        created, most = loaded.created, self._storage.max_age
        if isinstance(created, bool) or not isinstance(created, int | float) or not math.isfinite(created):
            raise _Unreadable
        now = time.time()
        if not loaded.empty:
            key = None if loaded.identity is None else str(loaded.identity)
            # A server's clock that was ahead must not extend the session.
            expires = None if most is None else min(created, now) + most
            return LoadedSession(key, copy.deepcopy(dict(loaded)), created, expires)
        if loaded.new and not has_cookie:
            return NoSession(NO_COOKIE)
        if loaded.new:
            return NoSession(self._why_ignored(request) if is_first else SECOND_HEADER)
        return NoSession(EXPIRED if most is not None and now - created > most else EMPTY)

    def _why_ignored(self, request: web.Request) -> str:
        """Why the storage began a new session although a cookie came."""
        if not self._encrypts:
            return UNKNOWN
        made, most = self._token_time(request), self._storage.max_age
        if made is None:
            return NOT_DECRYPTED
        if most is not None and made + most < time.time():
            return EXPIRED
        return FROM_THE_FUTURE if made > time.time() + CLOCK_SKEW else NOT_A_SESSION

    def _token_time(self, request: web.Request) -> int | None:
        """The time at which an encrypted cookie was made, or None if no key fits."""
        if self._fernet is None:
            return None
        try:
            return self._fernet.extract_timestamp((self._storage.load_cookie(request) or "").encode())
        except (InvalidToken, ValueError):
            return None

    # ---- failures

    @contextlib.asynccontextmanager
    async def _bounded(self, request: web.Request) -> AsyncIterator[None]:
        """Bound the time of a request to the storage, and raise SessionUnavailable for failures that are its own."""
        quiet = _asking_storage.set(True)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                yield
        except (SessionEnded, _Unreadable, *_DATA_ERRORS):
            raise
        except Exception as error:
            if type(error).__name__ == _KEY_ERROR:
                raise _Unreadable from error
            raise SessionUnavailable(self._failure_text(request, error)) from error
        finally:
            _asking_storage.reset(quiet)

    def _failure_text(self, request: web.Request, error: Exception) -> str:
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
    session_key: str,
    request: web.Request,
    apply: Callable[[aiohttp_session.Session], None],
) -> aiohttp_session.Session:
    """Load, change and save in one transaction, repeated if the session was written or deleted meanwhile.

    A copy of the storage reads and writes over a pipeline in the place of its client.
    """
    from redis.exceptions import WatchError

    key = f"{storage.cookie_name}_{session_key}"
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


# ---- aiohttp-session's log

_asking_storage: contextvars.ContextVar[bool] = contextvars.ContextVar("wampkit_asks_storage", default=False)


class _OutsideHandshakes(logging.Filter):
    """Drops aiohttp-session's records about bad cookies of handshakes, for which `Sessions` has lines of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _asking_storage.get()


@contextlib.contextmanager
def quiet_undecryptable_cookies() -> Iterator[None]:
    """Keep aiohttp-session's warnings about handshakes out of the log; those about the site's own pages stay."""
    target, ours = logging.getLogger("aiohttp_session"), _OutsideHandshakes()
    target.addFilter(ours)
    try:
        yield
    finally:
        target.removeFilter(ours)
