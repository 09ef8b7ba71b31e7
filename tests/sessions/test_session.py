"""The session as handlers, topics and hooks are given it: read, refused changes, refresh."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import AbstractStorage
from aiohttp_session import Session as StoredSession

from wampkit import App, Connection, DeclarationError, Session, SessionReadOnly, Sessions, Topic, run_on_loop
from wampkit.app import lifecycle_of

from ..support.session_cookies import cookie_headers, cookie_storage, session_app, session_cookie
from ..support.wire import ERROR, serve

# ---- the injected session


def _reading_app() -> App:
    app = session_app(Sessions(cookie_storage(), id="sid"))

    @app.rpc("seen")
    async def seen(session: Session) -> list[Any]:
        return [bool(session), dict(session), session.id, session.expires and round(session.expires - time.time(), -2)]

    @app.rpc("thread")
    def thread(session: Session) -> Any:
        return session["user"]

    @app.rpc("set")
    async def set_(session: Session) -> None:
        session["x"] = 1

    @app.rpc("within")
    async def within(session: Session) -> None:
        session["cart"].append(1)

    @app.rpc("refresh")
    async def refresh(session: Session) -> None:
        await session.refresh()

    @app.rpc("thread set")
    def thread_set(session: Session) -> str:
        for change in (lambda: session.update(x=1), lambda: session.pop("user"), lambda: session.clear()):
            try:
                change()
            except SessionReadOnly:
                continue
            return "changed"
        run_on_loop(session.save())
        return "read-only"

    return app


async def test_a_handler_is_given_the_session() -> None:
    """A parameter annotated `Session` is the session, in async and plain handlers, and costs no argument."""
    async with serve(_reading_app()) as server:
        peer = await server.peer(headers=cookie_headers(session_cookie(user="ann", sid="s", n=[1])))
        assert await peer.result("seen") == [True, {"user": "ann", "sid": "s", "n": [1]}, "s", 3600]
        assert await peer.result("thread") == "ann"


async def test_without_a_session_it_is_empty_and_false() -> None:
    """Where there is no session, handlers are given an empty one."""
    async with serve(_reading_app()) as server:
        assert await (await server.peer()).result("seen") == [False, {}, None, None]


async def test_topics_and_hooks_are_given_the_session() -> None:
    """A topic's handler and its hooks have the session too."""
    app = session_app()
    topic = app.topic("chat")

    @topic
    async def chat(event: str, session: Session) -> list[Any]:
        return [session["user"], event]

    @topic.on_subscribe
    async def joined(topic: Topic, session: Session) -> None:
        await topic.publish(["joined", session["user"]])

    async with serve(app) as server:
        peer = await server.peer(headers=cookie_headers(session_cookie(user="ann")))
        await peer.subscribe("chat")
        await peer.send(7, "chat", "hi", False)
        assert await peer.events(2) == [["joined", "ann"], ["ann", "hi"]]


def test_a_session_needs_the_middleware() -> None:
    """A handler that wants a session in an app that reads none stops the start, with the fix."""
    app = App()

    @app.rpc("x")
    async def x(session: Session) -> None: ...

    with pytest.raises(DeclarationError, match=r"'session': this app reads no sessions; put Sessions\(storage\) into"):
        lifecycle_of(app).routes()


@pytest.mark.parametrize("procedure", ["set", "within", "refresh"])
async def test_a_session_in_a_cookie_cannot_be_changed(procedure: str, caplog: pytest.LogCaptureFixture) -> None:
    """To change a session that lives in its cookie, or to read it anew, fails the call and says what to do instead."""
    async with serve(_reading_app()) as server:
        peer = await server.peer(headers=cookie_headers(session_cookie(user="ann", cart=[])))
        assert (await peer.call(procedure))[0] == ERROR
        assert await peer.result("thread set") == "read-only"
        assert (await peer.result("seen"))[1] == {"user": "ann", "cart": []}
    assert "SessionReadOnly" in caplog.text
    assert "cannot be set or read anew on an open socket: change it in a web view, or" in caplog.text


async def test_where_there_is_no_session_none_can_begin(caplog: pytest.LogCaptureFixture) -> None:
    """A session cannot begin on an open socket."""
    async with serve(_reading_app()) as server:
        peer = await server.peer()
        assert (await peer.call("set"))[0] == ERROR
    assert "there is no session: it begins in a web view" in caplog.text


async def test_a_hook_cannot_change_a_cookie_either() -> None:
    """`connection.session` is the same session, with the same bounds."""
    app = session_app()
    raised: list[str] = []

    @app.on_connect
    async def connected(connection: Connection) -> None:
        assert connection.session["user"] == "ann"
        connection.session["cart"].append(1)  # a copy
        assert connection.session["cart"] == []
        try:
            del connection.session["user"]
        except SessionReadOnly as error:
            raised.append(str(error))

    async with serve(app) as server:
        await server.peer(headers=cookie_headers(session_cookie(user="ann", cart=[])))
    assert len(raised) == 1


def test_a_session_shows_nothing_of_itself() -> None:
    """The repr of a session has no key and no value of it."""

    class Record:
        data: Mapping[str, Any] = {"user": "ann", "token": "secret"}

    assert repr(Session(Record())) == "<Session of 2 keys>"  # type: ignore[arg-type]  # enough of one


# ---- refresh


class Swapped(AbstractStorage):
    """A storage on the server in which a cookie leads to another session meanwhile."""

    def __init__(self) -> None:
        super().__init__(max_age=60)
        self.identity = "one"

    async def load_session(self, request: web.Request) -> StoredSession:
        content: Any = {"created": int(time.time()), "session": {"user": self.identity}}
        return StoredSession(self.identity, data=content, new=False, max_age=60)

    async def save_session(self, request: web.Request, response: web.StreamResponse, session: StoredSession) -> None:
        raise AssertionError("nothing is changed here")


async def test_refresh_takes_no_other_session() -> None:
    """Where the cookie has come to lead to another session, the one of the handshake has ended."""
    storage = Swapped()
    app = session_app(Sessions(storage))

    @app.rpc("refresh")
    async def refresh(session: Session) -> str:
        await session.refresh()
        return str(session["user"])

    async with serve(app) as server:
        peer = await server.peer(headers=cookie_headers("x"))
        assert await peer.result("refresh") == "one"
        storage.identity = "two"
        assert (await peer.call("refresh"))[0] == ERROR
