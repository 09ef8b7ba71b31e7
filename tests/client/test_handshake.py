"""The client's handshake: headers, cookies, sessions of aiohttp, URLs, redirects and refusals."""

import traceback
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from wampkit import ConnectionLost, HandshakeRefused, State, connect

from ..support.foreign import Foreign, foreign
from ..support.restartable import Restartable


async def test_headers_cookies_and_origin_reach_the_server(server: Restartable) -> None:
    """The handshake carries what `connect` was given."""
    options: dict[str, Any] = {"headers": {"X-Token": "t"}, "cookies": {"user": "ann"}, "origin": "https://example.com"}
    async with connect(server.url + "?n=1", **options) as client:
        told = await client.call("headers")
    assert told == {"token": "t", "query": "1", "origin": "https://example.com", "cookie": "ann"}


async def test_a_session_of_the_caller_is_used_and_left_open(server: Restartable) -> None:
    """An aiohttp session brings its cookies and outlives its clients; further ones add nothing to it."""
    async with aiohttp.ClientSession(cookies={"user": "bert"}) as session:
        for _ in range(2):
            async with connect(server.url, session=session) as client:
                assert (await client.call("headers"))["cookie"] == "bert"
        assert not session.closed
        assert len(session.trace_configs) == 1


async def test_the_first_connection_fails_at_once() -> None:
    """Where nobody listens, `open` raises and says so; it does not try again."""
    client = connect("ws://127.0.0.1:1/ws")
    with pytest.raises(ConnectionLost, match="127.0.0.1:1"):
        await client.open()
    assert client.state is State.CLOSED


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_a_refused_handshake_says_its_status(other: Foreign, status: int) -> None:
    """An HTTP error becomes `HandshakeRefused` with the status; for a path that is not there it asks for another."""
    other.refuse = status
    with pytest.raises(HandshakeRefused, match=f"HTTP {status}") as refused:
        await connect(other.url).open()
    assert refused.value.status == status
    assert ("another path" in str(refused.value)) == (status == 404)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://127.0.0.1/", "127.0.0.1:8080/ws"])
async def test_what_is_no_url_is_a_value_error(url: str) -> None:
    """A URL of another kind raises ValueError that says what to write."""
    with pytest.raises(ValueError, match="write ws://host:port/path"):
        await connect(url).open()


async def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever host it names: nothing is sent there, and the error says where the server wanted the client to go."""
    sent: list[tuple[str, Any]] = []
    wrong = []
    async with foreign() as elsewhere, foreign() as other, aiohttp.ClientSession() as theirs:
        here = other.url.removeprefix("ws://").rstrip("/")
        there = elsewhere.url.removeprefix("ws://").rstrip("/")
        rows = [(f"http://{there}/?token=x", there), (f"//{there}/", there), (f"ws://u:p@{there}/", there), ("/ws", "")]
        for status in (301, 302, 303, 307, 308):
            for location, host in rows:
                for session in (None, theirs):
                    other.answer = web.Response(status=status, headers={"Location": location})
                    client = connect(other.url, headers={"X-Api-Key": "SECRET"}, cookies={"a": "b"}, session=session)
                    with pytest.raises(HandshakeRefused) as refused:
                        await client.open()
                    sent.append((refused.value.reason, refused.value.status))
                    where = f"a redirect to '{host}'" if host else "a redirect to another path"
                    hint = "" if host else "; is the socket there, such as at /ws?"
                    expected = (
                        f"ws://{here}/: the server refused the handshake: HTTP {status}, {where}, which is not "
                        f"followed{hint}"
                    )
                    if (refused.value.reason, refused.value.status) != (expected, status):
                        wrong.append((status, location, refused.value.reason))
        other.answer = web.Response(status=302, headers={"Location": f"http://{there}/"})
        async with theirs.get(other.url.replace("ws", "http", 1)) as answer:
            assert str(answer.url.authority) == there  # other requests of that session are as they were
        del elsewhere.handshakes[-1]
        assert (wrong, elsewhere.handshakes) == ([], [])
    assert caplog.text == ""


async def test_a_failed_connection_is_a_short_error() -> None:
    """One exception says what was wrong, in the system's words, and none of those inside aiohttp is shown with it."""
    for url, reason in (("ws://127.0.0.1:1/ws", "Connection refused"), ("ws://nowhere.invalid/ws", "ws://nowhere")):
        with pytest.raises(ConnectionLost, match=reason) as lost:
            await connect(url).open()
        shown = "".join(traceback.format_exception(lost.value))
        assert shown.count("Traceback") == 1, shown
