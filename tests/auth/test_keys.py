"""`KeyRing`: the forms of a key, which key does what, and what the clock has to say."""

import base64
import os
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import Session as WebSession
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from wampkit import DeclarationError, KeyRing

from ..support.tables import rows

OLD, NEW, OTHER = (Fernet.generate_key() for _ in range(3))


# ---- the forms of a key

RAW = os.urandom(32)
GOOD_FORMS = {
    "text": base64.urlsafe_b64encode(RAW).decode(),
    "generated": base64.urlsafe_b64encode(RAW),
    "raw": RAW,
    "fernet": Fernet(base64.urlsafe_b64encode(RAW)),
    "ring": KeyRing(RAW),
}


@pytest.mark.parametrize("form", GOOD_FORMS)
def test_each_good_form_is_the_same_key(form: str) -> None:
    """Text, the bytes of `generate_key`, 32 raw bytes, a Fernet and another ring all stand for the key itself."""
    token = Fernet(base64.urlsafe_b64encode(RAW)).encrypt(b"hello")
    ring = KeyRing(GOOD_FORMS[form])
    assert ring.decrypt(token) == b"hello"
    assert Fernet(base64.urlsafe_b64encode(RAW)).decrypt(ring.encrypt(b"you")) == b"you"


STANDARD = "ab+/" + "A" * 39 + "="
BAD_FORMS: dict[str, tuple[Any, str]] = {
    "32 characters": ("0123456789abcdef0123456789abcdef", "32 characters that are no key"),
    "hex": (RAW.hex(), "64 characters that are no key"),
    "short bytes": (RAW[:31], "31 bytes that are no key"),
    "long bytes": (RAW + b"x", "33 bytes that are no key"),
    "empty": ("", "0 characters that are no key"),
    "no padding": (NEW.decode()[:-1], "43 characters that are no key"),
    "line end": (NEW.decode() + "\n", "white space"),
    "line end in bytes": (NEW + b"\n", "white space"),
    "other alphabet": (STANDARD, "other alphabet"),
    "unset": (None, "environment variable"),
    "list": ([NEW, OLD], r"KeyRing\(\*keys\)"),
    "multi": (MultiFernet([Fernet(NEW)]), "MultiFernet"),
    "bytearray": (bytearray(RAW), "bytearray"),
    "number": (32, "int"),
}


@rows("form", BAD_FORMS)
def test_any_other_form_is_refused_in_words(form: str) -> None:
    """What is no key is refused with what is wrong, the good forms, and not a word of what was given."""
    key, problem = BAD_FORMS[form]
    with pytest.raises(DeclarationError, match=problem) as refused:
        KeyRing(key)
    assert "44 characters of urlsafe base64" in str(refused.value)
    assert "32 random bytes" in str(refused.value)
    if isinstance(key, str | bytes) and key:
        assert str(key).strip() not in str(refused.value)
        assert repr(key) not in str(refused.value)


def test_the_bad_key_is_named_by_its_number() -> None:
    """Among several keys, the one that is none is counted."""
    with pytest.raises(DeclarationError, match="key 2 is None"):
        KeyRing(NEW, None, OLD)


def test_a_ring_shows_no_key() -> None:
    """The repr tells how many keys there are and nothing of them."""
    assert repr(KeyRing(NEW, OLD)) == "<KeyRing of 2>"


# ---- which key does what


def test_the_newest_encrypts_and_all_decrypt() -> None:
    """A token is made with the first key; those of every key that is listed are read, and no others."""
    ring = KeyRing(NEW, OLD)
    assert Fernet(NEW).decrypt(ring.encrypt(b"x")) == b"x"
    assert Fernet(NEW).decrypt(ring.encrypt_at_time(b"x", 1)) == b"x"
    assert ring.decrypt(Fernet(OLD).encrypt(b"old")) == b"old"
    with pytest.raises(InvalidToken):
        ring.decrypt(Fernet(OTHER).encrypt(b"other"))
    with pytest.raises(InvalidToken):
        ring.extract_timestamp(Fernet(OTHER).encrypt(b"other"))


def test_rotations_one_after_the_other() -> None:
    """A token is read while its key is listed at all, through two rotations, and refused once it is not."""
    token = KeyRing(OLD).encrypt(b"x")
    assert KeyRing(NEW, OLD).decrypt(token) == b"x"
    assert KeyRing(OTHER, NEW, OLD).decrypt(token) == b"x"
    for without in (KeyRing(NEW), KeyRing(OTHER, NEW)):
        with pytest.raises(InvalidToken):
            without.decrypt(token)


def test_a_rolling_rotation_logs_nobody_out() -> None:
    """While two workers are restarted one after the other, the new key last at first, each reads what either writes."""
    before, known, after, alone = KeyRing(OLD), KeyRing(OLD, NEW), KeyRing(NEW, OLD), KeyRing(NEW)
    steps = [(before, before), (known, before), (known, known), (after, known), (after, after), (alone, after)]
    for workers in steps:
        for writer in workers:
            assert [reader.decrypt(writer.encrypt(b"x"), 60) for reader in workers] == [b"x", b"x"]


def test_rotate_keeps_the_age() -> None:
    """A token under a new key is as old as it was, so that it cannot be made to live for ever."""
    made = int(time.time()) - 3000
    token = KeyRing(NEW, OLD).rotate(Fernet(OLD).encrypt_at_time(b"x", made))
    assert KeyRing(NEW).extract_timestamp(token) == made
    with pytest.raises(InvalidToken):
        KeyRing(NEW).decrypt(token, ttl=2999)
    assert KeyRing(NEW).decrypt(token, ttl=3100) == b"x"


async def _loaded(storage: EncryptedCookieStorage, cookie: bytes) -> WebSession:
    request = make_mocked_request("GET", "/", headers={"Cookie": f"AIOHTTP_SESSION={cookie.decode()}"})
    return await storage.load_session(request)


async def test_aiohttp_session_takes_it() -> None:
    """An encrypted cookie storage reads cookies of the old key, writes with the new one, and keeps to its max_age."""
    with pytest.raises(TypeError):
        EncryptedCookieStorage(MultiFernet([Fernet(NEW), Fernet(OLD)]), max_age=60)  # type: ignore[arg-type]  # the point
    storage = EncryptedCookieStorage(KeyRing(NEW, OLD), max_age=60)
    content = b'{"created": %d, "session": {"user": "ann"}}' % time.time()
    session = await _loaded(storage, Fernet(OLD).encrypt(content))
    assert session["user"] == "ann"
    response = web.Response()
    session["seen"] = 1
    await storage.save_session(make_mocked_request("GET", "/"), response, session)
    Fernet(NEW).decrypt(response.cookies["AIOHTTP_SESSION"].value)
    assert (await _loaded(storage, Fernet(OLD).encrypt_at_time(content, int(time.time()) - 90))).empty


# ---- the clock

NOW = 1_800_000_000


@rows(("skew", "good"), [(0, True), (30, True), (59, True), (60, True), (61, False), (300, False)])
@rows("key", [NEW, OLD])
def test_tokens_from_the_future(skew: int, good: bool, key: bytes) -> None:
    """With a ttl, a token may be from 60 s ahead of this server's clock and no more, whatever its key."""
    token = Fernet(key).encrypt_at_time(b"x", NOW + skew)
    if good:
        assert KeyRing(NEW, OLD).decrypt_at_time(token, 3600, NOW) == b"x"
    else:
        with pytest.raises(InvalidToken):
            KeyRing(NEW, OLD).decrypt_at_time(token, 3600, NOW)


@pytest.mark.parametrize("age", [30, 59, 60, 61, 300])
def test_the_ttl_counts_from_the_making(age: int) -> None:
    """A token is good for ttl seconds after it was made, the last of them included."""
    token = Fernet(OLD).encrypt_at_time(b"x", NOW - age)
    ring = KeyRing(NEW, OLD)
    assert ring.decrypt_at_time(token, age, NOW) == b"x"
    with pytest.raises(InvalidToken):
        ring.decrypt_at_time(token, age - 1, NOW)


@rows("token", [b"", b"x", "é", b"\xff\xfe", "gAAAA", b"gAAAAA==" * 200])
def test_what_is_no_token_is_invalid(token: bytes | str) -> None:
    """Whatever is no token is an InvalidToken, or the ValueError that Fernet has for text beyond ASCII."""
    with pytest.raises((InvalidToken, ValueError)):
        KeyRing(NEW, OLD).decrypt(token, 60)
