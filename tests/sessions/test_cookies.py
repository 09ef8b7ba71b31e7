"""Session cookies that are malformed, expired, doubled or of another key: no session, and the log says why."""

import itertools
import logging
import re
import time
from typing import Any

import pytest
from aiohttp_session import SimpleCookieStorage

from wampkit import Connection, NotAllowed, Sessions

from ..support.session_cookies import (
    KEY,
    OLD,
    OLDER,
    Noted,
    cookie_storage,
    plain_headers,
    session_app,
    session_cookie,
    session_token,
    status_of,
    who_is,
)
from ..support.tables import rows
from ..support.website import website
from ..support.wire import serve

# ---- why there is no session


DEEP = b'{"created": 1, "session": ' + b"[" * 2000 + b"]" * 2000 + b"}"


def _note_cases() -> dict[str, tuple[str | None, str]]:
    now = int(time.time())
    return {
        "none": (None, "no cookie came"),
        "other key": (session_cookie(OLD, user="ann"), "does not decrypt (wrong or rotated-out key, or altered)"),
        "altered": (session_cookie(user="ann")[:-9] + "AAAAAAAA=", "does not decrypt"),
        "no token": ("hello", "does not decrypt"),
        "expired": (session_cookie(age=3700, user="ann"), "the cookie has expired"),
        "old content": (session_token({"created": now - 3700, "session": {"user": "ann"}}), "the cookie has expired"),
        "from the future": (session_cookie(age=-300, user="ann"), "over a minute from now"),
        "no content": (session_token(b"hello"), "what it stands for is no session"),
        "empty": (session_token({"created": now, "session": {}}), "the session is empty"),
        "no user": (session_cookie(cart=[1]), "the session has no 'user'"),
        "user": (session_cookie(user="a\nnn", age=60), r"session of user 'a\nnn', expires in 3,540 s"),
    }


@rows("name", _note_cases())
async def test_the_gate_says_what_it_found(name: str) -> None:
    """`connect` returns what session there is, or the one reason why there is none."""
    cookie, note = _note_cases()[name]
    noted = Noted(cookie_storage())
    async with serve(session_app(noted)) as server:
        assert (await who_is(server, cookie))[0] == ("a\nnn" if name == "user" else None)
    (said,) = noted.notes
    # Some seconds may pass while the test runs.
    assert note in re.sub("3,5[1-3][0-9] s", "3,540 s", said)
    assert cookie is None or cookie[:12] not in said


async def test_clients_that_are_nobody_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each reason is written at info once and then counted; cookies and users' data never are."""
    caplog.set_level(logging.INFO)
    bad = session_cookie(OLD, user="ann")
    async with serve(session_app()) as server:
        for _ in range(40):
            await status_of(server)
            await status_of(server, b"Cookie: AIOHTTP_SESSION=" + bad.encode())
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len(lines) == 4, lines
    assert all(line.endswith("(38 more like this)") for line in lines[2:]), lines
    assert "127.0.0.1' has no user: no cookie came" in caplog.text
    assert "has no user: the cookie came but does not decrypt" in caplog.text
    assert bad[:20] not in caplog.text


async def test_the_web_sides_log_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp-session's warning about a bad cookie is held back for handshakes and nowhere else."""
    async with website(cookie_storage()) as visitor:
        visitor.http.cookie_jar.update_cookies({"AIOHTTP_SESSION": "gAAAAbad"})
        async with visitor.connect() as client:
            assert await client.call("who") == [None, []]
        assert "Cannot decrypt" not in caplog.text
        await visitor.get("/get")
        assert caplog.text.count("Cannot decrypt") == 1


# ---- whatever the cookie holds


KEYED: dict[str, bytes] = {
    "not json": b"hello",
    "not utf-8": b"\xff\xfe",
    "nothing": b"",
    "json null": b"null",
    "json number": b"7",
    "json string": b'"ann"',
    "json list": b'[["user", "ann"]]',
    "session is a list": b'{"created": 1900000000, "session": ["user"]}',
    "session is a string": b'{"created": 1900000000, "session": "user"}',
    "session is a number": b'{"created": 1900000000, "session": 5}',
    "session is null": b'{"created": 1900000000, "session": null}',
    "no session": b'{"created": 1900000000}',
    "created is a string": b'{"created": "now", "session": {"user": "ann"}}',
    "created is a list": b'{"created": [1], "session": {"user": "ann"}}',
    "created is an object": b'{"created": {"a": 1}, "session": {"user": "ann"}}',
    "created is NaN": b'{"created": NaN, "session": {"user": "ann"}}',
    "created is infinite": b'{"created": Infinity, "session": {"user": "ann"}}',
    "created is huge": b'{"created": 1' + b"0" * 400 + b', "session": {"user": "ann"}}',
    "created is negative": b'{"created": -5, "session": {"user": "ann"}}',
    "deep": DEEP,
    "deep list": b"[" * 2500,
    "many digits": b'{"created": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"created": "\\ud800", "session": {"user": "ann"}}',
}


UNKEYED: dict[str, bytes] = {
    "empty": b"",
    "word": b"hello",
    "bytes": b"\xff\xfe",
    "latin-1": b"\xe9\xe8",
    "utf-8": "é".encode(),
    "quoted": b'"x\\377\\376"',
    "unclosed quote": b'"x',
    "equals": b"====",
    "long": b"A" * 7000,
    "token's beginning": b"gAAAAA",
    "version alone": b"gA==",
    "percent": b"%00%ff",
    "comma": b"a,b",
    "tab": b"a\tb",
    "json": b'{"session":{"user":"ann"}}',
}


@rows("name", [*KEYED, *UNKEYED])
async def test_no_cookie_breaks_the_door(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a cookie holds, with the right key or without, its client is nobody: let in as such, or refused."""
    value = session_token(KEYED[name]).encode() if name in KEYED else UNKEYED[name]
    line = b"Cookie: AIOHTTP_SESSION=" + value
    async with serve(session_app()) as server:
        assert await status_of(server, line) == 101
    async with serve(session_app(required=True)) as server:
        assert await status_of(server, line) == 403
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_no_plain_cookie_breaks_the_door(caplog: pytest.LogCaptureFixture) -> None:
    """The same holds for a storage that does not even encrypt."""
    async with serve(session_app(Sessions(SimpleCookieStorage(max_age=60), required=True, plain=True))) as server:
        for value in [*UNKEYED.values(), *KEYED.values()]:
            if len(value) < 4000:
                line = b"Cookie: AIOHTTP_SESSION=" + value.replace(b'"', b'\\"')
                assert await status_of(server, line) == 403, value
        peer = await server.peer(headers=plain_headers({"created": int(time.time()), "session": {"user": "ann"}}))
        assert (await peer.result("who"))[0] == "ann"
    assert "Traceback" not in caplog.text


@rows("order", [1, -1])
@rows("form", ["one header", "two headers", "no space", "same twice"])
async def test_two_session_cookies_are_none(order: int, form: str) -> None:
    """Of two cookies of the session's name none counts, in whatever order and headers they come."""
    mine, evil = [f"AIOHTTP_SESSION={session_cookie(user=user)}" for user in ("ann", "eve")][::order]
    lines = {
        "one header": [f"Cookie: {mine}; {evil}"],
        "two headers": [f"Cookie: {mine}", f"Cookie: {evil}"],
        "no space": [f"Cookie: a=b;{mine};{evil};c=d"],
        "same twice": [f"Cookie: {mine}; {mine}"],
    }[form]
    noted = Noted(cookie_storage())
    async with serve(session_app(noted)) as server:
        assert await status_of(server, *[line.encode() for line in lines]) == 101
        assert [each.user for each in server.app.connections] == [None]
    assert noted.notes == ["two session cookies came, of which one may be somebody else's"]


NEIGHBOURS = (
    *("x=y AIOHTTP_SESSION={eve}", "x=y\tAIOHTTP_SESSION={eve}", "x AIOHTTP_SESSION={eve}"),
    *('x="y" AIOHTTP_SESSION={eve}', "x= AIOHTTP_SESSION={eve}", "x=y  AIOHTTP_SESSION = {eve}"),
    *("x=y AIOHTTP_SESSION={eve} z=1", "=AIOHTTP_SESSION={eve}", "AIOHTTP_SESSION={eve}", "AIOHTTP_SESSION ={eve}"),
    *("AIOHTTP_SESSION", "AIOHTTP_SESSION=", " AIOHTTP_SESSION={eve}", 'x="', 'y="', 'x="y', "x='", "x", "$Version=1"),
    *("$Path=/ AIOHTTP_SESSION={eve}", "Path=/", "expires=Mon, 01 Jan", "x={{}}", "x=\\", 'x="\\"', ";;"),
    *("x=Wed, 01-Jan-2031 00:00:00 GMT AIOHTTP_SESSION={eve}", "x=1,AIOHTTP_SESSION={eve}"),
    *("x=1, AIOHTTP_SESSION={eve}", "x=\x85AIOHTTP_SESSION={eve}", "XAIOHTTP_SESSION={eve}"),
)
"""Cookies that somebody else may have set, `Cookie` headers of clients that are no browsers included."""


@rows("joint", ["; ", ";", "\r\nCookie: "])
async def test_a_neighbours_cookie_is_never_the_session(joint: str) -> None:
    """However one or two such cookies stand around the session's, nobody is somebody else.

    What aiohttp makes of the header is the judge: whoever it would let in by another cookie is nobody.
    """
    ann, eve = session_cookie(user="ann"), session_cookie(user="eve")
    own, foreign = f"AIOHTTP_SESSION={ann}", [each.format(eve=eve) for each in NEIGHBOURS]
    headers = [[one, own] for one in foreign] + [[own, one] for one in foreign]
    headers += [[one, own, other] for one, other in itertools.permutations(foreign[:20], 2)]
    seen: list[tuple[str | None, Any]] = []

    class Judge:
        async def connect(self, connection: Connection) -> None:
            seen.append((connection.request.cookies.get("AIOHTTP_SESSION"), connection.user))
            raise NotAllowed("seen")

    wrong = []
    async with serve(session_app(Sessions(cookie_storage()), Judge())) as server:
        for pairs in headers:
            assert await status_of(server, f"Cookie: {joint.join(pairs)}".encode("latin-1")) in (400, 403)
            if seen and (seen[-1][1] == "eve" or (seen[-1][0] == eve and seen[-1][1] is not None)):
                wrong.append(pairs)
    assert wrong == []
    read = [cookie for cookie, _ in seen]
    assert read.count(eve) > 20, "the table tries what aiohttp falls for"
    assert [user for _, user in seen].count("ann") > 10, "harmless cookies harm nobody"


async def test_a_cookie_within_another_is_none() -> None:
    """A visitor without a session does not get the one that stands in a cookie of another name."""
    noted = Noted(cookie_storage())
    async with serve(session_app(noted)) as server:
        for hidden in ("x=y ", "x ", 'x="y" ', "x=y,", "x=", "x=y\t"):
            cookie = f"{hidden}AIOHTTP_SESSION={session_cookie(user='eve')}"
            assert await status_of(server, f"Cookie: {cookie}".encode()) == 101
            assert [each.user for each in server.app.connections] == [None] * len(server.app.connections)
    assert noted.notes[0] == "the session's cookie came within another cookie, which somebody else may have set"


async def test_white_space_that_is_part_of_a_name_makes_another_name() -> None:
    """To a browser such a cookie has another name, which `__Host-` does not guard; aiohttp drops that space."""
    name, eve, users = "__Host-SESSION", session_cookie(user="eve"), list[Any]()
    wrong = []

    class Judge:
        async def connect(self, connection: Connection) -> None:
            users.append(connection.user)
            raise NotAllowed("seen")

    async with serve(session_app(Sessions(cookie_storage(cookie_name=name)), Judge())) as server:
        assert await status_of(server, f"Cookie: a=b; \t {name}={eve}".encode()) == 403
        assert users == ["eve"], "spaces and tabs are no part of a name"
        for code in (0x0B, 0x0C, 0x1C, 0x1F, 0x85, 0xA0, 0x1680, 0x2000, 0x2028, 0x202F, 0x3000):
            for cookie in (f"{chr(code)}{name}={eve}", f"a=b; {chr(code)}{name}={eve}", f"{name}{chr(code)}={eve}"):
                users.clear()
                assert await status_of(server, f"Cookie: {cookie}".encode()) in (400, 403)
                if users not in ([], [None]):
                    wrong.append(f"{cookie.partition('=')[0]!a}")
    assert wrong == []


async def test_other_cookies_do_not_matter() -> None:
    """Cookies of other names beside the session's change nothing; one in a second header alone is told of."""
    noted = Noted(cookie_storage())
    async with serve(session_app(noted)) as server:
        mine = f"AIOHTTP_SESSION={session_cookie(user='ann')}"
        assert await status_of(server, f"Cookie: XAIOHTTP_SESSION=1; {mine}; AIOHTTP_SESSION2=3".encode()) == 101
        assert await status_of(server, b"Cookie: a=b", f"Cookie: {mine}".encode()) == 101
    assert noted.notes[0].startswith("session of user 'ann'")
    assert noted.notes[1] == "the cookie came in a second Cookie header, of which only the first is read"


# ---- keys


async def test_rotated_keys() -> None:
    """A cookie is good while its key is listed, through two rotations, and not once it is removed."""
    cookie = session_cookie(OLDER, user="ann")
    for keys, user in [
        ((OLDER,), "ann"),
        ((OLD, OLDER), "ann"),
        ((KEY, OLD, OLDER), "ann"),
        ((KEY, OLD), None),
        ((KEY,), None),
    ]:
        async with serve(session_app(Sessions(cookie_storage(*keys)))) as server:
            assert (await who_is(server, cookie))[0] == user


@pytest.mark.parametrize(("skew", "good"), [(30, True), (58, True), (90, False), (300, False)])
async def test_cookies_from_the_future(skew: int, good: bool) -> None:
    """A cookie may be a minute ahead of this server's clock and no more."""
    async with serve(session_app()) as server:
        assert (await who_is(server, session_cookie(age=-skew, user="ann")))[0] == ("ann" if good else None)
