"""Session storages that fail are an error of the server, not a bad cookie."""

import time

import pytest
from aiohttp import web
from aiohttp_session import Session as StoredSession
from aiohttp_session import SimpleCookieStorage

from wampkit import Session, Sessions
from wampkit.sessions.middleware import key_fingerprints

from ..support.session_cookies import KEY, OLD, cookie_storage, plain_headers, session_app, session_cookie, status_of
from ..support.wire import handshake, serve

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
    async with serve(session_app(Sessions(storage, plain=True))) as server:
        for _ in range(5):
            answer = await server.ask(handshake(server.path, "Cookie: AIOHTTP_SESSION=topsecret"))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer.lower()
            assert answer.endswith(b"sessions cannot be looked up at the moment\n")
        await server.peer()
        storage.error = None
        peer = await server.peer(headers=plain_headers({"created": int(time.time()), "session": {"user": "ann"}}))
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

    async with serve(session_app(user=user)) as server:
        assert await status_of(server, b"Cookie: AIOHTTP_SESSION=" + session_cookie(user="ann").encode()) == 500
        assert await status_of(server) == 101
    assert "no database" in caplog.text


# ---- storages with other keys


def test_storages_with_other_keys_are_told_apart() -> None:
    """Workers that drew their keys at the start are found by it; where there is no key, nothing is claimed."""
    one, same, other = (key_fingerprints([Sessions(cookie_storage(key))]) for key in (KEY, KEY, OLD))
    assert one == same != other
    assert key_fingerprints([Sessions(SimpleCookieStorage(max_age=60), plain=True)]) == ""
