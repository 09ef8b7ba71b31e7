"""Logins over the socket: who gets in, lookups that fail, the order of the steps, replays, and the log."""

import asyncio
import json
import logging
import threading
from typing import Any

import pytest

from wampkit import App, Connection, Credentials, NotAllowed

from ..support.login_app import ADDING, KEYS, NOTHING, SALTED, demo
from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in, signature_of
from ..support.tables import rows
from ..support.wire import CALL, RESULT, RawPeer, message, serve

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
