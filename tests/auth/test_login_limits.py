"""Guessing secrets: the attempts of a connection, and failed logins counted by address and by authkey."""

import asyncio
import json
import tracemalloc

from wampkit.auth.login_limits import LoginThrottle
from wampkit.networks import client_network

from ..support.login_app import demo
from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in, signature_of
from ..support.tables import rows
from ..support.wire import CALL, RESULT, Peer, RawPeer, Server, message, serve


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
