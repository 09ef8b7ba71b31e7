"""Logins over the socket: who gets in and as whom, what it grants, and what guessing, replaying and probing get."""

import asyncio
import hmac
import json
import logging
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from wampkit import (
    App,
    Connection,
    Cra,
    Credentials,
    DeclarationError,
    NotAllowed,
    Permissions,
    ProcedurePermission,
    TopicPermission,
    anyone,
    derive_key,
    requires,
)
from wampkit.auth.login_limits import LoginThrottle
from wampkit.networks import client_network

from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in, signature_of
from ..support.tables import rows
from ..support.wire import CALL, PREFIX, PUBLISH, RESULT, Peer, RawPeer, Server, eventually, message, serve

NOTHING = {"rpc": [], "pubsub": []}
SALTED = {"salt": "0bs4lt", "iterations": 1000, "keylen": 32}

ADDING = Permissions(
    rpc=(ProcedurePermission("add"), ProcedurePermission("never", call=False)),
    pubsub=(
        TopicPermission(uri="open", pub=True, sub=True),
        TopicPermission(uri="room/secret", prefix=True),
        TopicPermission(uri="room/", prefix=True, sub=True),
    ),
)

KEYS = {
    "alice": Credentials("s3cr3t"),
    "bob": Credentials(derive_key("p4ss", "0bs4lt", 1000, 32), **SALTED),
    "carol": Credentials("p4ss", derived=False, **SALTED),
    "dave": Credentials("s3cr3t", user=("dave", 7), roles=["staff"], permissions=ADDING),
    "zoë": Credentials("pässwörd"),
}


async def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
    return KEYS.get(authkey)


def demo(lookup: Any = lookup, *, app: dict[str, Any] | None = None, **options: Any) -> App:
    """An app with logins: `whoami`, `add` and `never` after one, `ping` and `me` before it too."""
    made = App(cra=Cra(lookup, **options), **(app or {}))

    @made.rpc("ping", requires=anyone)
    async def ping() -> str:
        return "pong"

    @made.rpc("me", requires=anyone)
    async def me(connection: Connection) -> list[Any]:
        granted = connection.permissions and connection.permissions.as_json()
        return [connection.user, sorted(connection.roles), granted]

    @made.rpc("whoami")
    async def whoami(connection: Connection) -> Any:
        return connection.user

    @made.rpc("add")
    async def add(x: int, y: int) -> int:
        return x + y

    @made.rpc("never")
    async def never() -> None:
        raise AssertionError("nobody was granted this")

    @made.rpc("staff", requires=requires("staff"))
    async def staff() -> str:
        return "staff"

    for topic in ("open", "closed", "room/{name}"):
        made.topic(topic, relay=True)
    return made


# ---- logging in


async def test_a_login_establishes_who_it_is() -> None:
    """The user is the authkey, and the app finds the connection by it."""
    app = demo()
    async with serve(app) as server:
        peer = await server.peer()
        assert await peer.result("me") == [None, [], None]
        assert await log_in(peer) == [RESULT, "call-3", NOTHING]
        assert await peer.result("me") == ["alice", [], None]
        assert await peer.result("whoami") == "alice"
        assert app.connections(user="alice") == [server.connection(peer)]
        assert app.counters.logins == 1


async def test_credentials_say_who_it_is_and_what_it_may_do() -> None:
    """User, roles and permissions of the credentials are the connection's, and the client is told the permissions."""
    app = demo()
    async with serve(app) as server:
        peer = await server.peer()
        answer = await log_in(peer, "dave")
        assert answer[2] == ADDING.as_json()
        assert answer[2]["rpc"] == [{"uri": "add", "call": True}, {"uri": "never", "call": False}]
        assert await peer.result("me") == [["dave", 7], ["staff"], ADDING.as_json()]
        assert len(app.connections(user=("dave", 7))) == 1


@pytest.mark.parametrize(("authkey", "secret"), [("bob", "p4ss"), ("carol", "p4ss"), ("zoë", "pässwörd")])
async def test_each_form_of_secret_logs_in(authkey: str, secret: str) -> None:
    """Salted keys that are stored or derived, and secrets that are not ASCII; the wrong password does not."""
    async with serve(demo()) as server:
        peer = await server.peer()
        assert code_of(await log_in(peer, authkey, "wrong")) == "invalid-signature"
        assert code_of(await log_in(peer, authkey, secret)) == "ok"
        assert await peer.result("whoami") == authkey


async def test_the_client_is_told_all_of_the_salting() -> None:
    """Clients differ in what they take for granted, so the challenge says all three."""
    async with serve(demo()) as server:
        challenge = json.loads(await ask(await server.peer(), "bob"))
        assert challenge["authextra"] == SALTED


async def test_a_plain_lookup_runs_in_a_thread() -> None:
    """`def` may block; it is given the authkey and what the client sent along."""
    seen: list[Any] = []

    def plain(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        seen.append((threading.current_thread() is threading.main_thread(), authkey, extra))
        return KEYS.get(authkey)

    async with serve(demo(plain)) as server:
        peer = await server.peer()
        assert code_of(await log_in(peer, "alice", "s3cr3t", {"app": "x"})) == "ok"
        assert seen == [(False, "alice", {"app": "x"})]


async def test_the_login_passes_no_middleware() -> None:
    """Middlewares see what is called after the login, and neither secrets nor signatures."""
    seen: list[str] = []

    async def middleware(message: Any, call_next: Any) -> Any:
        seen.append(message.uri)
        return await call_next(message)

    async with serve(demo(app={"middlewares": [middleware]})) as server:
        peer = await server.peer()
        assert code_of(await log_in(peer)) == "ok"
        assert await peer.result("whoami") == "alice"
    assert seen == ["whoami"]


async def test_without_cra_there_is_no_login() -> None:
    """The two procedures exist only where the app has `cra`."""
    async with serve(App()) as server:
        peer = await server.peer()
        assert code_of(await peer.call(AUTHREQ, "alice")) == "NoSuchRPCEndpoint"
        assert code_of(await peer.call(AUTH, "x")) == "NoSuchRPCEndpoint"


# ---- what is granted


async def test_before_a_login_there_is_nothing() -> None:
    """Calls find no procedure, subscriptions and publications have no effect, and open routes work."""
    async with serve(demo()) as server:
        member, peer = await server.peer(), await server.peer()
        await log_in(member)
        await member.subscribe("open")
        await peer.subscribe("open")
        await peer.send(PUBLISH, "open", "from nobody")
        await peer.settle()
        assert code_of(await peer.call("add", 1, 2)) == "NoSuchRPCEndpoint"
        assert await peer.result("ping") == "pong"
        await member.send(PUBLISH, "open", "from alice", False)
        assert await member.events(1) == ["from alice"]
        await peer.nothing()


async def test_what_was_not_granted_is_refused() -> None:
    """Permissions hold for calls, subscriptions and publications, and the first topic rule that fits decides."""
    async with serve(demo()) as server:
        peer, other = await server.peer(), await server.peer()
        await log_in(peer, "dave")
        await log_in(other)
        assert await peer.result("add", 1, 2) == 3
        for procedure in ("never", "whoami"):
            assert code_of(await peer.call(procedure)) == "not_authorized"
        for topic in ("open", "closed", "room/lobby", "room/secret", "room/secrets"):
            await peer.subscribe(topic)
        assert server.connection(peer).topics == ("open", "room/lobby")
        for topic in ("closed", "room/lobby", "open"):
            await other.subscribe(topic)
        for topic in ("closed", "room/lobby", "open"):
            await peer.send(PUBLISH, topic, topic)
        await peer.settle()
        assert await other.events(1) == ["open"]
        await other.nothing()


@pytest.mark.parametrize("spelling", ["p:never", "n:", "ne:ver", "nev:er"])
async def test_a_prefix_is_no_way_round(spelling: str) -> None:
    """What is granted is the URI that a CURIE resolves to."""
    prefixes = {"p": "", "n": "never", "ne": "ne", "nev": "nev"}
    async with serve(demo()) as server:
        peer = await server.peer()
        await log_in(peer, "dave")
        for prefix, uri in prefixes.items():
            await peer.send(PREFIX, prefix, uri)
        assert code_of(await peer.call(spelling)) == "not_authorized"


async def test_roles_count_beside_permissions() -> None:
    """A route's own rule must hold as well as the grant."""
    keys = {
        "clerk": Credentials("s3cr3t", roles=["staff"]),
        "guest": Credentials("s3cr3t"),
        "ungranted": Credentials("s3cr3t", roles=["staff"], permissions=Permissions()),
    }
    async with serve(demo(lambda authkey, extra: keys.get(authkey))) as server:
        outcomes = {}
        for authkey in keys:
            peer = await server.peer()
            await log_in(peer, authkey)
            outcomes[authkey] = code_of(await peer.call("staff"))
    assert outcomes == {"clerk": "ok", "guest": "not_authorized", "ungranted": "not_authorized"}


# ---- as nobody


async def by_extra(extra: dict[str, Any]) -> Permissions:
    return ADDING if extra.get("adds") else Permissions()


@pytest.mark.parametrize(
    ("anonymous", "granted"),
    [(True, NOTHING), (ADDING, ADDING.as_json()), (by_extra, ADDING.as_json()), (lambda _: ADDING, ADDING.as_json())],
    ids=["True", "Permissions", "async def", "def"],
)
async def test_an_anonymous_login_grants_what_the_app_says(anonymous: Any, granted: Any) -> None:
    """Nobody is nobody still, with some permissions."""
    app = demo(anonymous=anonymous)
    async with serve(app) as server:
        peer = await server.peer()
        assert await ask(peer, None, {"adds": True}) is None
        assert (await peer.call(AUTH, None))[2] == granted
        assert await peer.result("me") == [None, [], granted]
        assert code_of(await peer.call("whoami")) == "not_authorized"
        assert code_of(await peer.call("add", 1, 2)) == ("ok" if granted != NOTHING else "not_authorized")


async def test_anonymous_logins_are_off_unless_asked_for() -> None:
    """The default allows none, whichever way they are asked for."""
    async with serve(demo()) as server:
        peer = await server.peer()
        for args in ([], [None], [None, None], [None, {}]):
            assert code_of(await peer.call(AUTHREQ, *args)) == "anonymous-auth-forbidden"
        assert code_of(await peer.call(AUTH)) == "no-authentication-requested"


@pytest.mark.parametrize("wrong", [RuntimeError("private matters"), None, {"rpc": []}])
async def test_permissions_that_cannot_be_found_out(wrong: Any) -> None:
    """The client is told so in the words of the protocol and no others; the app is told why."""
    told: list[BaseException] = []

    async def anonymous(extra: dict[str, Any]) -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    app = demo(anonymous=anonymous)

    @app.on_error
    async def failed(error: BaseException, connection: Connection) -> None:
        told.append(error)

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call(AUTHREQ)
        assert code_of(answer) == "auth-permissions-error"
        assert "private" not in json.dumps(answer)
        assert code_of(await log_in(peer)) == "ok"
    assert [type(error) for error in told] == [type(wrong) if isinstance(wrong, Exception) else TypeError]


# ---- lookups that fail


async def test_a_lookup_that_raises_lets_nobody_in() -> None:
    """The caller learns nothing, the app's error hook everything, and another attempt may succeed."""
    told: list[BaseException] = []
    broken = True

    async def flaky(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        if broken:
            raise ConnectionError("postgres://user:password@db is down")
        return KEYS.get(authkey)

    app = demo(flaky)

    @app.on_error
    async def failed(error: BaseException, connection: Connection) -> None:
        told.append(error)

    async with serve(app) as server:
        peer = await server.peer()
        answer = await peer.call(AUTHREQ, "alice")
        assert code_of(answer) == "generic"
        assert "postgres" not in json.dumps(answer)
        assert [type(error) for error in told] == [ConnectionError]
        assert code_of(await peer.call(AUTH, "x")) == "no-authentication-requested"
        broken = False
        assert code_of(await log_in(peer)) == "ok"


@pytest.mark.parametrize("wrong", ["s3cr3t", True, {"secret": "s3cr3t"}])
async def test_a_lookup_that_gives_nonsense_lets_nobody_in(wrong: Any) -> None:
    """What is neither Credentials nor None is a mistake of the app's, not a login."""
    async with serve(demo(lambda authkey, extra: wrong)) as server:
        peer = await server.peer()
        answer = await peer.call(AUTHREQ, "alice")
        assert code_of(answer) == "generic"
        assert "s3cr3t" not in json.dumps(answer)


async def test_a_lookup_may_refuse_in_its_own_words() -> None:
    """A WampError reaches the client as it is."""

    async def locked(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        raise NotAllowed("this account is locked")

    async with serve(demo(locked)) as server:
        answer = await (await server.peer()).call(AUTHREQ, "alice")
        assert answer[2:] == ["http://api.wamp.ws/error#not_authorized", "this account is locked"]


# ---- the order of things


async def test_the_steps_have_an_order() -> None:
    """What comes too early, twice or too late is refused by name, and grants nothing."""
    async with serve(demo(anonymous=True)) as server:
        peer = await server.peer()
        signature = signature_of("{}", "s3cr3t")
        for early in ([], [None], [""], [signature]):
            assert code_of(await peer.call(AUTH, *early)) == "no-authentication-requested"
        challenge = await ask(peer)
        for again in (["alice"], ["bob"], [None], []):
            assert code_of(await peer.call(AUTHREQ, *again)) == "authentication-already-requested"
        # Half of a login is none.
        assert code_of(await peer.call("whoami")) == "NoSuchRPCEndpoint"
        assert await peer.result("me") == [None, [], None]
        assert code_of(await peer.call(AUTH, signature_of(challenge, "s3cr3t"))) == "ok"
        for late in ([AUTHREQ, "alice"], [AUTHREQ, "bob"], [AUTHREQ], [AUTH, "x"], [AUTH], [AUTH, 5]):
            assert code_of(await peer.call(*late)) == "already-authenticated"
        assert await peer.result("whoami") == "alice"


async def test_a_login_under_way_cannot_be_overtaken() -> None:
    """While the app looks a key up nothing else of that login is taken."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(authkey: str, extra: dict[str, Any]) -> Credentials | None:
        asked.set()
        await answered.wait()
        return KEYS.get(authkey)

    async with serve(demo(slow, anonymous=True)) as server:
        peer = await server.peer()
        await peer.send(CALL, "first", AUTHREQ, "alice")
        await asyncio.wait_for(asked.wait(), 5)
        assert code_of(await peer.call(AUTHREQ, "bob")) == "authentication-already-requested"
        assert code_of(await peer.call(AUTHREQ)) == "authentication-already-requested"
        assert code_of(await peer.call(AUTH)) == "no-authentication-requested"
        answered.set()
        challenge = (await peer.answer("first"))[2]
        assert code_of(await peer.call(AUTH, signature_of(challenge, "s3cr3t"))) == "ok"


async def test_two_answers_at_once_are_one_answer() -> None:
    """A second answer finds no challenge any more while the first one's key is still derived."""
    app = demo()
    async with serve(app) as server:
        peer = await server.peer()
        signature = signature_of(await ask(peer, "carol"), "p4ss")
        for number in range(5):
            await peer.send(CALL, f"auth-{number}", AUTH, signature)
        answers = [code_of(await peer.answer(f"auth-{number}")) for number in range(5)]
        assert answers[0] == "ok"
        assert set(answers[1:]) <= {"no-authentication-requested", "already-authenticated"}
        assert app.counters.logins == 1


@rows(
    ("args", "wanted"),
    [
        ([5], "invalid-argument"),
        ([["alice"]], "invalid-argument"),
        ([{"authkey": "alice"}], "invalid-argument"),
        ([True], "invalid-argument"),
        (["alice", "extra"], "invalid-argument"),
        (["alice", ["extra"]], "invalid-argument"),
        (["alice", 5], "invalid-argument"),
        ([5, 5], "invalid-argument"),
        ([None, "extra"], "invalid-argument"),
        (["a" * 1025], "invalid-argument"),
        (["alice", {"x": "y" * 20_000}], "invalid-argument"),
        (["alice", None, 1], "invalid-argument"),
        ([""], "ok"),
        (["a" * 1024], "ok"),
        (["alice", {}], "ok"),
        (["alice", {"\ud800": ["\udfff", 10**18, 1.5, None]}], "ok"),
    ],
)
async def test_the_arguments_of_a_request(args: list[Any], wanted: str) -> None:
    """Whatever does not fit is an invalid argument, and the connection can log in afterwards."""
    async with serve(demo()) as server:
        peer = await server.peer()
        answer = await peer.call(AUTHREQ, *args)
        assert code_of(answer) == wanted
        if wanted != "ok":
            assert code_of(await log_in(peer)) == "ok"


# ---- replaying


async def test_a_challenge_takes_one_signature() -> None:
    """After a wrong one the right one is too late, and after the right one too; elsewhere it never counted."""
    async with serve(demo()) as server:
        first, second, third = [await server.peer() for _ in range(3)]
        challenge = await ask(first)
        signature = signature_of(challenge, "s3cr3t")
        assert code_of(await second.call(AUTH, signature)) == "no-authentication-requested"
        await ask(third)
        assert code_of(await third.call(AUTH, signature)) == "invalid-signature"
        assert code_of(await first.call(AUTH, signature[::-1])) == "invalid-signature"
        assert code_of(await first.call(AUTH, signature)) == "no-authentication-requested"
        assert await ask(first) != challenge
        assert code_of(await first.call(AUTH, signature)) == "invalid-signature"
        for peer in (first, second, third):
            assert await peer.result("me") == [None, [], None]


async def test_a_signature_is_no_use_after_its_connection() -> None:
    """A captured login says nothing to the next connection, of the same key and the same address."""
    async with serve(demo()) as server:
        first = await server.peer()
        signature = signature_of(await ask(first), "s3cr3t")
        assert code_of(await first.call(AUTH, signature)) == "ok"
        await first.close()
        second = await server.peer()
        assert code_of(await second.call(AUTH, signature)) == "no-authentication-requested"
        await ask(second)
        assert code_of(await second.call(AUTH, signature)) == "invalid-signature"


async def test_a_challenge_does_not_last() -> None:
    """When its time is over the right signature is too late, and another challenge may be asked for."""
    async with serve(demo(challenge_ttl=0.2)) as server:
        peer = await server.peer()
        signature = signature_of(await ask(peer), "s3cr3t")
        # A number is an invalid argument for as long as there is a challenge.
        while (code := code_of(await peer.call(AUTH, 5))) == "invalid-argument":
            pass
        assert code == "no-authentication-requested"
        assert code_of(await peer.call(AUTH, signature)) == "no-authentication-requested"
        assert await peer.result("me") == [None, [], None]
        assert code_of(await log_in(peer)) == "ok"


# ---- guessing


async def test_every_malformed_signature_gets_the_same_answer() -> None:
    """Texts and null are wrong signatures, other types invalid arguments, for known keys as for unknown ones."""
    texts = ["", "x", "é" * 44, "\ud800" * 44, "\0" * 44, "A" * 43 + "=", "A" * 45, "K" * 1_000_000, None]
    others = [5, 1.5, True, [], ["x"], {}, {"signature": "x"}]
    answers: dict[str, set[str]] = {"texts": set(), "others": set()}
    app = demo(attempts=100, failures_per_minute=None)
    async with serve(app) as server:
        peer = await server.peer()
        for authkey in ("alice", "nobody"):
            for text in texts:
                await ask(peer, authkey)
                answers["texts"].add(json.dumps((await peer.call(AUTH, text))[2:]))
            await ask(peer, authkey)
            for other in others:
                answers["others"].add(json.dumps((await peer.call(AUTH, other))[2:]))
            assert code_of(await peer.call(AUTH, "x")) == "invalid-signature"
        assert len(answers["texts"]) == len(answers["others"]) == 1
        assert "#invalid-signature" in answers["texts"].pop()
        assert "#invalid-argument" in answers["others"].pop()
        assert app.counters.failed_logins == 2 * (len(texts) + 1)
        assert peer.close_code is None


async def test_a_connection_has_five_attempts() -> None:
    """The fifth failure is answered, and then the connection is closed with 1008."""
    async with serve(demo()) as server:
        peer = await server.peer()
        for _ in range(4):
            assert code_of(await log_in(peer, "alice", "wrong")) == "invalid-signature"
        assert peer.close_code is None
        assert code_of(await log_in(peer, "alice", "wrong")) == "invalid-signature"
        assert await peer.closed() == (1008, "too many logins have failed")


async def test_no_attempt_slips_in_behind_the_last() -> None:
    """Messages that were sent together with the last attempt get no challenge any more."""
    app = demo(attempts=1)
    async with serve(app) as server:
        peer = await server.raw()
        burst = [(CALL, "r1", AUTHREQ, "alice"), (CALL, "a1", AUTH, "x"), (CALL, "r2", AUTHREQ, "alice")]
        await peer.send(b"".join(message(*each) for each in [*burst, (CALL, "a2", AUTH, "x")]))
        answers = {}
        while (frame := await peer.read_frame())[0] == 1:
            answer = json.loads(frame[1])
            answers[answer[1]] = code_of(answer)
        assert answers == {
            "r1": "ok",
            "a1": "invalid-signature",
            "r2": "too-many-attempts",
            "a2": "no-authentication-requested",
        }
        assert app.counters.failed_logins == 1


async def guess(server: Server, times: int) -> list[str]:
    """So many guesses by one client, which connects again when it is closed."""
    codes: list[str] = []
    peer = await Peer.open(server.url)
    for number in range(times):
        answer = await peer.call(AUTHREQ, "alice")
        if answer[0] == RESULT:
            answer = await peer.call(AUTH, signature_of(answer[2], f"guess {number}"))
        codes.append(code_of(answer))
        await asyncio.sleep(0)
        if codes.count("invalid-signature") % 5 == 0 and codes[-1] == "invalid-signature":
            await peer.closed()
            await peer.close()
            peer = await Peer.open(server.url)
    await peer.close()
    return codes


async def test_a_thousand_guesses_are_hardly_looked_at() -> None:
    """None gets in, at most ten and what a minute lets pass cost an HMAC, and the rest are refused unseen."""
    app = demo()
    loop = asyncio.get_running_loop()
    async with serve(app) as server:
        started = loop.time()
        codes = await guess(server, 1000)
        minutes = (loop.time() - started) / 60
        seen = codes.count("invalid-signature")
        assert 10 <= seen <= 10 + 10 * minutes + 1
        assert codes.count("too-many-attempts") == 1000 - seen
        assert (app.counters.failed_logins, app.counters.throttled_logins) == (seen, 1000 - seen)
        assert app.counters.logins == 0


async def test_guesses_from_many_connections_are_counted_together() -> None:
    """A hundred connections that guess ten times each have as many guesses as one."""
    app = demo()
    loop = asyncio.get_running_loop()
    async with serve(app) as server:
        peers = [await server.peer() for _ in range(100)]
        started = loop.time()

        async def attack(peer: Peer) -> None:
            for _ in range(10):
                answer = await peer.call(AUTHREQ, "alice")
                if answer[0] == RESULT and peer.close_code is None:
                    await peer.call(AUTH, "guess")

        await asyncio.gather(*map(attack, peers))
        minutes = (loop.time() - started) / 60
        assert 1 <= app.counters.failed_logins <= 10 + 10 * minutes + 1
        assert app.counters.logins == 0


async def test_a_right_signature_is_refused_too_where_too_many_failed() -> None:
    """Where somebody guessed not even the right secret is looked at, but anonymous logins are; elsewhere it is."""
    app = demo(anonymous=True, failures_per_minute=2)
    async with serve(app) as server:
        guesser = await server.peer()
        waiting = await server.peer()
        signature = signature_of(await ask(waiting), "s3cr3t")
        for _ in range(2):
            assert code_of(await log_in(guesser, "alice", "wrong")) == "invalid-signature"
        assert code_of(await guesser.call(AUTHREQ, "alice")) == "too-many-attempts"
        assert code_of(await waiting.call(AUTH, signature)) == "too-many-attempts"
        assert await ask(guesser, None) is None
        assert code_of(await guesser.call(AUTH)) == "ok"
        elsewhere = await server.raw(source="127.0.0.2")
        assert await logged_in_raw(elsewhere)


async def logged_in_raw(peer: RawPeer, authkey: str = "alice", secret: str = "s3cr3t") -> bool:
    """Whether a raw client gets a challenge, and in."""
    await peer.send_message(CALL, "r", AUTHREQ, authkey)
    answer = await peer.read_message()
    if answer[0] != RESULT:
        return False
    await peer.send_message(CALL, "a", AUTH, signature_of(answer[2], secret))
    return (await peer.read_message())[0] == int(RESULT)


async def test_guesses_from_many_addresses_are_counted_by_authkey() -> None:
    """Ten times as many failures of one key as of one address, then only the other keys can log in."""
    app = demo(failures_per_minute=1)
    async with serve(app) as server:
        for number in range(10):
            assert not await logged_in_raw(await server.raw(source=f"127.0.1.{number + 1}"), "alice", "wrong")
        assert app.counters.failed_logins == 10
        assert not await logged_in_raw(await server.raw(source="127.0.2.1"))
        assert app.counters.throttled_logins == 1
        assert await logged_in_raw(await server.raw(source="127.0.2.1"), "zoë", "pässwörd")


async def test_logins_that_succeed_do_not_count() -> None:
    """Any number of right logins come from one address."""
    app = demo(failures_per_minute=1)
    async with serve(app) as server:
        for _ in range(20):
            assert code_of(await log_in(await server.peer())) == "ok"
        assert app.counters.logins == 20


def test_who_has_no_address_is_counted_by_authkey() -> None:
    """As on a unix socket; a login that did not fail is given back, and without a bound nothing is counted."""
    throttle = LoginThrottle(1)
    assert [throttle.take(None, "alice") for _ in range(11)] == [True] * 10 + [False]
    assert throttle.is_exhausted(None, "alice")
    throttle.give_back(None, "alice")
    assert not throttle.is_exhausted(None, "alice")
    unbounded = LoginThrottle(None)
    unbounded.take(None, "alice")
    unbounded.give_back(None, "alice")
    assert (unbounded.is_exhausted(None, "alice"), len(unbounded)) == (False, 0)


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    """Ten thousand addresses and authkeys are kept, and those that guess go on being refused."""
    throttle = LoginThrottle(1)
    assert throttle.take("192.0.2.1", "alice")
    for number in range(20_000):
        throttle.take(f"198.51.{number >> 8}.{number & 255}", f"key {number}")
        assert not throttle.take("192.0.2.1", "alice")
    assert len(throttle) == 20_000


def test_what_is_remembered_of_guesses_does_not_grow_with_their_length() -> None:
    """An authkey of the greatest length costs no more memory than a short one."""
    taken = []
    for length in (1, 1000):
        throttle = LoginThrottle(1)
        tracemalloc.start()
        for number in range(500):
            throttle.take(None, f"{number:0{length}}\U0001f600")
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert taken[1] < 1.1 * taken[0]


@rows(
    ("remote", "owner"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("what a proxy said", "what a proxy said"),
    ],
)
def test_an_ipv6_client_is_its_network(remote: str, owner: str) -> None:
    """Whoever has one IPv6 address has 2**64 of them."""
    assert client_network(remote) == owner


# ---- what unknown keys tell


async def transcript(server: Server, authkey: str) -> list[Any]:
    """All that a client sees of a login with a wrong secret, its random parts replaced by their form."""
    peer = await server.peer()
    answers = [await peer.call(AUTHREQ, authkey, {"app": "x"}), await peer.call(AUTH, "A" * 43 + "=")]
    challenge = json.loads(answers[0][2])
    extra = challenge.get("authextra", {"salt": ""})
    random = {
        "authid": challenge["authid"],
        "authkey": challenge["authkey"],
        "timestamp": challenge["timestamp"],
        "sessionid": challenge["sessionid"],
        "salt": extra["salt"],
    }
    assert challenge["authkey"] == authkey
    assert challenge["sessionid"] == peer.id
    text = json.dumps(answers)
    for name, value in random.items():
        if value:
            text = text.replace(value, f"<{name}: {len(value)} characters>")
    return [text, all(each in "0123456789abcdef" for each in extra["salt"])]


@pytest.mark.parametrize("kind", ["unsalted", "salted", "derives"])
async def test_an_unknown_key_looks_like_a_known_one(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The two transcripts differ in their random parts alone, whichever way the app keeps its secrets."""
    salt = "0123456789abcdef" * 2
    salting: dict[str, Any] = {"salt": salt, "iterations": 2000, "keylen": 48} if kind != "unsalted" else {}
    known = Credentials("key", derived=kind != "derives", permissions=ADDING, **salting)
    options: dict[str, Any] = {"salted": (2000, 48)} if salting else {}
    app = demo(lambda authkey, extra: known if authkey == "known" else None, derives=kind == "derives", **options)
    async with serve(app) as server:
        seen = await transcript(server, "known")
        for authkey in ("nobody", "nobod2"):
            assert await transcript(server, authkey) == [seen[0].replace("5 characters", "6 characters"), seen[1]]
        assert app.counters.failed_logins == 3
    assert "can be told from" not in caplog.text


async def test_nothing_is_permitted_in_a_challenge() -> None:
    """What a login would grant is told to whoever has proved the secret, and to nobody before."""
    async with serve(demo()) as server:
        assert json.loads(await ask(await server.peer(), "dave"))["permissions"] == NOTHING


async def test_an_unknown_key_keeps_its_salt() -> None:
    """Asked for again it is the same, in another process that has the same decoy key too; other keys have others."""

    async def salts(decoy_key: bytes | None) -> list[str]:
        options = {"salted": (1000, 32), "decoy_key": decoy_key}
        async with serve(demo(**options)) as server:
            asked = ["mallory", "mallory", "oscar"]
            return [json.loads(await ask(await server.peer(), each))["authextra"]["salt"] for each in asked]

    first, again = await salts(b"sixteen bytes or more"), await salts(b"sixteen bytes or more")
    assert first == again
    assert first[0] == first[1] != first[2]
    assert await salts(b"sixteen other bytes...") != first
    assert await salts(None) != await salts(None)


async def test_an_unknown_key_never_gets_in() -> None:
    """Not even with the secret that its challenge is compared with."""
    decoy_key = b"sixteen bytes or more"
    async with serve(demo(decoy_key=decoy_key)) as server:
        for authkey in ("mallory", "alice"):
            secret = hmac.new(decoy_key, f"secret {authkey}".encode(), "sha256").hexdigest()
            assert code_of(await log_in(await server.peer(), authkey, secret)) == "invalid-signature"


async def test_keys_that_are_not_alike_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns once that unknown keys can be told from known ones, and what to write instead."""
    async with serve(demo()) as server:
        for authkey in ("alice", "bob", "bob"):
            await ask(await server.peer(), authkey)
    lines = [record.message for record in caplog.records if "can be told from" in record.message]
    assert len(lines) == 1
    assert "'bob'" in lines[0]
    assert "salted=(1000, 32)" in lines[0]


async def test_the_old_answers_are_an_option() -> None:
    """`hide_unknown_keys=False` names unknown keys, and counts them as failures."""
    app = demo(hide_unknown_keys=False, attempts=3, salted=None)
    async with serve(app) as server:
        peer = await server.peer()
        assert json.loads(await ask(await server.peer(), "dave"))["permissions"] == ADDING.as_json()
        for _ in range(3):
            assert code_of(await peer.call(AUTHREQ, "nobody")) == "no-such-authkey"
        assert (await peer.closed())[0] == 1008
        assert app.counters.failed_logins == 3


# ---- the time for it


async def test_who_does_not_log_in_in_time_is_closed() -> None:
    """1008 and the reason, for who does nothing, who asks only, and who fails; not for who has logged in."""
    async with serve(demo(timeout=0.5, anonymous=True)) as server:
        member, nobody = await server.peer(), await server.peer()
        await log_in(member)
        await ask(nobody, None)
        assert code_of(await nobody.call(AUTH)) == "ok"
        # These come later, so that the time of the others is over when theirs is.
        idle, asking, failing = [await server.peer() for _ in range(3)]
        await ask(asking)
        await log_in(failing, "alice", "wrong")
        for late in (idle, asking, failing):
            assert await late.closed() == (1008, "no login within 0.5 s")
        assert await member.result("whoami") == "alice"
        assert await nobody.result("ping") == "pong"


class Door:
    """Lets the user be whom the query names."""

    async def connect(self, connection: Connection) -> None:
        connection.user = connection.request.query.get("user")


async def test_whom_the_door_knows_needs_no_login() -> None:
    """A user of a middleware may do what the app's rules allow, and has no time limit."""
    async with serve(demo(timeout=0.3, app={"middlewares": [Door()]})) as server:
        known = await Peer.open(f"{server.url}?user=erin")
        unknown = await server.peer()
        assert await known.result("whoami") == "erin"
        assert (await unknown.closed())[0] == 1008
        assert await known.result("whoami") == "erin"
        await known.close()


async def test_a_time_limit_can_be_left_out() -> None:
    """With `timeout=None` a connection outlives those of another app that has a limit."""
    async with serve(demo(timeout=None)) as patient:
        stays = await patient.peer()
        async with serve(demo(timeout=0.2)) as other:
            assert (await (await other.peer()).closed())[0] == 1008
        assert await stays.result("ping") == "pong"


async def test_a_hundred_connections_wait_without_a_task() -> None:
    """Each is closed in its time; until then the limit costs them no task, and afterwards none is left."""

    async def tasks_of(app: App) -> int:
        async with serve(app) as server:
            peers = [await RawPeer.open(server.port) for _ in range(100)]
            tasks = len(asyncio.all_tasks())
            for peer in peers:
                if app.counters.connections and app is limited:
                    assert await peer.read_close() == (1008, "no login within 0.3 s")
                peer.close()
            return tasks

    limited = demo(timeout=0.3)
    assert await tasks_of(limited) == await tasks_of(demo(timeout=None))


async def test_connections_that_are_gone_leave_nothing() -> None:
    """Neither those that logged in nor those that did not are held by anything when they have gone."""
    async with serve(demo()) as server:
        peers = [await server.peer() for _ in range(10)]
        for peer in peers[:5]:
            await log_in(peer)
        gone = [weakref.ref(server.connection(peer)) for peer in peers]
        await server.disconnect()
        await eventually(lambda: not any(each() for each in gone), "no connection is held")


# ---- beside the door


async def test_a_login_replaces_the_user_of_the_door() -> None:
    """A keyed login proves more than the door knew; an anonymous one would only lose it, so it is refused."""
    async with serve(demo(anonymous=True, app={"middlewares": [Door()]})) as server:
        peer = await Peer.open(f"{server.url}?user=erin")
        assert code_of(await peer.call(AUTHREQ)) == "already-authenticated"
        assert await peer.result("whoami") == "erin"
        assert code_of(await log_in(peer)) == "ok"
        assert await peer.result("whoami") == "alice"
        assert server.app.connections(user="erin") == []
        await peer.close()


async def test_a_login_takes_away_what_it_does_not_grant() -> None:
    """Subscriptions of before end where the new permissions do not hold them."""
    async with serve(demo(app={"middlewares": [Door()]})) as server:
        peer = await Peer.open(f"{server.url}?user=erin")
        for topic in ("open", "closed", "room/lobby"):
            await peer.subscribe(topic)
        assert server.connection(peer).topics == ("open", "closed", "room/lobby")
        await log_in(peer, "dave")
        assert server.connection(peer).topics == ("open", "room/lobby")
        await peer.close()


# ---- work off the loop


async def test_logins_hold_up_nobody() -> None:
    """Fifty clients whose keys are derived wait for them while each of their other calls is answered."""
    slow = Credentials("p4ss", salt="0bs4lt", iterations=1_000_000, keylen=64, derived=False)
    app = demo(lambda authkey, extra: slow, salted=(1_000_000, 64), derives=True, failures_per_minute=None)
    async with serve(app) as server:
        peers = [await server.peer() for _ in range(50)]
        for peer in peers:
            await ask(peer)
            await peer.send(CALL, "auth", AUTH, "A" * 44)
        # A connection's messages are taken in order, so each login is under way when its ping is answered.
        assert await asyncio.gather(*[peer.result("ping") for peer in peers]) == ["pong"] * 50
        assert app.counters.failed_logins == 0, "a login was over before the pings were answered"
        assert code_of(await peers[0].answer("auth")) == "invalid-signature"


async def overtaken(peer: RawPeer, authkey: str, secret: str) -> bool:
    """Whether a call that was sent together with an attempt is answered before it, since the attempt needs a thread."""
    await peer.send_message(CALL, "authreq", AUTHREQ, authkey)
    signature = signature_of((await peer.read_message())[2], secret)
    await peer.send(message(CALL, "auth", AUTH, signature) + message(CALL, "ping", "ping"))
    answers = [await peer.read_message() for _ in range(2)]
    return answers[0][1] == "ping"


async def test_a_key_is_derived_once_a_connection() -> None:
    """A second attempt with the same password needs no thread."""
    app = demo(salted=(1000, 32), derives=True)
    async with serve(app) as server:
        peer = await server.raw()
        attempts = [await overtaken(peer, "carol", secret) for secret in ("wrong", "wrong", "p4ss")]
        assert attempts == [True, False, False]
        assert app.counters.logins == 1


@pytest.mark.parametrize("derives", [True, False])
async def test_an_unknown_key_costs_what_a_known_one_does(derives: bool) -> None:
    """It is derived where known ones are, and not where they are not."""
    async with serve(demo(salted=(1000, 32), derives=derives)) as server:
        for authkey in ("carol" if derives else "bob", "nobody"):
            assert await overtaken(await server.raw(), authkey, "wrong") is derives


# ---- what is written


async def test_failed_logins_are_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """One line, at info, that names the key with its control characters escaped, and neither signature nor secret."""
    caplog.set_level(logging.INFO, logger="wampkit")
    async with serve(demo()) as server:
        peer = await server.peer()
        signature = signature_of(await ask(peer, "al\x1b[2Jice\n"), "s3cr3t")
        await peer.call(AUTH, signature)
        await log_in(await server.peer(), "alice", "s3cr3T")
    lines = [record for record in caplog.records if "login" in record.message]
    assert [record.levelname for record in lines] == ["INFO", "INFO"]
    assert r"'al\x1b[2Jice\n'" in lines[0].message
    assert "wrong signature for 'alice'" in lines[1].message
    for secret in ("s3cr3t", signature, "\x1b", "\n"):
        assert all(secret not in record.message for record in lines)


# ---- what an app may say


def test_secrets_do_not_show() -> None:
    """Neither what a lookup gives nor what the app was told prints a secret."""
    shown = repr(Credentials("s3cr3t", salt="0bs4lt")) + repr(Cra(lookup, decoy_key=b"sixteen bytes or more"))
    assert "s3cr3t" not in shown
    assert "0bs4lt" not in shown
    assert "sixteen" not in shown


@rows(
    ("make", "wanted"),
    [
        (lambda: Credentials(b"s3cr3t"), "text"),
        (lambda: Credentials("s", salt=5), "text"),
        (lambda: Credentials("s", salt=""), "ASCII"),
        (lambda: Credentials("s", salt="ß"), "ASCII"),
        (lambda: Credentials("s", salt="s", iterations=999), "from 1000 to 1000000"),
        (lambda: Credentials("s", salt="s", iterations=1_000_001), "from 1000 to 1000000"),
        (lambda: Credentials("s", salt="s", iterations=1000.0), "whole number"),
        (lambda: Credentials("s", salt="s", keylen=0), "from 1 to 1024"),
        (lambda: Credentials("s", user=[]), "unhashable"),
        (lambda: Credentials("s", roles="staff"), "list of names"),
        (lambda: Credentials("s", permissions={"rpc": []}), "wampkit.Permissions"),
    ],
)
def test_credentials_that_cannot_work_say_so(make: Callable[[], object], wanted: str) -> None:
    """The lookup fails with a sentence about what is wrong."""
    with pytest.raises((TypeError, ValueError), match=wanted):
        make()


@rows(
    ("options", "wanted"),
    [
        ({"lookup": {"alice": "s3cr3t"}}, "lookup is a function"),
        ({"anonymous": "yes"}, "anonymous"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": None}, "attempts"),
        ({"failures_per_minute": -1}, "failures_per_minute"),
        ({"challenge_ttl": float("nan")}, "challenge_ttl"),
        ({"challenge_ttl": None}, "challenge_ttl"),
        ({"salted": 1000}, "salted"),
        ({"salted": (999, 32)}, "salted"),
        ({"salted": (1000, 0)}, "salted"),
        ({"derives": True}, "derives"),
        ({"decoy_key": "text of more than sixteen"}, "decoy_key"),
        ({"decoy_key": b"short"}, "decoy_key"),
    ],
)
def test_options_that_cannot_work_stop_the_start(options: dict[str, Any], wanted: str) -> None:
    """Each is refused by name when the app is written."""
    with pytest.raises(DeclarationError, match=wanted):
        Cra(**{"lookup": lookup} | options)


async def test_an_app_takes_a_cra_or_nothing() -> None:
    """A lookup alone is not enough, and a procedure of the app's cannot take the place of the login's."""
    with pytest.raises(DeclarationError, match=r"Cra\(lookup\)"):
        await App(cra=lookup).start()  # type: ignore[arg-type]
    app = demo()
    app.add_rpc(AUTH, lookup)
    with pytest.raises(DeclarationError, match="procedure#auth"):
        await app.start()
