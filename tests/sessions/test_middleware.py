"""`Sessions` with cookies: the user and roles of a client, and when its connections end."""

import asyncio
import logging
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import Session as StoredSession
from aiohttp_session import SimpleCookieStorage
from aiohttp_session.cookie_storage import EncryptedCookieStorage

from wampkit import AllowOrigins, BlockAddresses, DeclarationError, KeyRing, Session, Sessions, Tickets
from wampkit.connection.connection import Connection as Conn

from ..support.session_cookies import (
    KEY,
    OLD,
    Noted,
    cookie_headers,
    cookie_storage,
    session_app,
    session_cookie,
    session_token,
    status_of,
    who_is,
)
from ..support.tables import rows
from ..support.website import website
from ..support.wire import Peer, eventually, handshake, serve

# ---- who a client is


async def test_the_sessions_user_is_the_connections_user() -> None:
    """A client with the cookie of a session is that session's user, and found by it."""
    async with serve(session_app(Sessions(cookie_storage(), roles="roles", id="sid"))) as server:
        assert await who_is(server, session_cookie(user="ann", roles=["b", "a"], sid="s1")) == ["ann", ["a", "b"], "s1"]
        assert [each.user for each in server.app.connections(user="ann")] == ["ann"]
        assert [each.user for each in server.app.connections(session_id="s1")] == ["ann"]
        assert server.app.connections(session_id="s2") == []


async def test_keys_and_functions_tell_user_roles_and_id() -> None:
    """User, roles and id come from keys or from functions of the session, async or not."""

    async def user(session: Session) -> Any:
        await asyncio.sleep(0)
        return session["account"]["id"]

    gate = Sessions(
        cookie_storage(), user=user, roles=lambda session: {"one", "two"}, id=lambda session: session["n"] + 1
    )
    async with serve(session_app(gate)) as server:
        assert await who_is(server, session_cookie(account={"id": 7}, n=1)) == [7, ["one", "two"], "2"]
        # A function that misses a key knows nobody.
        assert await who_is(server, session_cookie(n=1)) == [None, ["one", "two"], "2"]


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
    async with serve(session_app(roles="roles")) as server:
        assert (await who_is(server, session_cookie(user="ann", roles=roles)))[1] == seen


async def test_a_user_that_cannot_be_one_is_nobody() -> None:
    """A list in the place of the user is nobody, and the note tells what it is."""
    noted = Noted(cookie_storage())
    async with serve(session_app(noted)) as server:
        assert (await who_is(server, session_cookie(user=["ann"])))[0] is None
    assert noted.notes == ["what the session has for its user is a list, which is not hashable"]


@rows("ticket_first", [True, False])
async def test_user_and_roles_come_from_one_source(ticket_first: bool) -> None:
    """Of a ticket and a session on one handshake the later in the list holds, with its user and its roles alone."""
    tickets, sessions = Tickets(KEY), Sessions(cookie_storage(), roles="roles")
    app = session_app(*((tickets, sessions) if ticket_first else (sessions, tickets)))
    member, guest = session_cookie(user="ann", roles=["member"]), session_cookie(roles=["guest"])
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
            peer = await server.peer(headers=cookie_headers(cookie) if cookie else {}, params=params)
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
    async with serve(session_app(tickets, Sessions(cookie_storage(), required=True))) as server:
        assert await status_of(server) == 403
        assert await status_of(server, b"Cookie: AIOHTTP_SESSION=" + session_cookie(cart=[1]).encode()) == 403
        assert (await who_is(server, session_cookie(user="ann")))[0] == "ann"
        peer = await server.peer(params={"ticket": tickets.issue("bob")})
        assert (await peer.result("who"))[0] == "bob"


async def test_a_refusal_says_why_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    """The client reads that it shall log in; the log has the reason."""
    caplog.set_level(logging.INFO, "wampkit")
    async with serve(session_app(required=True)) as server:
        answer = await server.ask(handshake(server.path, "Cookie: AIOHTTP_SESSION=" + session_cookie(OLD, user="ann")))
    assert answer.endswith(b"log in first\n")
    assert b"connection: close" in answer.lower()
    assert "log in first (the cookie came but does not decrypt" in caplog.text


async def test_the_order_of_the_list_decides_what_is_looked_up() -> None:
    """No session is looked up for a client that its address or its origin has refused."""
    storage = _Counting(KeyRing(KEY), max_age=60)
    gates = [BlockAddresses("127.0.0.9"), AllowOrigins("https://good.example"), Sessions(storage)]
    async with serve(session_app(*gates)) as server:
        cookie = b"Cookie: AIOHTTP_SESSION=" + session_cookie(user="ann").encode()
        assert await status_of(server, cookie, b"Origin: https://evil.example") == 403
        assert await status_of(server, cookie) == 403
        peer = await server.tcp(source="127.0.0.9")
        await peer.send(handshake(server.path, cookie.decode(), "Origin: https://good.example"))
        assert b" 403 " in await peer.read_head()
        assert storage.loads == 0
        assert await status_of(server, cookie, b"Origin: https://good.example") == 101
        assert storage.loads == 1


class _Counting(EncryptedCookieStorage):
    loads = 0

    async def load_session(self, request: web.Request) -> StoredSession:
        self.loads += 1
        return await super().load_session(request)


# ---- the end of a session


async def test_a_connection_ends_with_its_session() -> None:
    """A connection is closed with 4401 when its cookie expires, to the second, and others stay."""
    app = session_app(Sessions(cookie_storage(max_age=60)))
    ended: dict[str, float] = {}

    @app.on_disconnect
    async def gone(connection: Conn) -> None:
        ended[connection.user] = time.time()

    async with serve(app) as server:
        start = time.time()
        expires = {"ann": start + 1.5, "bob": start + 2.5}
        peers = [
            await server.peer(headers=cookie_headers(session_token({"created": at - 60, "session": {"user": user}})))
            for user, at in expires.items()
        ]
        stays = await server.peer(headers=cookie_headers(session_cookie(user="eve")))
        for peer in peers:
            assert await peer.closed() == (4401, "the session has expired")
        assert all(abs(ended[user] - at) < 1 for user, at in expires.items()), ended
        assert (await stays.result("who"))[0] == "eve"


async def test_an_endless_session_never_ends() -> None:
    """Without max_age, by leave of `endless`, a session has no end."""
    noted = Noted(cookie_storage(max_age=None), endless=True)
    async with serve(session_app(noted)) as server:
        assert (await who_is(server, session_cookie(age=10_000_000, user="ann")))[0] == "ann"
        (connection,) = server.app.connections
        assert connection.session.expires is None
        assert await who_is(server, session_token({"created": 1, "session": {}})) == [None, [], None]
    assert noted.notes == ["session of user 'ann', never expires", "the session is empty"]


async def test_a_logout_view_closes_the_sockets() -> None:
    """A view that logs out finds the session's connections by the `sid` in it, and closes them at once."""
    async with website(cookie_storage(), id="sid") as visitor:
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

    async with serve(session_app(user=user)) as server, serve(session_app()) as trusting:
        cookie = session_cookie(user="ann", sid="s1")
        logged_in.add("s1")
        assert (await who_is(server, cookie))[0] == "ann"
        logged_in.clear()
        assert (await who_is(server, cookie))[0] is None
        assert (await who_is(trusting, cookie))[0] == "ann"
        await server.disconnect()


# ---- declarations


@rows(
    ("make", "message"),
    [
        (lambda: Sessions(cookie_storage(max_age=None)), r"no max_age, so its cookies would be good for ever"),
        (lambda: Sessions(KEY), r"takes a storage of aiohttp-session.*not a bytes"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(EncryptedCookieStorage), r"takes a storage"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(cookie_storage(), user=None), r"user is a key of the session or a function"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(cookie_storage(), roles=["admin"]), r"roles is a key"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(cookie_storage(), id=5), r"id is a key"),  # type: ignore[arg-type]  # the point
        (lambda: Sessions(cookie_storage(), check_every=0), r"check_every"),
    ],
)
def test_sessions_that_cannot_work_are_refused(make: Any, message: str) -> None:
    """A mistake in the declaration shows where it is made."""
    with pytest.raises(DeclarationError, match=message):
        make()


# ---- many


async def test_thousands_of_sessions_leave_nothing() -> None:
    """Connections with sessions that come and go leave nothing behind in the gate."""
    gate = Sessions(cookie_storage(max_age=5000))
    async with serve(session_app(gate)) as server:
        for _ in range(5):
            peers: list[Peer] = await asyncio.gather(
                *[server.peer(headers=cookie_headers(session_cookie(user=f"user {number}"))) for number in range(40)]
            )
            await asyncio.gather(*[peer.close() for peer in peers])
        await eventually(lambda: len(server.app.connections) == 0)
    assert gate._source._writes == set()
    assert gate._source.watchers == []


# ---- what the gate says


@rows(
    ("required", "words"),
    [(False, "AIOHTTP_SESSION that lasts 3,600 s)"), (True, ") and refuses clients without a user")],
)
def test_the_gate_says_what_it_does(required: bool, words: str) -> None:
    """What `wampkit check` shows of it says whether a session is required."""
    assert Sessions(cookie_storage(), required=required).describe().endswith(words)
    endless = Sessions(cookie_storage(max_age=None), required=required, endless=True)
    assert "AIOHTTP_SESSION that never expires)" in endless.describe()
