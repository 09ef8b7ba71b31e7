"""`Tickets`: who a client is by what it brings in the query; once, for a short time, and never in a log."""

import asyncio
import base64
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet
from yarl import URL

from wampkit import AllowOrigins, App, Connection, DeclarationError, KeyRing, Sessions, Tickets, connect

from ..support.command import command, wampkit, write
from ..support.tables import rows, table
from ..support.wire import Server, handshake, serve

KEY, OLD, OTHER = (Fernet.generate_key() for _ in range(3))


def _app(*middlewares: Any) -> App:
    app = App(middlewares=middlewares or [Tickets(KEY)])

    @app.rpc("who")
    async def who(conn: Connection) -> list[Any]:
        return [conn.user, sorted(conn.roles), conn.attributes]

    return app


async def _refused(server: Server, ticket: str, parameter: str = "ticket") -> str:
    """The refusal's text; fails if the client is let in."""
    return await _answer(server, f"?{parameter}={ticket}", 403)


async def _answer(server: Server, query: str, status: int) -> str:
    answer = await server.ask(handshake(server.path + query))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode(), head
    assert b"connection: close" in head.lower()
    return body.decode().strip()


async def _who(server: Server, ticket: str) -> Any:
    peer = await server.peer(params={"ticket": ticket})
    return await peer.result("who")


# ---- what a ticket does


@pytest.mark.parametrize("user", ["ann", 7, "Zoë; \n", True, 1.5])
async def test_a_ticket_says_who_comes(user: Any) -> None:
    """Whoever brings a ticket is its user, with its roles and attributes."""
    async with serve(_app()) as server:
        ticket = server.app.tickets.issue(user, roles=["admin", "staff"], attributes={"seat": [1, 2]})
        assert await _who(server, ticket) == [user, ["admin", "staff"], {"seat": [1, 2]}]
        assert [each.user for each in server.app.connections(user=user)] == [user]


async def test_a_ticket_may_stand_in_a_url_as_it_is() -> None:
    """A ticket needs no quoting, and our client connects with it."""
    app = _app()
    ticket = app.tickets.issue("ann", roles="admin")
    assert str(URL(f"ws://x/ws?ticket={ticket}")) == f"ws://x/ws?ticket={ticket}"
    assert ticket.replace("-", "").replace("_", "").isalnum()
    async with serve(app) as server, connect(f"{server.url}?ticket={ticket}") as client:
        assert await client.call("who") == ["ann", ["admin"], {}]


async def test_what_a_ticket_says_cannot_be_read() -> None:
    """Neither the user nor anything else of it can be seen in a ticket."""
    ticket = _app().tickets.issue("ann", attributes={"card": "4111"})
    inside = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
    assert b"ann" not in inside
    assert b"4111" not in inside


async def test_who_brings_no_ticket_is_nobody() -> None:
    """Without a ticket a client is let in as nobody, or refused where one is required."""
    async with serve(_app()) as server:
        assert await (await server.peer()).result("who") == [None, [], {}]
    async with serve(_app(Tickets(KEY, required=True))) as server:
        assert await _answer(server, "", 403) == "a ticket is needed"
        assert (await _who(server, server.app.tickets.issue("ann")))[0] == "ann"


async def test_the_parameter_has_the_name_that_it_is_given() -> None:
    """Another parameter's name is taken, and the usual one is not then."""
    async with serve(_app(Tickets(KEY, parameter="t"))) as server:
        ticket = server.app.tickets.issue("ann")
        assert (await (await server.peer(params={"ticket": ticket})).result("who"))[0] is None
        assert (await (await server.peer(params={"t": ticket})).result("who"))[0] == "ann"


async def test_the_gate_says_what_it_found() -> None:
    """`connect` returns a sentence about the ticket, without the ticket."""
    tickets, notes = Tickets(KEY), []

    class Seen:
        async def connect(self, connection: Connection) -> None:
            notes.append(await tickets.connect(connection))

    async with serve(_app(Seen())) as server:
        await server.peer()
        await server.peer(params={"ticket": tickets.issue("a\nn")})
    assert notes == ["no ticket came", "ticket of user 'a\\nn'"]


# ---- once, and for a short time


async def test_a_ticket_is_good_once() -> None:
    """The second handshake with a ticket is refused, also when both come at once."""
    async with serve(_app()) as server:
        ticket = server.app.tickets.issue("ann")
        assert (await _who(server, ticket))[0] == "ann"
        assert await _refused(server, ticket) == "this ticket is not valid: ask for a new one"
        other = server.app.tickets.issue("bob")
        answers = await asyncio.gather(*[_who(server, other) for _ in range(8)], return_exceptions=True)
        assert sum(not isinstance(each, BaseException) for each in answers) == 1


async def test_an_altered_spelling_is_the_same_ticket() -> None:
    """A spent ticket is not made good by padding or by characters that base64 passes over."""
    async with serve(_app()) as server:
        ticket = server.app.tickets.issue("ann")
        assert (await _who(server, ticket))[0] == "ann"
        for spelling in (ticket + "=", ticket + "==", ticket + "%3D", ticket[:9] + "%0A" + ticket[9:], ticket + "."):
            await _refused(server, spelling)


async def test_a_ticket_of_the_past_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """An expired ticket is refused; the client reads no more of why than for any other, the log does."""
    caplog.set_level(logging.INFO, "wampkit")
    app = _app()
    expired = time.time() - 0.5
    async with serve(app) as server:
        assert await _refused(server, _token(expires=expired)) == "this ticket is not valid: ask for a new one"
    logged = re.search(r"the ticket expired ([\d.]+) s ago", caplog.text)
    assert logged is not None
    assert 0.4 <= float(logged[1]) <= time.time() - expired + 0.1


@pytest.mark.parametrize(("ahead", "good"), [(30, True), (59, True), (61, False), (300, False)])
async def test_the_clock_of_who_issues_may_be_a_little_ahead(ahead: int, good: bool) -> None:
    """A ticket from a server whose clock is up to 60 s ahead is good, one from further ahead is not."""
    # Half a second: the making is counted in whole seconds.
    token = _token(expires=time.time() + ahead + 30, made=int(time.time() + 0.5) + ahead)
    async with serve(_app()) as server:
        if good:
            assert (await _who(server, token))[0] == "eve"
        else:
            await _refused(server, token)


def _token(key: bytes = KEY, made: int | None = None, **changes: Any) -> str:
    """A token as `issue` makes it, but for what is given."""
    ticket = Tickets(key).issue("eve")
    content = json.loads(Fernet(key).decrypt(ticket + "=" * (-len(ticket) % 4))) | changes
    made = int(time.time()) if made is None else made
    return Fernet(key).encrypt_at_time(json.dumps(content).encode(), made).decode().rstrip("=")


# ---- what is no ticket

COOKIE = json.dumps({"created": int(time.time()), "session": {"user": "ann"}}).encode()
NO_TICKETS = {
    "empty": lambda good: "",
    "word": lambda good: "let-me-in",
    "other key": lambda good: Tickets(OTHER).issue("ann"),
    "cut": lambda good: good[:-5],
    "altered": lambda good: "gAAAAB" + "x" * 60 + good[66:],
    "two joined": lambda good: good + Tickets(KEY).issue("ann"),
    "session cookie": lambda good: Fernet(KEY).encrypt(COOKIE).decode(),
    "list": lambda good: Fernet(KEY).encrypt(b"[1]").decode(),
    "no json": lambda good: Fernet(KEY).encrypt(b"hello").decode(),
    "bytes": lambda good: "%FF%FE",
    "null": lambda good: "%00",
    "no utf-8 escape": lambda good: "%zz",
    "not ascii": lambda good: "%C3%A9",
    "long": lambda good: "A" * 5000,
    "two": lambda good: "x&ticket=y",
    "good and none": lambda good: good + "&ticket=",
    "none and good": lambda good: "&ticket=" + good,
    "same twice": lambda good: good + "&ticket=" + good,
}
"""What is sent, made of a ticket that is good as it stands."""


async def test_what_is_no_ticket_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is no good ticket gets 403 with one and the same text; the log has a reason, no ticket, no traceback."""
    caplog.set_level(logging.INFO, "wampkit")
    for row in table(NO_TICKETS.items()):
        with row as (_, make):
            caplog.clear()
            async with serve(_app()) as server:
                good = server.app.tickets.issue("ann")
                sent = make(good)
                assert await _refused(server, sent) == "this ticket is not valid: ask for a new one"
                assert len(server.app.connections) == 0
                if good in sent:
                    assert (await _who(server, good))[0] == "ann", "the ticket itself was good"
            (record,) = [each for each in caplog.records if "refused" in each.getMessage()]
            assert "(" in record.getMessage()
            assert "Traceback" not in caplog.text
            for value in sent.split("&ticket="):
                assert len(value) < 3 or value[:20] not in caplog.text


async def test_a_ticket_is_no_session() -> None:
    """A ticket in the place of a session's cookie, made with the same key, is no session."""
    storage = EncryptedCookieStorage(KeyRing(KEY), max_age=60)
    async with serve(_app(Sessions(storage), Tickets(KEY))) as server:
        ticket = server.app.tickets.issue("ann")
        padded = ticket + "=" * (-len(ticket) % 4)
        peer = await server.peer(headers={"Cookie": f"AIOHTTP_SESSION={padded}"})
        assert (await peer.result("who"))[0] is None


async def test_keys_are_rotated() -> None:
    """Tickets of an older key are taken while it is listed, and not after."""
    async with serve(_app(Tickets(KEY, OLD))) as server:
        assert (await _who(server, Tickets(OLD).issue("ann")))[0] == "ann"
    async with serve(_app(Tickets(KEY))) as server:
        await _refused(server, Tickets(OLD).issue("ann"))


async def test_an_origin_that_is_refused_spends_no_ticket() -> None:
    """A ticket is looked at only once those before it in the list have let the client in."""
    app = _app(AllowOrigins("https://good.example", allow_missing=True), Tickets(KEY))
    async with serve(app) as server:
        ticket = app.tickets.issue("ann")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await server.peer(params={"ticket": ticket}, origin="https://evil.example")
        assert (await _who(server, ticket))[0] == "ann"


# ---- issuing


@rows(
    ("options", "error", "message"),
    [
        ({"user": None}, TypeError, "text or a number"),
        ({"user": ["ann"]}, TypeError, "text or a number"),
        ({"user": ("ann", 1)}, TypeError, "text or a number"),
        ({"user": ...}, TypeError, "text or a number"),
        ({"user": float("nan")}, TypeError, "text or a number"),
        ({"user": "ann", "ttl": 0}, ValueError, "above 0"),
        ({"user": "ann", "ttl": -1}, ValueError, "above 0"),
        ({"user": "ann", "ttl": float("nan")}, ValueError, "above 0"),
        ({"user": "ann", "ttl": 100_000}, ValueError, "86,400"),
        ({"user": "ann", "roles": [1]}, TypeError, "list of names"),
        ({"user": "ann", "attributes": {"x": ...}}, TypeError, "attributes"),
        ({"user": "ann", "attributes": {1: "x"}}, TypeError, "attributes"),
        ({"user": "ann", "attributes": {"x": "x" * 9000}}, ValueError, "too long"),
    ],
)
def test_what_cannot_be_in_a_ticket_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """A ticket that could not be read back as it was meant is not made."""
    with pytest.raises(error, match=message):
        Tickets(KEY).issue(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tickets(), "needs a key"),
        (lambda: Tickets("short"), "key 1 has 5 characters"),
        (lambda: Tickets(None), "environment variable"),
        (lambda: Tickets(KEY, parameter=""), "parameter"),
        (lambda: Tickets(KEY, spent="redis"), "spent"),  # type: ignore[arg-type]  # the point
    ],
)
def test_tickets_that_cannot_work_are_refused(make: Any, message: str) -> None:
    """A mistake in the declaration shows where it is made."""
    with pytest.raises(DeclarationError, match=message):
        make()


@rows(("required", "words"), [(False, "and lets in clients without one"), (True, "and refuses clients without one")])
def test_the_gate_says_whom_it_lets_in(required: bool, words: str) -> None:
    """What `wampkit check` shows of it says whether a ticket is required."""
    assert Tickets(KEY, required=required).describe() == f"takes one-time tickets (?ticket=...) {words}"


def test_an_app_without_tickets_says_so() -> None:
    """`app.tickets` names the fix where there are none."""
    with pytest.raises(RuntimeError, match=r"put Tickets\(key\) into App\(middlewares="):
        _ = App().tickets


# ---- shared between processes


async def test_processes_that_share_their_store_take_a_ticket_once() -> None:
    """With `spent` a ticket that one process has taken is refused by another."""
    store: dict[str, float] = {}

    async def spent(id: str, expires: float) -> bool:
        known = id in store
        store[id] = expires
        return known

    one, two = _app(Tickets(KEY, spent=spent)), _app(Tickets(KEY, spent=spent))
    async with serve(one) as first, serve(two) as second:
        ticket = one.tickets.issue("ann", ttl=20)
        assert (await _who(first, ticket))[0] == "ann"
        await _refused(second, ticket)
        await first.disconnect()
    (expires,) = store.values()
    assert 10 < expires - time.time() <= 20


async def test_a_ticket_is_not_good_again_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used stays used, though the clock has been past its end in between; tickets made since are good."""
    ahead = 0.0
    clock = time.time
    monkeypatch.setattr("time.time", lambda: clock() + ahead)
    async with serve(_app(Tickets(KEY))) as server:
        issue = server.app.tickets.issue
        first = issue("ann", ttl=30)
        assert (await _who(server, first))[0] == "ann"
        ahead = 40.0
        # This is when ids whose time is over are forgotten.
        assert (await _who(server, issue("bob", ttl=30)))[0] == "bob"
        ahead = 5.0
        await _refused(server, first)
        assert (await _who(server, issue("carol", ttl=30)))[0] == "carol"


async def test_a_store_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """While the shared store fails tickets get 503, and those without one pass."""

    async def spent(id: str, expires: float) -> bool:
        raise ConnectionError("no store")

    async with serve(_app(Tickets(KEY, spent=spent))) as server:
        for _ in range(5):
            await _answer(server, f"?ticket={server.app.tickets.issue('ann')}", 503)
        assert (await (await server.peer()).result("who"))[0] is None
    assert caplog.text.count("whether one was used before cannot be told") == 2
    assert "(3 more like this)" in caplog.text


APP = """
from wampkit import App, Tickets
async def spent(id, expires): return False
alone = App(middlewares=[Tickets("{key}")])
together = App(middlewares=[Tickets("{key}", spent=spent)])
"""


async def test_workers_need_a_shared_store(tmp_path: Path) -> None:
    """`wampkit run --workers 2` refuses an app whose workers would each take a ticket once, and no other."""
    write(tmp_path, app=APP.format(key=KEY.decode()))
    done = wampkit("run", "app:alone", "--workers", "2", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "each worker remembers spent tickets by itself" in done.stderr
    assert "spent=" in done.stderr
    assert "Traceback" not in done.stderr
    async with command("run", "app:together", "--workers", "2", "--port", "0", cwd=tmp_path) as running:
        await running.url()


# ---- never logged


UPGRADE = {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "wamp"}


@pytest.mark.parametrize("logger", ["aiohttp.access", "gunicorn.access"])
async def test_the_access_log_shows_no_ticket(logger: str) -> None:
    """aiohttp's access log, gunicorn's too, has the request with its query, and *** in the place of each ticket."""
    app = _app(Tickets(KEY, parameter="pass"))
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    access, keep = logging.getLogger(logger), Keep()
    level, _ = access.level, access.setLevel(logging.INFO)
    access.addHandler(keep)
    site = web.Application()
    app.setup(site, "/ws")
    runner = web.AppRunner(site, access_log=access, access_log_format='%a "%r" %s "%{Referer}i"')
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        good, bad = app.tickets.issue("ann"), Tickets(OTHER).issue("ann")
        base = f"http://{host}:{port}/ws"
        async with aiohttp.ClientSession() as session:
            referer = {"Referer": f"http://x/?pass={good}"}
            async with session.ws_connect(f"{base}?v=1&pass={good}&w=2", protocols=["wamp"], headers=referer) as socket:
                await socket.receive_str()
            for query in (f"pass={bad}", f"%70ass={bad}", f"pass=x&pass={bad}", f"a=b&pass={bad}"):
                url = URL(f"{base}?{query}", encoded=True)
                async with session.get(url, headers=UPGRADE) as answer:
                    assert answer.status == 403
    finally:
        await runner.cleanup()
        access.removeHandler(keep)
        access.setLevel(level)
    assert len(records) == 5
    everything = "\n".join(f"{record.getMessage()} {vars(record)}" for record in records)
    assert good[20:] not in everything
    assert bad[20:] not in everything
    assert "/ws?v=1&pass=***&w=2 " in everything
    assert "&pass=*** " in everything
