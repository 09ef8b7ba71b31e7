"""`Sessions` with cookies: who a client is, why it is nobody, and when its connections end."""

import asyncio
import itertools
import json
import logging
import re
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import AbstractStorage, SimpleCookieStorage
from aiohttp_session import Session as StoredSession
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from wampkit import (
    AllowOrigins,
    App,
    BlockAddresses,
    Connection,
    DeclarationError,
    KeyRing,
    NotAllowed,
    Session,
    SessionReadOnly,
    Sessions,
    Tickets,
    Topic,
    run_on_loop,
)
from wampkit.app import lifecycle_of
from wampkit.connection.connection import Connection as Conn
from wampkit.sessions.middleware import key_fingerprints

from ..support.tables import rows
from ..support.website import website
from ..support.wire import ERROR, Peer, Server, eventually, handshake, serve

KEY, OLD, OLDER = (Fernet.generate_key() for _ in range(3))


def _storage(*keys: Any, max_age: int | None = 3600, **options: Any) -> EncryptedCookieStorage:
    return EncryptedCookieStorage(KeyRing(*keys or (KEY,)), max_age=max_age, **options)


def _token(content: object, key: bytes = KEY, made: float | None = None) -> str:
    """An encrypted cookie with anything in it."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Fernet(key).encrypt_at_time(data, int(time.time() if made is None else made)).decode()


def _cookie(key: bytes = KEY, *, age: float = 0.0, **session: Any) -> str:
    """A cookie as the site would have made it so many seconds ago."""
    made = time.time() - age
    return _token({"created": made, "session": session}, key, made)


def _headers(*cookies: str) -> dict[str, str]:
    return {"Cookie": "; ".join(f"AIOHTTP_SESSION={cookie}" for cookie in cookies)}


def _plain(content: object) -> dict[str, str]:
    """A cookie of a storage that does not encrypt."""
    return {"Cookie": SimpleCookie({"AIOHTTP_SESSION": json.dumps(content)}).output([], "").strip()}


class Noted:
    """The gate `Sessions`, with what it returned."""

    def __init__(self, storage: AbstractStorage, **options: Any) -> None:
        self.gate = Sessions(storage, **options)
        self.lifespan = self.gate.lifespan
        self.notes: list[str] = []

    async def connect(self, connection: Connection) -> None:
        self.notes.append(await self.gate.connect(connection))


def _app(*middlewares: Any, **options: Any) -> App:
    app = App(middlewares=middlewares or [Sessions(_storage(), **options)])

    @app.rpc("who")
    async def who(conn: Connection) -> list[Any]:
        return [conn.user, sorted(conn.roles), conn.session.id]

    return app


async def _who(server: Server, cookie: str | None) -> Any:
    peer = await server.peer(headers={} if cookie is None else _headers(cookie))
    return await peer.result("who")


async def _status(server: Server, *lines: bytes) -> int:
    """The status that a handshake with these header lines gets."""
    request = handshake(server.path).removesuffix(b"\r\n") + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    peer = await server.tcp()
    await peer.send(request)
    head = await peer.read_head()
    peer.close()
    return int(head.split()[1])


# ---- who a client is


async def test_the_sessions_user_is_the_connections_user() -> None:
    """A client with the cookie of a session is that session's user, and found by it."""
    async with serve(_app(Sessions(_storage(), roles="roles", id="sid"))) as server:
        assert await _who(server, _cookie(user="ann", roles=["b", "a"], sid="s1")) == ["ann", ["a", "b"], "s1"]
        assert [each.user for each in server.app.connections(user="ann")] == ["ann"]
        assert [each.user for each in server.app.connections(session_id="s1")] == ["ann"]
        assert server.app.connections(session_id="s2") == []


async def test_keys_and_functions_tell_user_roles_and_id() -> None:
    """User, roles and id come from keys or from functions of the session, async or not."""

    async def user(session: Session) -> Any:
        await asyncio.sleep(0)
        return session["account"]["id"]

    gate = Sessions(_storage(), user=user, roles=lambda session: {"one", "two"}, id=lambda session: session["n"] + 1)
    async with serve(_app(gate)) as server:
        assert await _who(server, _cookie(account={"id": 7}, n=1)) == [7, ["one", "two"], "2"]
        # A function that misses a key knows nobody.
        assert await _who(server, _cookie(n=1)) == [None, ["one", "two"], "2"]


@rows(
    ("roles", "seen"),
    [
        ("admin", ["admin"]),
        (["a", "b", "a"], ["a", "b"]),
        ([], []),
        (None, []),
        (5, []),
        (["a", 1], []),
        ({"a": 1}, ["a"]),
    ],
)
async def test_roles_are_a_list_of_names(roles: Any, seen: list[str]) -> None:
    """A text is one role and an iterable of texts several; from anything else there are none."""
    async with serve(_app(roles="roles")) as server:
        assert (await _who(server, _cookie(user="ann", roles=roles)))[1] == seen


async def test_a_user_that_cannot_be_one_is_nobody() -> None:
    """A list in the place of the user is nobody, and the note tells what it is."""
    noted = Noted(_storage())
    async with serve(_app(noted)) as server:
        assert (await _who(server, _cookie(user=["ann"])))[0] is None
    assert noted.notes == ["what the session has for its user is a list, which is not hashable"]


@rows("ticket_first", [True, False])
async def test_user_and_roles_come_from_one_source(ticket_first: bool) -> None:
    """Of a ticket and a session on one handshake the later in the list holds, with its user and its roles alone."""
    tickets, sessions = Tickets(KEY), Sessions(_storage(), roles="roles")
    app = _app(*((tickets, sessions) if ticket_first else (sessions, tickets)))
    member, guest = _cookie(user="ann", roles=["member"]), _cookie(roles=["guest"])
    told = {}
    async with serve(app) as server:
        for name, cookie, ticket in (
            ("both", member, ("mallory", ["device"])),
            ("session", member, None),
            ("ticket", None, ("mallory", ["device"])),
            ("no user in the session", guest, ("mallory", ["device"])),
            ("nobody", guest, None),
        ):
            params = {"ticket": tickets.issue(ticket[0], roles=ticket[1])} if ticket else {}
            peer = await server.peer(headers=_headers(cookie) if cookie else {}, params=params)
            told[name] = (await peer.result("who"))[:2]
    assert told == {
        "both": ["ann", ["member"]] if ticket_first else ["mallory", ["device"]],
        "session": ["ann", ["member"]],
        "ticket": ["mallory", ["device"]],
        "no user in the session": ["mallory", ["device"]],
        "nobody": [None, ["guest"]],
    }


def test_a_storage_that_any_visitor_can_write_is_refused() -> None:
    """A plain cookie without a signature makes anybody admin: Sessions says so, and what to take instead."""

    class Own(SimpleCookieStorage):
        pass

    for storage in (SimpleCookieStorage(max_age=60), Own(max_age=60)):
        with pytest.raises(DeclarationError, match=r"any visitor could write one.*use EncryptedCookieStorage\(KeyRing"):
            Sessions(storage)
        Sessions(storage, plain=True)


async def test_required_refuses_whoever_is_nobody() -> None:
    """With `required` a client without user gets 403; one whom another middleware knows is let in."""
    tickets = Tickets(KEY)
    async with serve(_app(tickets, Sessions(_storage(), required=True))) as server:
        assert await _status(server) == 403
        assert await _status(server, b"Cookie: AIOHTTP_SESSION=" + _cookie(cart=[1]).encode()) == 403
        assert (await _who(server, _cookie(user="ann")))[0] == "ann"
        peer = await server.peer(params={"ticket": tickets.issue("bob")})
        assert (await peer.result("who"))[0] == "bob"


async def test_a_refusal_says_why_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    """The client reads that it shall log in; the log has the reason."""
    caplog.set_level(logging.INFO, "wampkit")
    async with serve(_app(required=True)) as server:
        answer = await server.ask(handshake(server.path, "Cookie: AIOHTTP_SESSION=" + _cookie(OLD, user="ann")))
    assert answer.endswith(b"log in first\n")
    assert b"connection: close" in answer.lower()
    assert "log in first (the cookie came but does not decrypt" in caplog.text


async def test_the_order_of_the_list_decides_what_is_looked_up() -> None:
    """No session is looked up for a client that its address or its origin has refused."""
    storage = _Counting(KeyRing(KEY), max_age=60)
    gates = [BlockAddresses("127.0.0.9"), AllowOrigins("https://good.example"), Sessions(storage)]
    async with serve(_app(*gates)) as server:
        cookie = b"Cookie: AIOHTTP_SESSION=" + _cookie(user="ann").encode()
        assert await _status(server, cookie, b"Origin: https://evil.example") == 403
        assert await _status(server, cookie) == 403
        peer = await server.tcp(source="127.0.0.9")
        await peer.send(handshake(server.path, cookie.decode(), "Origin: https://good.example"))
        assert b" 403 " in await peer.read_head()
        assert storage.loads == 0
        assert await _status(server, cookie, b"Origin: https://good.example") == 101
        assert storage.loads == 1


class _Counting(EncryptedCookieStorage):
    loads = 0

    async def load_session(self, request: web.Request) -> StoredSession:
        self.loads += 1
        return await super().load_session(request)


# ---- why there is no session

DEEP = b'{"created": 1, "session": ' + b"[" * 2000 + b"]" * 2000 + b"}"


def _note_cases() -> dict[str, tuple[str | None, str]]:
    now = int(time.time())
    return {
        "none": (None, "no cookie came"),
        "other key": (_cookie(OLD, user="ann"), "does not decrypt (wrong or rotated-out key, or altered)"),
        "altered": (_cookie(user="ann")[:-9] + "AAAAAAAA=", "does not decrypt"),
        "no token": ("hello", "does not decrypt"),
        "expired": (_cookie(age=3700, user="ann"), "the cookie has expired"),
        "old content": (_token({"created": now - 3700, "session": {"user": "ann"}}), "the cookie has expired"),
        "from the future": (_cookie(age=-300, user="ann"), "over a minute from now"),
        "no content": (_token(b"hello"), "what it stands for is no session"),
        "empty": (_token({"created": now, "session": {}}), "the session is empty"),
        "no user": (_cookie(cart=[1]), "the session has no 'user'"),
        "user": (_cookie(user="a\nnn", age=60), r"session of user 'a\nnn', expires in 3,540 s"),
    }


@rows("name", _note_cases())
async def test_the_gate_says_what_it_found(name: str) -> None:
    """`connect` returns what session there is, or the one reason why there is none."""
    cookie, note = _note_cases()[name]
    noted = Noted(_storage())
    async with serve(_app(noted)) as server:
        assert (await _who(server, cookie))[0] == ("a\nnn" if name == "user" else None)
    (said,) = noted.notes
    # Some seconds may pass while the test runs.
    assert note in re.sub("3,5[1-3][0-9] s", "3,540 s", said)
    assert cookie is None or cookie[:12] not in said


async def test_clients_that_are_nobody_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each reason is written at info once and then counted; cookies and users' data never are."""
    caplog.set_level(logging.INFO)
    bad = _cookie(OLD, user="ann")
    async with serve(_app()) as server:
        for _ in range(40):
            await _status(server)
            await _status(server, b"Cookie: AIOHTTP_SESSION=" + bad.encode())
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len(lines) == 4, lines
    assert all(line.endswith("(38 more like this)") for line in lines[2:]), lines
    assert "127.0.0.1' has no user: no cookie came" in caplog.text
    assert "has no user: the cookie came but does not decrypt" in caplog.text
    assert bad[:20] not in caplog.text


async def test_the_web_sides_log_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp-session's warning about a bad cookie is held back for handshakes and nowhere else."""
    async with website(_storage()) as visitor:
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
    value = _token(KEYED[name]).encode() if name in KEYED else UNKEYED[name]
    line = b"Cookie: AIOHTTP_SESSION=" + value
    async with serve(_app()) as server:
        assert await _status(server, line) == 101
    async with serve(_app(required=True)) as server:
        assert await _status(server, line) == 403
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_no_plain_cookie_breaks_the_door(caplog: pytest.LogCaptureFixture) -> None:
    """The same holds for a storage that does not even encrypt."""
    async with serve(_app(Sessions(SimpleCookieStorage(max_age=60), required=True, plain=True))) as server:
        for value in [*UNKEYED.values(), *KEYED.values()]:
            if len(value) < 4000:
                line = b"Cookie: AIOHTTP_SESSION=" + value.replace(b'"', b'\\"')
                assert await _status(server, line) == 403, value
        peer = await server.peer(headers=_plain({"created": int(time.time()), "session": {"user": "ann"}}))
        assert (await peer.result("who"))[0] == "ann"
    assert "Traceback" not in caplog.text


@rows("order", [1, -1])
@rows("form", ["one header", "two headers", "no space", "same twice"])
async def test_two_session_cookies_are_none(order: int, form: str) -> None:
    """Of two cookies of the session's name none counts, in whatever order and headers they come."""
    mine, evil = [f"AIOHTTP_SESSION={_cookie(user=user)}" for user in ("ann", "eve")][::order]
    lines = {
        "one header": [f"Cookie: {mine}; {evil}"],
        "two headers": [f"Cookie: {mine}", f"Cookie: {evil}"],
        "no space": [f"Cookie: a=b;{mine};{evil};c=d"],
        "same twice": [f"Cookie: {mine}; {mine}"],
    }[form]
    noted = Noted(_storage())
    async with serve(_app(noted)) as server:
        assert await _status(server, *[line.encode() for line in lines]) == 101
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
    ann, eve = _cookie(user="ann"), _cookie(user="eve")
    own, foreign = f"AIOHTTP_SESSION={ann}", [each.format(eve=eve) for each in NEIGHBOURS]
    headers = [[one, own] for one in foreign] + [[own, one] for one in foreign]
    headers += [[one, own, other] for one, other in itertools.permutations(foreign[:20], 2)]
    seen: list[tuple[str | None, Any]] = []

    class Judge:
        async def connect(self, connection: Connection) -> None:
            seen.append((connection.request.cookies.get("AIOHTTP_SESSION"), connection.user))
            raise NotAllowed("seen")

    wrong = []
    async with serve(_app(Sessions(_storage()), Judge())) as server:
        for pairs in headers:
            assert await _status(server, f"Cookie: {joint.join(pairs)}".encode("latin-1")) in (400, 403)
            if seen and (seen[-1][1] == "eve" or (seen[-1][0] == eve and seen[-1][1] is not None)):
                wrong.append(pairs)
    assert wrong == []
    read = [cookie for cookie, _ in seen]
    assert read.count(eve) > 20, "the table tries what aiohttp falls for"
    assert [user for _, user in seen].count("ann") > 10, "harmless cookies harm nobody"


async def test_a_cookie_within_another_is_none() -> None:
    """A visitor without a session does not get the one that stands in a cookie of another name."""
    noted = Noted(_storage())
    async with serve(_app(noted)) as server:
        for hidden in ("x=y ", "x ", 'x="y" ', "x=y,", "x=", "x=y\t"):
            cookie = f"{hidden}AIOHTTP_SESSION={_cookie(user='eve')}"
            assert await _status(server, f"Cookie: {cookie}".encode()) == 101
            assert [each.user for each in server.app.connections] == [None] * len(server.app.connections)
    assert noted.notes[0] == "the session's cookie came within another cookie, which somebody else may have set"


async def test_white_space_that_is_part_of_a_name_makes_another_name() -> None:
    """To a browser such a cookie has another name, which `__Host-` does not guard; aiohttp drops that space."""
    name, eve, users = "__Host-SESSION", _cookie(user="eve"), list[Any]()
    wrong = []

    class Judge:
        async def connect(self, connection: Connection) -> None:
            users.append(connection.user)
            raise NotAllowed("seen")

    async with serve(_app(Sessions(_storage(cookie_name=name)), Judge())) as server:
        assert await _status(server, f"Cookie: a=b; \t {name}={eve}".encode()) == 403
        assert users == ["eve"], "spaces and tabs are no part of a name"
        for code in (0x0B, 0x0C, 0x1C, 0x1F, 0x85, 0xA0, 0x1680, 0x2000, 0x2028, 0x202F, 0x3000):
            for cookie in (f"{chr(code)}{name}={eve}", f"a=b; {chr(code)}{name}={eve}", f"{name}{chr(code)}={eve}"):
                users.clear()
                assert await _status(server, f"Cookie: {cookie}".encode()) in (400, 403)
                if users not in ([], [None]):
                    wrong.append(f"{cookie.partition('=')[0]!a}")
    assert wrong == []


async def test_other_cookies_do_not_matter() -> None:
    """Cookies of other names beside the session's change nothing; one in a second header alone is told of."""
    noted = Noted(_storage())
    async with serve(_app(noted)) as server:
        mine = f"AIOHTTP_SESSION={_cookie(user='ann')}"
        assert await _status(server, f"Cookie: XAIOHTTP_SESSION=1; {mine}; AIOHTTP_SESSION2=3".encode()) == 101
        assert await _status(server, b"Cookie: a=b", f"Cookie: {mine}".encode()) == 101
    assert noted.notes[0].startswith("session of user 'ann'")
    assert noted.notes[1] == "the cookie came in a second Cookie header, of which only the first is read"


# ---- keys


async def test_rotated_keys() -> None:
    """A cookie is good while its key is listed, through two rotations, and not once it is removed."""
    cookie = _cookie(OLDER, user="ann")
    for keys, user in [
        ((OLDER,), "ann"),
        ((OLD, OLDER), "ann"),
        ((KEY, OLD, OLDER), "ann"),
        ((KEY, OLD), None),
        ((KEY,), None),
    ]:
        async with serve(_app(Sessions(_storage(*keys)))) as server:
            assert (await _who(server, cookie))[0] == user


@pytest.mark.parametrize(("skew", "good"), [(30, True), (58, True), (90, False), (300, False)])
async def test_cookies_from_the_future(skew: int, good: bool) -> None:
    """A cookie may be a minute ahead of this server's clock and no more."""
    async with serve(_app()) as server:
        assert (await _who(server, _cookie(age=-skew, user="ann")))[0] == ("ann" if good else None)


# ---- the end of a session


async def test_a_connection_ends_with_its_session() -> None:
    """A connection is closed with 4401 when its cookie expires, to the second, and others stay."""
    app = _app(Sessions(_storage(max_age=60)))
    ended: dict[str, float] = {}

    @app.on_disconnect
    async def gone(connection: Conn) -> None:
        ended[connection.user] = time.time()

    async with serve(app) as server:
        start = time.time()
        expires = {"ann": start + 1.5, "bob": start + 2.5}
        peers = [
            await server.peer(headers=_headers(_token({"created": at - 60, "session": {"user": user}})))
            for user, at in expires.items()
        ]
        stays = await server.peer(headers=_headers(_cookie(user="eve")))
        for peer in peers:
            assert await peer.closed() == (4401, "the session has expired")
        assert all(abs(ended[user] - at) < 1 for user, at in expires.items()), ended
        assert (await stays.result("who"))[0] == "eve"


async def test_an_endless_session_never_ends() -> None:
    """Without max_age, by leave of `endless`, a session has no end."""
    noted = Noted(_storage(max_age=None), endless=True)
    async with serve(_app(noted)) as server:
        assert (await _who(server, _cookie(age=10_000_000, user="ann")))[0] == "ann"
        (connection,) = server.app.connections
        assert connection.session.expires is None
        assert await _who(server, _token({"created": 1, "session": {}})) == [None, [], None]
    assert noted.notes == ["session of user 'ann', never expires", "the session is empty"]


async def test_a_logout_view_closes_the_sockets() -> None:
    """A view that logs out finds the session's connections by the `sid` in it, and closes them at once."""
    async with website(_storage(), id="sid") as visitor:
        await visitor.post("/login", user="ann")
        async with visitor.connect() as one, visitor.connect() as two:
            assert await one.call("who") == ["ann", []]
            assert await visitor.post("/logout") == "2"
            for client in (one, two):
                await eventually(lambda client=client: client.state == "closed")
                assert client.error is not None
                assert client.error.code == 4401
                assert "logged out" in client.error.reason
        async with visitor.connect() as client:
            assert await client.call("who") == [None, []]


async def test_a_copied_cookie_is_worth_nothing_if_the_app_asks() -> None:
    """An encrypted cookie cannot be taken back; a function for the user that knows who is logged in refuses copies."""
    logged_in: set[str] = set()

    async def user(session: Session) -> str | None:
        return session["user"] if session["sid"] in logged_in else None

    async with serve(_app(user=user)) as server, serve(_app()) as trusting:
        cookie = _cookie(user="ann", sid="s1")
        logged_in.add("s1")
        assert (await _who(server, cookie))[0] == "ann"
        logged_in.clear()
        assert (await _who(server, cookie))[0] is None
        assert (await _who(trusting, cookie))[0] == "ann"
        await server.disconnect()


# ---- the injected session


def _reading_app() -> App:
    app = _app(Sessions(_storage(), id="sid"))

    @app.rpc("seen")
    async def seen(session: Session) -> list[Any]:
        return [bool(session), dict(session), session.id, session.expires and round(session.expires - time.time(), -2)]

    @app.rpc("thread")
    def thread(session: Session) -> Any:
        return session["user"]

    @app.rpc("set")
    async def set_(session: Session) -> None:
        session["x"] = 1

    @app.rpc("within")
    async def within(session: Session) -> None:
        session["cart"].append(1)

    @app.rpc("refresh")
    async def refresh(session: Session) -> None:
        await session.refresh()

    @app.rpc("thread set")
    def thread_set(session: Session) -> str:
        for change in (lambda: session.update(x=1), lambda: session.pop("user"), lambda: session.clear()):
            try:
                change()
            except SessionReadOnly:
                continue
            return "changed"
        run_on_loop(session.save())
        return "read-only"

    return app


async def test_a_handler_is_given_the_session() -> None:
    """A parameter annotated `Session` is the session, in async and plain handlers, and costs no argument."""
    async with serve(_reading_app()) as server:
        peer = await server.peer(headers=_headers(_cookie(user="ann", sid="s", n=[1])))
        assert await peer.result("seen") == [True, {"user": "ann", "sid": "s", "n": [1]}, "s", 3600]
        assert await peer.result("thread") == "ann"


async def test_without_a_session_it_is_empty_and_false() -> None:
    """Where there is no session, handlers are given an empty one."""
    async with serve(_reading_app()) as server:
        assert await (await server.peer()).result("seen") == [False, {}, None, None]


async def test_topics_and_hooks_are_given_the_session() -> None:
    """A topic's handler and its hooks have the session too."""
    app = _app()
    topic = app.topic("chat")

    @topic
    async def chat(event: str, session: Session) -> list[Any]:
        return [session["user"], event]

    @topic.on_subscribe
    async def joined(topic: Topic, session: Session) -> None:
        await topic.publish(["joined", session["user"]])

    async with serve(app) as server:
        peer = await server.peer(headers=_headers(_cookie(user="ann")))
        await peer.subscribe("chat")
        await peer.send(7, "chat", "hi", False)
        assert await peer.events(2) == [["joined", "ann"], ["ann", "hi"]]


def test_a_session_needs_the_middleware() -> None:
    """A handler that wants a session in an app that reads none stops the start, with the fix."""
    app = App()

    @app.rpc("x")
    async def x(session: Session) -> None: ...

    with pytest.raises(DeclarationError, match=r"'session': this app reads no sessions; put Sessions\(storage\) into"):
        lifecycle_of(app).routes()


@pytest.mark.parametrize("procedure", ["set", "within", "refresh"])
async def test_a_session_in_a_cookie_cannot_be_changed(procedure: str, caplog: pytest.LogCaptureFixture) -> None:
    """To change a session that lives in its cookie, or to read it anew, fails the call and says what to do instead."""
    async with serve(_reading_app()) as server:
        peer = await server.peer(headers=_headers(_cookie(user="ann", cart=[])))
        assert (await peer.call(procedure))[0] == ERROR
        assert await peer.result("thread set") == "read-only"
        assert (await peer.result("seen"))[1] == {"user": "ann", "cart": []}
    assert "SessionReadOnly" in caplog.text
    assert "cannot be set or read anew on an open socket: change it in a web view, or" in caplog.text


async def test_where_there_is_no_session_none_can_begin(caplog: pytest.LogCaptureFixture) -> None:
    """A session cannot begin on an open socket."""
    async with serve(_reading_app()) as server:
        peer = await server.peer()
        assert (await peer.call("set"))[0] == ERROR
    assert "there is no session: it begins in a web view" in caplog.text


async def test_a_hook_cannot_change_a_cookie_either() -> None:
    """`connection.session` is the same session, with the same bounds."""
    app = _app()
    raised: list[str] = []

    @app.on_connect
    async def connected(connection: Connection) -> None:
        assert connection.session["user"] == "ann"
        connection.session["cart"].append(1)  # a copy
        assert connection.session["cart"] == []
        try:
            del connection.session["user"]
        except SessionReadOnly as error:
            raised.append(str(error))

    async with serve(app) as server:
        await server.peer(headers=_headers(_cookie(user="ann", cart=[])))
    assert len(raised) == 1


def test_a_session_shows_nothing_of_itself() -> None:
    """The repr of a session has no key and no value of it."""

    class Record:
        data: Mapping[str, Any] = {"user": "ann", "token": "secret"}

    assert repr(Session(Record())) == "<Session of 2 keys>"  # type: ignore[arg-type]  # enough of one


# ---- declarations


@rows(
    ("make", "message"),
    [
        (lambda: Sessions(_storage(max_age=None)), r"no max_age, so its cookies would be good for ever"),
        (lambda: Sessions(KEY), r"takes a storage of aiohttp-session.*not a bytes"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(EncryptedCookieStorage), r"takes a storage"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(_storage(), user=None), r"user is a key of the session or a function"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(_storage(), roles=["admin"]), r"roles is a key"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(_storage(), id=5), r"id is a key"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(_storage(), check_every=0), r"check_every"),
    ],
)
def test_sessions_that_cannot_work_are_refused(make: Any, message: str) -> None:
    """A mistake in the declaration shows where it is made."""
    with pytest.raises(DeclarationError, match=message):
        make()


# ---- storages in trouble


class _Broken(SimpleCookieStorage):
    """A storage of an app's own that fails as a network does."""

    error: Exception | None = ConnectionRefusedError(111, "refused")

    async def load_session(self, request: web.Request) -> StoredSession:
        if self.error is not None and self.load_cookie(request) is not None:
            raise self.error
        return await super().load_session(request)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        TimeoutError(),
        TimeoutError(110, "Connect call failed"),
        RuntimeError("pool of 'topsecret' closed"),
    ],
    ids=repr,
)
async def test_a_storage_that_fails_is_no_bad_cookie(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """While the storage fails who brings a cookie gets 503, to come again, and who brings none is let in.

    The log has the storage's own words, without the cookie.
    """
    storage = _Broken(max_age=60)
    storage.error = error
    async with serve(_app(Sessions(storage, plain=True))) as server:
        for _ in range(5):
            answer = await server.ask(handshake(server.path, "Cookie: AIOHTTP_SESSION=topsecret"))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer.lower()
            assert answer.endswith(b"sessions cannot be looked up at the moment\n")
        await server.peer()
        storage.error = None
        peer = await server.peer(headers=_plain({"created": int(time.time()), "session": {"user": "ann"}}))
        assert (await peer.result("who"))[0] == "ann"
    assert caplog.text.count("the session storage does not answer") == 2
    assert "(3 more like this)" in caplog.text
    said = str(error).replace("topsecret", "(cookie)").partition("'")[0] or "no answer within 5 s"
    assert said in caplog.text
    assert "topsecret" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_function_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """When the app's own function for the user fails, the handshake does: nobody is let in as somebody else."""

    def user(session: Session) -> str:
        raise OSError("no database")

    async with serve(_app(user=user)) as server:
        assert await _status(server, b"Cookie: AIOHTTP_SESSION=" + _cookie(user="ann").encode()) == 500
        assert await _status(server) == 101
    assert "no database" in caplog.text


# ---- many


async def test_thousands_of_sessions_leave_nothing() -> None:
    """Connections with sessions that come and go leave nothing behind in the gate."""
    gate = Sessions(_storage(max_age=5000))
    async with serve(_app(gate)) as server:
        for _ in range(5):
            peers: list[Peer] = await asyncio.gather(
                *[server.peer(headers=_headers(_cookie(user=f"user {number}"))) for number in range(40)]
            )
            await asyncio.gather(*[peer.close() for peer in peers])
        await eventually(lambda: len(server.app.connections) == 0)
    assert gate._source._writes == set()
    assert gate._source.watchers == []


class Swapped(AbstractStorage):
    """A storage on the server in which a cookie leads to another session meanwhile."""

    def __init__(self) -> None:
        super().__init__(max_age=60)
        self.identity = "one"

    async def load_session(self, request: web.Request) -> StoredSession:
        content: Any = {"created": int(time.time()), "session": {"user": self.identity}}
        return StoredSession(self.identity, data=content, new=False, max_age=60)

    async def save_session(self, request: web.Request, response: web.StreamResponse, session: StoredSession) -> None:
        raise AssertionError("nothing is changed here")


async def test_refresh_takes_no_other_session() -> None:
    """Where the cookie has come to lead to another session, the one of the handshake has ended."""
    storage = Swapped()
    app = _app(Sessions(storage))

    @app.rpc("refresh")
    async def refresh(session: Session) -> str:
        await session.refresh()
        return str(session["user"])

    async with serve(app) as server:
        peer = await server.peer(headers=_headers("x"))
        assert await peer.result("refresh") == "one"
        storage.identity = "two"
        assert (await peer.call("refresh"))[0] == ERROR


@rows(
    ("required", "words"),
    [(False, "AIOHTTP_SESSION that lasts 3,600 s)"), (True, ") and refuses clients without a user")],
)
def test_the_gate_says_what_it_does(required: bool, words: str) -> None:
    """What `wampkit check` shows of it says whether a session is required."""
    assert Sessions(_storage(), required=required).describe().endswith(words)
    endless = Sessions(_storage(max_age=None), required=required, endless=True)
    assert "AIOHTTP_SESSION that never expires)" in endless.describe()


def test_storages_with_other_keys_are_told_apart() -> None:
    """Workers that drew their keys at the start are found by it; where there is no key, nothing is claimed."""
    one, same, other = (key_fingerprints([Sessions(_storage(key))]) for key in (KEY, KEY, OLD))
    assert one == same != other
    assert key_fingerprints([Sessions(SimpleCookieStorage(max_age=60), plain=True)]) == ""
