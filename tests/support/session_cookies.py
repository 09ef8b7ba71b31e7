"""Session cookies made by hand, and an app that says who its clients are."""

import json
import time
from http.cookies import SimpleCookie
from typing import Any

from aiohttp_session import AbstractStorage
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from wampkit import App, Connection, KeyRing, Sessions

from .wire import Server, handshake

KEY, OLD, OLDER = (Fernet.generate_key() for _ in range(3))


def cookie_storage(*keys: Any, max_age: int | None = 3600, **options: Any) -> EncryptedCookieStorage:
    return EncryptedCookieStorage(KeyRing(*keys or (KEY,)), max_age=max_age, **options)


def session_token(content: object, key: bytes = KEY, made: float | None = None) -> str:
    """An encrypted cookie with anything in it."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Fernet(key).encrypt_at_time(data, int(time.time() if made is None else made)).decode()


def session_cookie(key: bytes = KEY, *, age: float = 0.0, **session: Any) -> str:
    """A cookie as the site would have made it so many seconds ago."""
    made = time.time() - age
    return session_token({"created": made, "session": session}, key, made)


def cookie_headers(*cookies: str) -> dict[str, str]:
    return {"Cookie": "; ".join(f"AIOHTTP_SESSION={cookie}" for cookie in cookies)}


def plain_headers(content: object) -> dict[str, str]:
    """A cookie of a storage that does not encrypt."""
    return {"Cookie": SimpleCookie({"AIOHTTP_SESSION": json.dumps(content)}).output([], "").strip()}


class Noted:
    """The gate `Sessions`, with what it returned."""

    def __init__(self, storage: AbstractStorage, **options: Any) -> None:
        self.gate = Sessions(storage, **options)
        self.lifespan = self.gate.lifespan
        self.notes: list[str] = []

    async def connect(self, connection: Connection) -> None:
        self.notes.append(await self.gate.connect(connection))


def session_app(*middlewares: Any, **options: Any) -> App:
    app = App(middlewares=middlewares or [Sessions(cookie_storage(), **options)])

    @app.rpc("who")
    async def who(conn: Connection) -> list[Any]:
        return [conn.user, sorted(conn.roles), conn.session.id]

    return app


async def who_is(server: Server, cookie: str | None) -> Any:
    peer = await server.peer(headers={} if cookie is None else cookie_headers(cookie))
    return await peer.result("who")


async def status_of(server: Server, *lines: bytes) -> int:
    """The status that a handshake with these header lines gets."""
    request = handshake(server.path).removesuffix(b"\r\n") + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    peer = await server.tcp()
    await peer.send(request)
    head = await peer.read_head()
    peer.close()
    return int(head.split()[1])
