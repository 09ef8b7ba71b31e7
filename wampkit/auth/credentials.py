"""An app's options for WAMP-CRA: `Cra`, and the `Credentials` that its lookup returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from ..errors import DeclarationError
from ..limits import is_positive
from ..protocol.cra import ITERATIONS, KEYLEN, MAX_ITERATIONS, MAX_KEYLEN, Permissions

__all__ = ["Anonymous", "Cra", "Credentials", "Lookup"]

MIN_ITERATIONS = 1_000
"""With fewer, a password can be guessed from one intercepted signature."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One authkey's secret, user and permissions: what the lookup of `Cra` returns.

    Args:
        secret: The shared secret; for a salted one the key that `derive_key` returned, or with `derived=False` the
            password itself.
        salt: The salt that is sent to the client, ASCII, or None for an unsalted secret.
        iterations: Rounds of hashing, sent to the client with the salt.
        keylen: Bytes of the derived key, sent to the client with the salt.
        derived: Whether `secret` is the derived key already. If not, it is derived in a thread for each login, which
            costs the server as much as the client.
        user: `Connection.user` after the login. Must be hashable; None for the authkey.
        roles: `Connection.roles` after the login, for `requires`.
        permissions: The procedures and topics that the client may use. None leaves that to the app's own rules; the
            client is then told of empty lists.

    Raises:
        TypeError: A value is not of its type.
        ValueError: The salt is not ASCII, or a number is out of its bounds: 1,000 to 1,000,000 iterations, 1 to 1,024
            bytes.
    """

    secret: str = field(repr=False)
    _: KW_ONLY
    salt: str | None = field(default=None, repr=False)
    iterations: int = ITERATIONS
    keylen: int = KEYLEN
    derived: bool = True
    user: Any = None
    roles: Iterable[str] = ()
    permissions: Permissions | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.secret, str) or not isinstance(self.salt, str | None):
            raise TypeError("Credentials: secret and salt are text")
        if isinstance(self.roles, str):
            raise TypeError(f"Credentials: roles is a list of names, not the text {self.roles!r}")
        if not isinstance(self.permissions, Permissions | None):
            raise TypeError(f"Credentials: permissions is a wampkit.Permissions or None, not {self.permissions!r}")
        hash(self.user)
        object.__setattr__(self, "roles", frozenset(self.roles))
        if self.salt is not None and not (self.salt and self.salt.isascii()):
            raise ValueError("Credentials: old clients know a salt only if it is ASCII and not empty")
        _check_salting(self.iterations, self.keylen)


def _check_salting(iterations: int, keylen: int) -> None:
    if type(iterations) is not int or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations is a whole number from {MIN_ITERATIONS} to {MAX_ITERATIONS}, not {iterations!r}")
    if type(keylen) is not int or not 1 <= keylen <= MAX_KEYLEN:
        raise ValueError(f"keylen is a whole number from 1 to {MAX_KEYLEN}, not {keylen!r}")


Lookup = Callable[[str, dict[str, Any]], Credentials | Awaitable[Credentials | None] | None]
"""Returns the credentials of an authkey, or None for an unknown one; the second argument is the client's `extra`.
`async def` runs on the loop, `def` in a worker thread."""

Anonymous = bool | Permissions | Callable[[dict[str, Any]], Permissions | Awaitable[Permissions]]


@dataclass(frozen=True, slots=True)
class Cra:
    """Logins over the socket: `App(cra=Cra(lookup))`.

    Routes then require a permission of the login, unless they are open with `requires=anyone`.

    Args:
        lookup: Returns the `Credentials` of an authkey, or None for an unknown one; `lookup(authkey, extra)`.
        anonymous: Whether clients may log in without an authkey: False for no, True for the open routes only, their
            `Permissions`, or a function of their `extra` that returns them (`async` too).
        timeout: Seconds after WELCOME in which a client must log in before it is closed with 1008, unless a
            middleware has set its user; None for no limit.
        attempts: Failed logins on one connection after which it is closed with 1008.
        failures_per_minute: Failed logins from one client address, IPv6 in networks of 64 bits, and ten times as many
            of one authkey; further ones are refused unchecked until time has passed. None for no limit. Clients on a
            unix socket have no address: for them only the authkey counts.
        challenge_ttl: Seconds for which a challenge can be answered.
        hide_unknown_keys: Whether an unknown authkey looks like a known one until the login fails, as with a wrong
            signature. The permissions are then sent after the login only. False answers as autobahn-python did:
            `no-such-authkey`, and the permissions in the challenge.
        salted: How hidden unknown keys look: `(iterations, keylen)` for salted ones, or None for unsalted ones. All
            real keys should look the same, with salts of `new_salt()`; the log warns of one that does not.
        derives: Whether a hidden unknown key costs a derivation as well, for lookups that return `derived=False`.
        decoy_key: The secret from which the salts of unknown keys are made, at least 16 bytes. Give it to all
            processes and keep it, since a salt that changes gives an unknown key away; None for a random one at each
            start.

    Raises:
        DeclarationError: An option cannot work.
    """

    lookup: Lookup
    _: KW_ONLY
    anonymous: Anonymous = False
    timeout: float | None = 10.0
    attempts: int = 5
    failures_per_minute: float | None = 10.0
    challenge_ttl: float = 30.0
    hide_unknown_keys: bool = True
    salted: tuple[int, int] | None = None
    derives: bool = False
    decoy_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.lookup):
            raise DeclarationError(f"Cra: lookup is a function (authkey, extra) -> Credentials, not {self.lookup!r}")
        if not isinstance(self.anonymous, bool | Permissions) and not callable(self.anonymous):
            raise DeclarationError(
                f"Cra: anonymous is a bool, Permissions or a function (extra) -> Permissions, not {self.anonymous!r}"
            )
        for name in ("timeout", "failures_per_minute", "challenge_ttl", "attempts"):
            value = getattr(self, name)
            if value is None and name in ("timeout", "failures_per_minute"):
                continue
            if not is_positive(value):
                raise DeclarationError(f"Cra: {name} is a number above 0, not {value!r}")
        if self.decoy_key is not None and (not isinstance(self.decoy_key, bytes) or len(self.decoy_key) < 16):
            raise DeclarationError("Cra: decoy_key is at least 16 secret bytes, such as secrets.token_bytes(32)")
        self._check_salted()

    def _check_salted(self) -> None:
        if self.salted is not None:
            try:
                iterations, keylen = self.salted
                _check_salting(iterations, keylen)
            except (TypeError, ValueError) as error:
                raise DeclarationError(f"Cra: salted is (iterations, keylen) or None: {error}") from None
        elif self.derives:
            raise DeclarationError("Cra: derives means nothing without salted=(iterations, keylen)")
