"""One-time tickets: who a client is, for those that can send neither cookies nor headers with their handshake."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web
from cryptography.fernet import InvalidToken

from ..connection.connection import Connection
from ..connection.reader import is_handshake
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from ..telemetry.http_logs import redact_query_parameter
from ..telemetry.logs import LogThrottle, logger_of
from .keys import KeyRing, fingerprint

__all__ = ["Tickets", "tickets_of"]

logger = logger_of(__name__)

LONGEST = 86_400.0
"""Seconds for which a ticket may be good: as long is its number remembered."""

CLOCK_SKEW = 60.0
"""Seconds by which the clock of the server that issues may be ahead of that of the one that takes."""

MOST_CHARACTERS = 4096

PATIENCE = 5.0
"""Seconds in which the shared store must have answered."""

KIND = "wampkit ticket 1"
"""What a token must say of itself: one of another kind, such as a session's cookie, may be made with the same keys."""

REFUSAL = "this ticket is not valid: ask for a new one"


class Tickets:
    """Lets in whoever brings a ticket in the query, `ws://...?ticket=...`; a middleware for `App(middlewares=[...])`.

    The web side makes one with `app.tickets.issue(user)` for whom it has logged in, and the page or the device connects
    with it at once. A ticket is encrypted and signed, good for one handshake, and never logged by wampkit or in the
    access logs of aiohttp and gunicorn; a proxy in front has one of its own, and so has an access logger that is
    given another name. It is spent even if a later middleware refuses the client, so put this behind those that look
    at addresses and origins.

    Args:
        *keys: The keys, newest first, in the forms that `KeyRing` takes.
        parameter: The query parameter.
        required: Whether a client without a ticket is refused.
        spent: Remembers spent tickets where several processes serve, each of which would else take a ticket once:
            `spent(id, expires)` notes the ticket `id` until `expires`, in seconds since 1970, and returns whether it
            had been noted before: an `async def`, or a `def`, which runs in a worker thread. Without it a ticket that
            was used is good once more after a restart, until it expires; keep `ttl` short. With Redis:
            `return not await redis.set(id, 1, nx=True, exat=int(expires) + 1)`.

    Raises:
        DeclarationError: One of them cannot work.
    """

    def __init__(
        self,
        *keys: Any,
        parameter: str = "ticket",
        required: bool = False,
        spent: Callable[[str, float], bool | Awaitable[bool]] | None = None,
    ) -> None:
        if not keys:
            raise DeclarationError("Tickets needs a key: Tickets(key), with a key from Fernet.generate_key()")
        if not isinstance(parameter, str) or not parameter:
            raise DeclarationError(f"Tickets: parameter is the name of a query parameter, not {parameter!r}")
        if spent is not None and not callable(spent):
            raise DeclarationError(f"Tickets: spent is a function (id, expires), not {spent!r}")
        self._ring = KeyRing(*keys)
        self._parameter = parameter
        self._required = required
        self._spent = spent
        self._remembered = _Remembered()
        self._throttle = LogThrottle(logger)

    @property
    def shared(self) -> bool:
        """Whether several processes may serve, as they remember spent tickets together."""
        return self._spent is not None

    @property
    def fingerprint(self) -> str:
        """A text that differs where the keys do."""
        return fingerprint(self._ring)

    # ---- the web side

    def issue(
        self, user: Any, *, ttl: float = 30.0, roles: Iterable[str] = (), attributes: Mapping[str, Any] | None = None
    ) -> str:
        """A ticket for one handshake, as text that can stand in a URL as it is.

        Args:
            user: What `connection.user` will be: a text, a number or the like.
            ttl: Seconds for which it is good, at most a day.
            roles: What `connection.roles` will be.
            attributes: What is added to `connection.attributes`; JSON must be able to carry it.

        Raises:
            TypeError: JSON cannot carry the user, a role or an attribute as it is.
            ValueError: `ttl` is out of bounds.
        """
        if not 0 < ttl <= LONGEST:
            raise ValueError(f"ttl is a number of seconds above 0 and up to {LONGEST:,.0f}, not {ttl!r}")
        if user is None or isinstance(user, list | dict) or not _survives(user):
            raise TypeError(f"the user of a ticket is a text or a number, not a {type(user).__name__}")
        names = [roles] if isinstance(roles, str) else list(roles)
        if not all(isinstance(name, str) for name in names):
            raise TypeError("the roles of a ticket are a list of names")
        kept = dict(attributes or {})
        if not _survives(kept):
            raise TypeError("JSON cannot carry the attributes of this ticket as they are")
        content = {
            "kind": KIND,
            "id": secrets.token_urlsafe(16),
            "expires": time.time() + ttl,
            "user": user,
            "roles": names,
            "attributes": kept,
        }
        ticket = self._ring.encrypt(json.dumps(content).encode()).decode().rstrip("=")
        if len(ticket) > MOST_CHARACTERS:
            raise ValueError("this ticket is too long for a URL: give it fewer attributes")
        return ticket

    # ---- the middleware

    async def connect(self, connection: Connection) -> str:
        """Establish who the client is by its ticket, and return that in a sentence."""
        given = connection.request.query.getall(self._parameter, [])
        if not given:
            if self._required:
                raise Refused("a ticket is needed", why="no ticket came")
            return "no ticket came"
        if len(given) > 1:
            raise Refused(REFUSAL, why=f"{len(given)} tickets came")
        content = self._opened(given[0])
        # A page that is looked at with a ticket connects with it next.
        if is_handshake(connection.request):
            await self._spend(connection, content["id"], content["expires"])
        connection.user, connection.roles = content["user"], frozenset(content["roles"])
        connection.attributes.update(content["attributes"])
        return f"ticket of user {quote(connection.user)}"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        others = "refuses who has none" if self._required else "lets in who has none"
        return f"takes one-time tickets (?{self._parameter}=...) and {others}"

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Before the first client, keep tickets out of the access log."""
        redact_query_parameter(self._parameter)
        yield
        self._throttle.close()

    def _opened(self, ticket: str) -> dict[str, Any]:
        """What a ticket says, if it is one of ours and still good."""
        if len(ticket) > MOST_CHARACTERS:
            raise Refused(REFUSAL, why=f"it is no ticket: it has {len(ticket)} characters")
        try:
            token = ticket.encode("ascii") + b"=" * (-len(ticket) % 4)
            content, made = json.loads(self._ring.decrypt(token)), self._ring.extract_timestamp(token)
        except InvalidToken:
            raise Refused(REFUSAL, why="the ticket is forged, damaged or of a key that is not known here") from None
        except ValueError:
            raise Refused(REFUSAL, why="it is no ticket at all") from None
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise Refused(REFUSAL, why="it was made with the right key, but is no ticket")
        now = time.time()
        if now >= content["expires"]:
            raise Refused(REFUSAL, why=f"the ticket expired {now - content['expires']:,.1f} s ago")
        if made > now + CLOCK_SKEW:
            raise Refused(REFUSAL, why="the ticket is from the future: the clocks of the servers differ")
        result: dict[str, Any] = content
        return result

    async def _spend(self, connection: Connection, id: str, expires: float) -> None:
        if self._spent is None:
            again = self._remembered.add(id, expires)
            if expires <= self._remembered.forgotten:
                raise Refused(REFUSAL, why="the clock was set back, so that whether it was used before is not known")
        else:
            again = await self._spend_together(connection, id, expires)
        if again:
            raise Refused(REFUSAL, why="the ticket has been used before")

    async def _spend_together(self, connection: Connection, id: str, expires: float) -> bool:
        assert self._spent is not None
        try:
            async with asyncio.timeout(PATIENCE):
                return bool(await connection.threads.logins.ask_for(connection, self._spent, id, expires))
        except Exception as error:
            text = "tickets: whether one was used before cannot be told, so none is taken"
            self._throttle.add("spent", text, level=logging.ERROR, error=error)
            headers = {"Retry-After": "1"}
            raise web.HTTPServiceUnavailable(text="tickets cannot be looked up now", headers=headers) from None


class _Remembered:
    """The tickets that were used here, each until it would have expired.

    Attributes:
        forgotten: When the last of those that are forgotten expired. Where the clock has been set back since, tickets
            that expire before it may be of these.
    """

    def __init__(self) -> None:
        self.forgotten = 0.0
        self._ids: set[str] = set()
        self._by_expiry: list[tuple[float, str]] = []

    def add(self, id: str, expires: float) -> bool:
        """Remember a ticket; whether it was remembered already."""
        now = time.time()
        while self._by_expiry and self._by_expiry[0][0] < now:
            expired, old = heapq.heappop(self._by_expiry)
            self.forgotten = max(self.forgotten, expired)
            self._ids.discard(old)
        if id in self._ids:
            return True
        self._ids.add(id)
        heapq.heappush(self._by_expiry, (expires, id))
        return False


def _survives(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return bool(json.loads(text) == value)


def tickets_of(middlewares: Iterable[Any]) -> Tickets:
    """What issues the tickets that an app takes. Raises RuntimeError if it takes none."""
    for each in middlewares:
        if isinstance(each, Tickets):
            return each
    raise RuntimeError("this app takes no tickets; put Tickets(key) into App(middlewares=[...])")
