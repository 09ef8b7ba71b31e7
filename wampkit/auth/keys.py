"""Fernet keys that can be rotated without ending sessions: `KeyRing` encrypts with the newest, decrypts with all."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ..errors import DeclarationError

__all__ = ["CLOCK_SKEW", "KeyRing", "fingerprint"]

CLOCK_SKEW = 60.0
"""Seconds that a token may be from the future, as clocks of servers differ; Fernet's own bound."""

_FORMS = (
    "a key is the 44 characters of urlsafe base64 that Fernet.generate_key() makes, as text or as bytes, "
    "or 32 random bytes, or a Fernet"
)

_BASE64 = re.compile(r"[A-Za-z0-9_-]{43}=")

_RAW_SIZE = 32


class KeyRing(Fernet):
    """Several Fernet keys in the place of one: `EncryptedCookieStorage(KeyRing(new, old), max_age=3600)`.

    To replace a key, put the new one in front and restart; when `max_age` has passed, no valid token of the old key is
    left and it can be removed. Where several workers or machines restart one after the other, add the new key to all of
    them as an older one first, or the first to restart writes tokens that the others cannot read.

    It is a subclass of `Fernet` that does what `MultiFernet` does, as aiohttp-session accepts only the former.

    Args:
        newest: The key that encrypts.
        *older: Keys that decrypt as well, newest first.

    Raises:
        DeclarationError: One of them is no key; the message names the accepted forms and never repeats a key.
    """

    def __init__(self, newest: Any, *older: Any) -> None:
        # The base class is not initialised: every public method of it is overridden.
        self._keys: list[Fernet] = []
        for number, key in enumerate((newest, *older), start=1):
            self._keys += key._keys if isinstance(key, KeyRing) else [_fernet(key, number)]
        self._ring = MultiFernet(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._keys)}>"

    def encrypt(self, data: bytes) -> bytes:
        """A token made with the newest key, now."""
        return self._ring.encrypt(data)

    def encrypt_at_time(self, data: bytes, current_time: int) -> bytes:
        """A token made with the newest key, dated to this time, in seconds since 1970."""
        return self._keys[0].encrypt_at_time(data, current_time)

    def decrypt(self, token: bytes | str, ttl: int | None = None) -> bytes:
        """The content of a token made with any of the keys.

        Args:
            token: The token.
            ttl: Seconds for which a token is good. With it, tokens from more than 60 s in the future are refused too.

        Raises:
            cryptography.fernet.InvalidToken: No key fits, it was altered, or it is too old.
        """
        return self._ring.decrypt(token, ttl)

    def decrypt_at_time(self, token: bytes | str, ttl: int, current_time: int) -> bytes:
        """As `decrypt`, with this time for now, in seconds since 1970."""
        return self._ring.decrypt_at_time(token, ttl, current_time)

    def extract_timestamp(self, token: bytes | str) -> int:
        """The time at which a token of any of the keys was made, in seconds since 1970.

        Raises:
            cryptography.fernet.InvalidToken: No key fits, or it was altered.
        """
        for key in self._keys:
            try:
                return key.extract_timestamp(token)
            except InvalidToken:
                continue
        raise InvalidToken

    def rotate(self, token: bytes | str) -> bytes:
        """A token with the same content and age, made with the newest key."""
        return self._ring.rotate(token)


def fingerprint(key: Fernet) -> str:
    """A text that differs where keys do and reveals nothing of them, to compare processes."""
    keys = key._keys if isinstance(key, KeyRing) else [key]
    secret = b"".join(each._signing_key + each._encryption_key for each in keys)
    return hashlib.sha256(b"wampkit fingerprint" + secret).hexdigest()[:16]


def _fernet(key: Any, number: int) -> Fernet:
    if isinstance(key, Fernet):
        return key
    problem = _problem(key)
    if problem is not None:
        raise DeclarationError(f"KeyRing: key {number} {problem}; {_FORMS}")
    if len(key) == _RAW_SIZE:
        key = base64.urlsafe_b64encode(key)
    return Fernet(key)


def _problem(key: Any) -> str | None:
    """The problem of a key as the end of an error, or None; the text never repeats the key."""
    if key is None:
        return "is None: is the environment variable or the setting that holds it not set?"
    if isinstance(key, MultiFernet):
        return "is a MultiFernet, whose keys cannot be had: pass them one by one, the newest first"
    if isinstance(key, list | tuple | set | frozenset):
        return f"is a {type(key).__name__}: pass the keys one by one, the newest first: KeyRing(*keys)"
    if not isinstance(key, str | bytes):
        return f"is a {type(key).__name__}"
    if isinstance(key, bytes) and len(key) == _RAW_SIZE:
        return None
    text = key if isinstance(key, str) else key.decode("latin-1")
    if _BASE64.fullmatch(text):
        return None
    if _BASE64.fullmatch(text.strip()):
        return "has white space around it: strip it, as a file's last line has an end"
    kind = "characters" if isinstance(key, str) else "bytes"
    if len(text) == 44 and _BASE64.fullmatch(text.replace("+", "-").replace("/", "_")):
        return "is of base64's other alphabet: write - for + and _ for /"
    return f"has {len(text)} {kind} that are no key"
