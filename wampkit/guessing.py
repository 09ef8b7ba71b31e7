"""How often somebody may guess a secret before nobody listens any more."""

from __future__ import annotations

import hashlib

from .addresses import owner_of
from .flood import Allowances

__all__ = ["Guessing"]

WIDER = 10
"""So many times as often as from one address may be guessed at one authkey: whoever knows an authkey could otherwise
lock its owner out with the guesses of a few seconds."""

MOST = 10_000
"""Addresses, and authkeys, that are remembered."""


class Guessing:
    """Counts failed logins by client address and by authkey.

    Args:
        per_minute: How many may fail from one address, in the long run and at once; None for any number.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._addresses: Allowances | None = None
        self._authkeys: Allowances | None = None
        if per_minute is not None:
            burst = max(1, int(per_minute))
            self._addresses = Allowances(per_minute / 60, burst, MOST)
            self._authkeys = Allowances(WIDER * per_minute / 60, WIDER * burst, MOST)

    def is_over(self, remote: str | None, authkey: str) -> bool:
        """Whether no further attempt may be made now.

        Args:
            remote: The client's address, or None where it has none.
            authkey: Whose secret is guessed.
        """
        if self._addresses is None or self._authkeys is None:
            return False
        if remote is not None and self._addresses.spent(owner_of(remote)):
            return True
        return self._authkeys.spent(_digest(authkey))

    def take(self, remote: str | None, authkey: str) -> bool:
        """Whether one more attempt may be made now; it counts as failed until `give_back`."""
        if self._addresses is None or self._authkeys is None:
            return True
        if remote is not None and not self._addresses.take(owner_of(remote)):
            return False
        return self._authkeys.take(_digest(authkey))

    def give_back(self, remote: str | None, authkey: str) -> None:
        """The attempt did not fail."""
        if self._addresses is None or self._authkeys is None:
            return
        if remote is not None:
            self._addresses.give_back(owner_of(remote))
        self._authkeys.give_back(_digest(authkey))

    def __len__(self) -> int:
        """How many addresses and authkeys are remembered."""
        return 0 if self._addresses is None or self._authkeys is None else len(self._addresses) + len(self._authkeys)


def _digest(authkey: str) -> bytes:
    """What stands for an authkey: a client chooses its length, and thousands of them are remembered."""
    return hashlib.blake2b(authkey.encode("utf-8", "surrogatepass"), digest_size=16).digest()
