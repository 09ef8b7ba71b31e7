"""A web front end with aiohttp-session on any storage, and an app beside it: what tests of sessions log in to."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp_session import AbstractStorage, get_session, new_session
from aiohttp_session import setup as set_up_sessions

from wampkit import App, Client, Connection, Session, Sessions, connect

from .wire import Server, serve

__all__ = ["Visitor", "Website", "website"]


class Website:
    """A site that is served, with views to log in and out and to change the session.

    Attributes:
        app: The app at /ws. `who` tells a connection's user and roles, `seen` its session.
        server: What serves it.
    """

    def __init__(self, storage: AbstractStorage, declare: Callable[[App], object], **options: Any) -> None:
        self.app = App(middlewares=[Sessions(storage, **options)])
        declare(self.app)
        self.server: Server
        self.app.add_rpc("who", self._who)
        self.app.add_rpc("seen", self._seen)
        self.site = web.Application()
        set_up_sessions(self.site, storage)
        self.site.router.add_post("/login", self._login)
        self.site.router.add_post("/logout", self._logout)
        self.site.router.add_post("/set", self._set)
        self.site.router.add_get("/get", self._get)
        self.app.setup(self.site, "/ws")

    async def _who(self, conn: Connection) -> list[Any]:
        return [conn.user, sorted(conn.roles)]

    async def _seen(self, session: Session) -> dict[str, Any]:
        return dict(session)

    async def _login(self, request: web.Request) -> web.Response:
        session = await new_session(request)
        session.update({"sid": secrets.token_urlsafe(), **dict(request.query)})
        return web.Response(text="welcome")

    async def _logout(self, request: web.Request) -> web.Response:
        session = await get_session(request)
        found = self.app.connections(session_id=str(session.identity or session["sid"]))
        session.invalidate()
        for connection in found:
            connection.close(4401, "logged out")
        return web.Response(text=str(len(found)))

    async def _set(self, request: web.Request) -> web.Response:
        session = await get_session(request)
        session.update(request.query)
        return web.json_response(dict(session))

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))


class Visitor:
    """Somebody with a browser: one cookie jar for the site and the socket.

    Attributes:
        website: The site that is visited.
        http: The browser.
    """

    def __init__(self, website: Website, http: aiohttp.ClientSession) -> None:
        self.website = website
        self.http = http

    @property
    def cookie(self) -> str:
        """The session's cookie as the jar has it."""
        return {each.key: each.value for each in self.http.cookie_jar}["AIOHTTP_SESSION"]

    async def post(self, path: str, **query: str) -> str:
        """What the site answers to a POST."""
        return await self._ask("POST", path, query)

    async def get(self, path: str) -> str:
        """What the site answers to a GET."""
        return await self._ask("GET", path, {})

    async def _ask(self, method: str, path: str, query: dict[str, str]) -> str:
        url = f"http://127.0.0.1:{self.website.server.port}{path}"
        async with self.http.request(method, url, params=query) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    def connect(self, **options: Any) -> Client:
        """wampkit's client with the visitor's cookies."""
        return connect(self.website.server.url, session=self.http, reconnect=False, **options)


@contextlib.asynccontextmanager
async def website(
    storage: AbstractStorage, declare: Callable[[App], object] = lambda app: None, **options: Any
) -> AsyncIterator[Visitor]:
    """A site for the length of a block, and somebody who visits it.

    Args:
        storage: Where sessions are kept.
        declare: Adds to the app.
        options: Those of `Sessions`.
    """
    made = Website(storage, declare, **options)
    jar = aiohttp.CookieJar(unsafe=True)  # cookies for an address, which 127.0.0.1 is
    async with serve(made.app, web_app=made.site) as made.server, aiohttp.ClientSession(cookie_jar=jar) as http:
        yield Visitor(made, http)
