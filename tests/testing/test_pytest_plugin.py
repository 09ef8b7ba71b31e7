"""The clients of the pytest plugin, each used by a test suite of its own, where every warning is an error."""

import pytest

import wampkit  # noqa: F401 - so that the suites inside do not import it anew each time

from ..support.plugin_suite import AUTO, PLAIN, STRICT, Suite


def test_handshake(suite: Suite) -> None:
    """Headers, cookies and origin given to wamp_connect reach the handler."""
    result = suite.run(
        """
        async def test_handshake(wamp_connect):
            client = await wamp_connect(
                headers={"X-Token": "t"}, cookies={"user": "alice"}, origin="https://example.com"
            )
            me = await client.call("calc:whoami")
            assert me == {"token": "t", "cookie": "alice", "origin": "https://example.com", "id": client.session_id}
        """
    )
    result.assert_outcomes(passed=1)


def test_options(suite: Suite) -> None:
    """Prefixes and the options of connect pass through wamp_connect."""
    result = suite.run(
        """
        import pytest

        async def test_options(wamp_connect):
            client = await wamp_connect(prefixes={"c": "http://example.com/calc#"}, call_timeout=0.05)
            assert await client.call("c:add", 2, 3) == 5
            with pytest.raises(TimeoutError):
                await client.call("c:forever")
        """
    )
    result.assert_outcomes(passed=1)


def test_refused_handshake(suite: Suite) -> None:
    """A refused handshake is raised where the client connects."""
    result = suite.run(
        """
        import pytest
        from wampkit import AllowOrigins, App, HandshakeRefused

        @pytest.mark.wamp_app(App(middlewares=[AllowOrigins("https://example.com")]))
        async def test_origin(wamp_connect):
            await wamp_connect(origin="https://example.com")
            with pytest.raises(HandshakeRefused) as refused:
                await wamp_connect(origin="https://evil.example")
            assert refused.value.status == 403
        """
    )
    result.assert_outcomes(passed=1)


def test_events(suite: Suite) -> None:
    """Waiting for an event ends with a TimeoutError; waiting for none fails with the event that came."""
    result = suite.run(
        """
        import pytest
        from wampkit.testing import no_event

        async def test_get(wamp_client):
            async with wamp_client.subscribe("chat:lobby") as events:
                with pytest.raises(TimeoutError):
                    await events.get(timeout=0.05)

        async def test_nothing(wamp_client):
            async with wamp_client.subscribe("chat:lobby") as events:
                await no_event(events, within=0.05)

        async def test_something(wamp_connect):
            alice, bob = await wamp_connect(), await wamp_connect()
            async with bob.subscribe("chat:lobby") as events:
                await alice.publish("chat:lobby", {"text": "surprise"})
                await no_event(events, within=5)
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError*surprise*"])


def test_drop(suite: Suite) -> None:
    """A client whose wire is cut connects again, and its subscriptions are put back."""
    result = suite.run(
        """
        from wampkit.client.state import State
        from wampkit.testing import drop

        async def test_drop(wamp_connect):
            alice, bob = await wamp_connect(), await wamp_connect(backoff=(0.01, 0.1))
            async with bob.subscribe("chat:lobby") as events:
                before = bob.session_id
                await drop(bob)
                await bob.wait_for(State.OPEN, timeout=5)
                assert bob.session_id != before
                assert await bob.call("wampkit:subscription", "chat:lobby")
                await alice.publish("chat:lobby", {"text": "again"})
                assert (await events.get(timeout=5))["text"] == "again"
        """
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "fixture"), [(AUTO, "pytest.fixture"), (STRICT, "pytest_asyncio.fixture")], ids=["auto", "strict"]
)
def test_own_fixtures(suite: Suite, ini: str, fixture: str) -> None:
    """Async fixtures may connect clients, and use them until their own end."""
    tests = f"""
        import pytest, pytest_asyncio

        @{fixture}
        async def alice(wamp_connect):
            return await wamp_connect(headers={{"X-Token": "alice"}})

        @{fixture}
        async def lobby(wamp_connect):
            client = await wamp_connect()
            async with client.subscribe("chat:lobby") as events:
                yield events
            assert await client.call("calc:add", 1, 1) == 2

        @pytest.mark.asyncio
        async def test_fixtures(alice, lobby, wamp_client):
            assert (await alice.call("calc:whoami"))["token"] == "alice"
            await alice.publish("chat:lobby", {{"text": "hi"}})
            assert (await lobby.get(timeout=5))["text"] == "hi"
            assert await wamp_client.call("calc:clients") == 3
    """
    result = suite.run_apart(tests, ini=ini)
    result.assert_outcomes(passed=1)
    assert "Exception ignored" not in result.stderr.str()


def test_own_fixtures_under_anyio(suite: Suite) -> None:
    """Async fixtures that anyio runs may connect clients, and use them until their own end."""
    tests = """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def lobby(wamp_connect):
            client = await wamp_connect()
            async with client.subscribe("chat:lobby") as events:
                yield events
            assert await client.call("calc:add", 1, 1) == 2

        async def test_fixtures(lobby, wamp_client):
            await wamp_client.publish("chat:lobby", {"text": "hi"})
            assert (await lobby.get(timeout=5))["text"] == "hi"
    """
    result = suite.run_apart(tests, "-p", "no:asyncio", ini=PLAIN)
    result.assert_outcomes(passed=1)
    assert "Exception ignored" not in result.stderr.str()


def test_wrong_fixture(suite: Suite) -> None:
    """Sync tests that ask for async clients, and async tests that block their loop, are told what to use."""
    result = suite.run(
        """
        import asyncio

        def test_sync_client(wamp_client):
            pass

        def test_sync_connect(wamp_connect):
            wamp_connect()

        async def test_async_rpc(rpc):
            rpc("calc:add", 2, 3)

        async def test_rpc_in_a_thread(rpc):
            assert await asyncio.to_thread(rpc, "calc:add", 2, 3) == 5
        """
    )
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "wamp_client is for async tests: a sync test uses the fixture rpc",
            "E *RuntimeError: wamp_connect() works in the event loop of an async test*",
            "E *RuntimeError: this blocks the test's event loop*",
        ]
    )


def test_calls_under_way(suite: Suite) -> None:
    """A call that nobody waits for neither holds up the end of the test nor fails it."""
    result = suite.run_apart(
        """
        import asyncio, contextlib
        from wampkit import ConnectionLost

        async def test_forgotten(wamp_client):
            call = asyncio.ensure_future(wamp_client.call("calc:forever"))
            call.add_done_callback(lambda done: done.exception())
            assert await wamp_client.call("calc:add", 2, 3) == 5
        """
    )
    result.assert_outcomes(passed=1)
