"""`wampkit check` with sessions and tickets: why somebody would be nobody."""

import json
import time
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from ..support.command import wampkit, write

NEW, OLD, FOREIGN = (Fernet.generate_key() for _ in range(3))

SITE = f"""
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from wampkit import App, BlockAddresses, KeyRing, Sessions, Tickets

storage = EncryptedCookieStorage(KeyRing({NEW!r}, {OLD!r}), max_age=3600, cookie_name="site")
app = App(middlewares=[BlockAddresses("203.0.113.0/24"), Tickets({NEW!r}), Sessions(storage, roles="roles")])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with an app whose door knows sessions and tickets."""
    write(tmp_path, shop=SITE)
    return tmp_path


def cookie(key: bytes, *, age: int = 0, **session: object) -> str:
    """A session cookie as aiohttp-session writes it."""
    created = int(time.time()) - age
    text = json.dumps({"created": created, "session": session})
    return f"site={Fernet(key).encrypt_at_time(text.encode(), created).decode()}"


def test_the_door_is_explained_in_order(site: Path) -> None:
    """Each gate stands in the order in which it is asked, the default one among them, and says what it does."""
    done = wampkit("check", "shop:app", cwd=site)
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ")[0] for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert lines == ["1. BlockAddresses", "2. AllowOrigins", "3. Tickets", "4. Sessions"]
    assert "takes one-time tickets (?ticket=...) and lets in clients without one" in done.stdout
    assert "(EncryptedCookieStorage, cookie site that lasts 3,600 s)" in done.stdout


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "no cookie came"),
        ([f"--cookie={cookie(FOREIGN, user='ann')}"], "the cookie came but does not decrypt"),
        ([f"--cookie={cookie(NEW, user='ann', age=4000)}"], "the cookie has expired"),
        ([f"--cookie={cookie(NEW, user='ann')}", f"--cookie={cookie(NEW)}"], "two session cookies came"),
        ([f"--cookie={cookie(NEW, name='ann')}"], "the session has no 'user'"),
    ],
    ids=["none", "foreign key", "expired", "two", "no user"],
)
def test_why_somebody_would_be_nobody(site: Path, given: list[str], why: str) -> None:
    """Whoever asks why the user is always anonymous reads it, and no part of a cookie."""
    done = wampkit("check", "shop:app", "--host=example.com", *given, cwd=site)
    assert done.returncode == 0, done.stderr
    assert why in done.stdout
    assert "let in" in done.stdout.splitlines()[-1]
    assert "'ann'" not in done.stdout.splitlines()[-1]
    assert "gAAAA" not in done.stdout + done.stderr


@pytest.mark.parametrize("key", [NEW, OLD], ids=["newest key", "older key"])
def test_who_somebody_would_be(site: Path, key: bytes) -> None:
    """A good cookie is let in as its user, under each key of the ring."""
    done = wampkit("check", "shop:app", f"--cookie={cookie(key, user='ann')}", cwd=site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "let in as user 'ann'"


def test_a_refusal_ends_the_trial(site: Path) -> None:
    """What an address or an origin refuses costs no look at cookie or ticket, and the command ends with 1."""
    blocked = wampkit("check", "shop:app", "--address=203.0.113.9", f"--cookie={cookie(NEW, user='ann')}", cwd=site)
    foreign = wampkit("check", "shop:app", "--origin=https://evil.example", "--url=/ws?ticket=x", cwd=site)
    forged = wampkit("check", "shop:app", "--url=/ws?ticket=x", cwd=site)
    assert [each.returncode for each in (blocked, foreign, forged)] == [1, 1, 1]
    assert "the session" not in blocked.stdout.partition("from ")[2]
    assert "ticket" not in foreign.stdout.partition("from ")[2]
    assert forged.stdout.splitlines()[-1].startswith("refused with HTTP 403: this ticket is not valid")
    assert "3. Tickets" in forged.stdout.partition("from ")[2]
