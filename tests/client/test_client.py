"""The client: calls, publishing, prefixes, opening and closing."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from wampkit import CallError, Client, ConnectionLost, State, connect
from wampkit.testing import drop

from ..support.client_app import FAST
from ..support.foreign import Foreign
from ..support.restartable import Restartable
from ..support.wire import PATIENCE, eventually

# ---- what a user sees


CLIENT = (
    "call close error open permissions prefixes publish server_ident session_id set_prefix state subscribe wait_for"
)


SUBSCRIPTION = "accepted dropped get start stop topic uri"


STATE = "CLOSED CONNECTING OPEN RECONNECTING"


def test_an_editor_shows_what_is_for_the_user() -> None:
    """A client, a subscription and the states offer these names and no others."""
    client = connect("ws://127.0.0.1:1/")
    for shown, names in ((client, CLIENT), (client.subscribe("t"), SUBSCRIPTION)):
        assert [name for name in dir(shown) if not name.startswith("_")] == names.split()
    assert sorted(State.__members__) == STATE.split()


# ---- calls


async def test_a_call_returns_its_result(server: Restartable) -> None:
    """A call by CURIE of the client's prefixes, and one by CURIE that only the server knows, return their results."""
    async with connect(server.url, prefixes={"c": "http://example.com/calc#"}) as client:
        assert await client.call("c:add", 2, 3) == 5
        assert await client.call("calc:add", 2, 3) == 5


async def test_a_failed_call_raises_with_all_that_the_server_said(server: Restartable) -> None:
    """CALLERROR becomes `CallError` with the URI in full, the description and the details."""
    async with connect(server.url) as client:
        with pytest.raises(CallError) as failed:
            await client.call("fail")
    assert (failed.value.uri, failed.value.description, failed.value.details) == (
        "http://example.com/calc#error",
        "it failed",
        {"code": 7},
    )


async def test_many_calls_at_once_are_answered_in_any_order(server: Restartable) -> None:
    """A hundred calls share the connection; each gets its own answer though the first ends last."""
    async with connect(server.url) as client:
        first = asyncio.ensure_future(client.call("slow", 0.3, "first"))
        rest = await asyncio.gather(*(client.call("slow", 0, number) for number in range(100)))
        assert rest == list(range(100))
        assert not first.done()
        assert await first == "first"


async def test_a_call_without_an_answer_times_out(other: Foreign) -> None:
    """A timeout ends the waiting, the late answer harms nobody, and the connection goes on."""
    async with connect(other.url) as client:
        with pytest.raises(TimeoutError, match="never: no answer within 0.05 s"):
            await client.call("never", timeout=0.05)
        call_id = other.sent(2)[0][1]
        await other.sockets[0].send_str(json.dumps([3, call_id, "late"]))
        assert await client.call("echo", 1) == [1]


async def test_the_default_timeout_is_the_clients(other: Foreign) -> None:
    """`call_timeout` holds for calls that name none."""
    async with connect(other.url, call_timeout=0.05) as client:
        with pytest.raises(TimeoutError):
            await client.call("never")


async def test_a_cancelled_call_leaves_the_others_alone(other: Foreign) -> None:
    """Cancelling one of two calls does not reach the other."""
    async with connect(other.url) as client:
        doomed = asyncio.ensure_future(client.call("never"))
        await eventually(lambda: len(other.sent(2)) == 1)
        doomed.cancel()
        assert await client.call("echo", "still here") == ["still here"]
        with pytest.raises(asyncio.CancelledError):
            await doomed


async def test_arguments_that_json_cannot_carry_are_refused_here(server: Restartable) -> None:
    """A value that is no JSON raises at the caller, and nothing is sent."""
    async with connect(server.url) as client:
        with pytest.raises(TypeError):
            await client.call("calc:add", object(), 1)
        assert await client.call("calc:add", 1, 1) == 2


# ---- the rest


async def test_publish_sends_the_shortest_form(other: Foreign) -> None:
    """What is not asked for is not sent, so that servers which know fewer forms understand."""
    async with connect(other.url) as client:
        await client.publish("t", 1)
        await client.publish("t", 2, exclude_me=True)
        await client.publish("t", 3, exclude=["a"])
        await client.publish("t", 4, exclude=["a"], eligible=["b"])
        await client.publish("t", 5, eligible=["b"])
        await client.publish("t", 6, exclude_me=False, eligible=[])
        await client.call("echo")
    assert other.sent(7) == [
        [7, "t", 1],
        [7, "t", 2, True],
        [7, "t", 3, ["a"]],
        [7, "t", 4, ["a"], ["b"]],
        [7, "t", 5, None, ["b"]],
        [7, "t", 6, False, []],
    ]


async def test_prefixes_can_be_added_later(server: Restartable) -> None:
    """`set_prefix` holds at once and after a reconnect."""
    async with connect(server.url, backoff=FAST) as client:
        await client.set_prefix("c", "http://example.com/calc#")
        assert await client.call("c:add", 1, 2) == 3
        await drop(client)
        await client.wait_for(State.OPEN, timeout=5)
        assert await client.call("c:add", 1, 2) == 3


async def test_open_and_close_without_async_with(server: Restartable) -> None:
    """`open` and `close` do what the block does; a closed client says that it is."""
    client: Client = await connect(server.url).open()
    assert client.state is State.OPEN
    assert client.server_ident == "wampkit"
    await client.close()
    await client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        await client.call("calc:add", 1, 1)


async def test_close_does_not_wait_for_a_server_that_hangs(other: Foreign) -> None:
    """A server that answers no close is left after `close_timeout`, each client's own."""
    release = asyncio.Event()

    async def hang(ws: web.WebSocketResponse) -> None:
        await ws.send_str('[0, "s", 1, "Other/1.0"]')
        await release.wait()

    other.script = hang
    patient = await connect(other.url, close_timeout=60).open()
    client = await connect(other.url, close_timeout=0.1).open()
    waits = asyncio.ensure_future(patient.close())
    await asyncio.sleep(0)
    await asyncio.wait_for(client.close(), PATIENCE)
    assert client.state is State.CLOSED
    assert not waits.done()
    release.set()
    await asyncio.wait_for(waits, PATIENCE)


async def test_a_failing_state_callback_harms_nothing(server: Restartable, caplog: pytest.LogCaptureFixture) -> None:
    """What `on_state` raises is logged and the client goes on."""

    def broken(state: State) -> None:
        raise RuntimeError("boom")

    async with connect(server.url, on_state=broken) as client:
        assert await client.call("calc:add", 1, 1) == 2
    assert "on_state failed" in caplog.text


# ---- more of what is sent


async def test_cookies_join_those_of_the_callers_session(other: Foreign) -> None:
    """Cookies given to `connect` are sent besides those in the jar of the caller's session, unchanged."""
    async with (
        aiohttp.ClientSession(cookies={"jar": "yes"}) as session,
        connect(other.url, session=session, cookies={"user": "ann", "odd": 'a b="c"'}),
    ):
        pass
    assert dict(other.handshakes[0].cookies) == {"jar": "yes", "user": "ann", "odd": 'a b="c"'}


async def test_one_session_id_is_no_list_of_them(other: Foreign) -> None:
    """A text where a list of session ids belongs is refused here: its letters are no ids."""
    async with connect(other.url) as client:
        for name in ("exclude", "eligible"):
            with pytest.raises(TypeError, match="a list of session ids"):
                await client.publish("t", 1, **{name: "abc"})


async def test_exclude_me_holds_beside_a_list(other: Foreign) -> None:
    """On the wire a list takes the place of `excludeMe`, so this client joins the list."""
    async with connect(other.url) as client:
        await client.publish("t", 1, exclude=["a"], exclude_me=True)
        await client.publish("t", 2, exclude=["a"], exclude_me=False)
        await client.call("echo")
        assert other.sent(7) == [[7, "t", 1, ["a", client.session_id]], [7, "t", 2, ["a"]]]
