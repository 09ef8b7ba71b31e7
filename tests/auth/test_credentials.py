"""Credentials and permissions: what a login grants, anonymous logins, and values that are refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from wampkit import App, Connection, Cra, Credentials, DeclarationError, Permissions

from ..support.login_app import ADDING, NOTHING, demo, lookup
from ..support.logins import AUTH, AUTHREQ, ask, code_of, log_in
from ..support.tables import rows
from ..support.wire import PREFIX, PUBLISH, serve

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
