"""One-time tickets, which log in clients that can send neither cookies nor headers with their handshake."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from cryptography.fernet import InvalidToken

from ..connection.connection import Connection
from ..connection.server_connection import ServerConnection
from ..connection.sockets import is_handshake
from ..dispatch.middleware import Refused, unavailable
from ..errors import DeclarationError, quote
from ..limits import STORE_TIMEOUT
from ..telemetry.http_logs import redact_query_parameter
from ..telemetry.logs import LogThrottle, logger_of
from .keys import CLOCK_SKEW, KeyRing, fingerprint

__all__ = ["Tickets", "fingerprint_of", "is_shared", "tickets_of"]

logger: logging.Logger = logger_of(__name__)

MAX_TTL = 86_400.0
"""Seconds for which a ticket may be good; a spent one is remembered as long."""

MAX_LENGTH = 4096
"""Characters of a ticket."""

KIND = "wampkit ticket 1"
"""Marks a token as a ticket: other tokens, such as a session's cookie, may be made with the same keys."""

REFUSAL = "this ticket is not valid: ask for a new one"

Spent: TypeAlias = Callable[[str, float], bool | Awaitable[bool]]


class Tickets:
    """Logs in clients by a ticket in the query, `ws://...?ticket=...`; a middleware for `App(middlewares=[...])`.

    The web side issues one with `app.tickets.issue(user)` to a user who is logged in, and the page or the device
    connects with it at once. A ticket is encrypted and signed, good for one handshake, and never logged by wampkit or
    in the access logs of aiohttp and gunicorn; a proxy in front has a log of its own, and so has an access logger with
    another name. It is spent even if a later middleware refuses the client, so put this behind those that check
    addresses and origins.

    Args:
        *keys: The keys, newest first, in the forms that `KeyRing` takes.
        parameter: The query parameter.
        required: Whether a client without a ticket is refused.
        spent: Remembers spent tickets for several processes, each of which would otherwise accept a ticket once:
            `spent(id, expires)` stores the ticket `id` until `expires`, in seconds since 1970, and returns whether it
            was stored before: an `async def`, or a `def`, which runs in a worker thread. Without it a spent ticket is
            good once more after a restart, until it expires; keep `ttl` short. With Redis:
            `return not await redis.set(id, 1, nx=True, exat=int(expires) + 1)`.

    Raises:
        DeclarationError: One of them cannot work.
    """

    def __init__(
        self,
        *keys: Any,
        parameter: str = "ticket",
        required: bool = False,
        spent: Spent | None = None,
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
        self._memory = _SpentTickets()
        self._throttle = LogThrottle(logger)

    # ---- the web side

    def issue(
        self, user: Any, *, ttl: float = 30.0, roles: Iterable[str] = (), attributes: Mapping[str, Any] | None = None
    ) -> str:
        """A ticket for one handshake, as text that needs no escaping in a URL.

        Args:
            user: The later `connection.user`: a text, a number or the like.
            ttl: Seconds for which it is good, at most a day.
            roles: The later `connection.roles`.
            attributes: Added to `connection.attributes`; must be JSON.

        Raises:
            TypeError: JSON cannot carry the user, a role or an attribute unchanged.
            ValueError: `ttl` is out of bounds.
        """
        if not 0 < ttl <= MAX_TTL:
            raise ValueError(f"ttl is a number of seconds above 0 and up to {MAX_TTL:,.0f}, not {ttl!r}")
        if user is None or isinstance(user, list | dict) or not _survives_json(user):
            raise TypeError(f"the user of a ticket is a text or a number, not a {type(user).__name__}")
        names = [roles] if isinstance(roles, str) else list(roles)
        if not all(isinstance(name, str) for name in names):
            raise TypeError("the roles of a ticket are a list of names")
        kept = dict(attributes or {})
        if not _survives_json(kept):
            raise TypeError("JSON cannot carry the attributes of this ticket unchanged")
        content = {
            "kind": KIND,
            "id": secrets.token_urlsafe(16),
            "expires": time.time() + ttl,
            "user": user,
            "roles": names,
            "attributes": kept,
        }
        ticket = self._ring.encrypt(json.dumps(content).encode()).decode().rstrip("=")
        if len(ticket) > MAX_LENGTH:
            raise ValueError("this ticket is too long for a URL: give it fewer attributes")
        return ticket

    # ---- the middleware

    async def connect(self, connection: Connection) -> str:
        """Set the client's user, roles and attributes from its ticket. Raises Refused."""
        given = connection.request.query.getall(self._parameter, [])
        if not given:
            if self._required:
                raise Refused("a ticket is needed", why="no ticket came")
            return "no ticket came"
        if len(given) > 1:
            raise Refused(REFUSAL, why=f"{len(given)} tickets came")
        content = self._read(given[0])
        # A page that was requested with a ticket connects with it next.
        if is_handshake(connection.request):
            await self._spend(connection, content["id"], content["expires"])
        connection.user, connection.roles = content["user"], frozenset(content["roles"])
        connection.attributes.update(content["attributes"])
        return f"ticket of user {quote(connection.user)}"

    def describe(self) -> str:
        """A description for `wampkit check`."""
        others = "refuses clients without one" if self._required else "lets in clients without one"
        return f"takes one-time tickets (?{self._parameter}=...) and {others}"

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Keep tickets out of the access log."""
        redact_query_parameter(self._parameter)
        yield
        self._throttle.close()

    def _read(self, ticket: str) -> dict[str, Any]:
        """The content of a valid ticket. Raises Refused."""
        if len(ticket) > MAX_LENGTH:
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
        """Mark a ticket as used. Raises Refused if it was used before, HTTPServiceUnavailable if that is not known."""
        if self._spent is None:
            again = self._memory.add(id, expires)
            if expires <= self._memory.forgotten:
                raise Refused(REFUSAL, why="the clock was set back, so that whether it was used before is not known")
        else:
            again = await self._ask_store(self._spent, connection, id, expires)
        if again:
            raise Refused(REFUSAL, why="the ticket has been used before")

    async def _ask_store(self, spent: Spent, connection: Connection, id: str, expires: float) -> bool:
        assert isinstance(connection, ServerConnection)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                return bool(await connection.threads.logins.ask_for(connection, spent, id, expires))
        except Exception as error:
            text = "tickets: whether one was used before cannot be told, so none is taken"
            self._throttle.add("spent", text, level=logging.ERROR, error=error)
            raise unavailable("tickets cannot be looked up now") from None


class _SpentTickets:
    """The tickets that this process accepted, each until it expires.

    Attributes:
        forgotten: When the last of the forgotten ones expired, in seconds since 1970. If the clock was set back since,
            a ticket that expires before then may be one of them.
    """

    def __init__(self) -> None:
        self.forgotten = 0.0
        self._ids: set[str] = set()
        self._by_expiry: list[tuple[float, str]] = []

    def add(self, id: str, expires: float) -> bool:
        """Remember a ticket, and return whether it was remembered already."""
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


def _survives_json(value: Any) -> bool:
    """Whether a value is the same after it was written as JSON and read."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return bool(json.loads(text) == value)


def tickets_of(middlewares: Iterable[Any]) -> Tickets:
    """The first `Tickets` among an app's middlewares. Raises RuntimeError if there is none."""
    for each in middlewares:
        if isinstance(each, Tickets):
            return each
    raise RuntimeError("this app takes no tickets; put Tickets(key) into App(middlewares=[...])")


def is_shared(tickets: Tickets) -> bool:
    """Whether several processes remember spent tickets together."""
    return tickets._spent is not None


def fingerprint_of(tickets: Tickets) -> str:
    """A text that differs where the keys of tickets do."""
    return fingerprint(tickets._ring)
