"""The demo app that the corpus of exchanges is run against, written with wampkit."""

import asyncio
from typing import Any

from wampkit import (
    App,
    Connection,
    Cra,
    Credentials,
    NotAllowed,
    Permissions,
    ProcedurePermission,
    TopicPermission,
    WampError,
    anyone,
    derive_key,
)

BASE = "http://demo.example/"

MEMBERS = Permissions(
    rpc=(ProcedurePermission(f"{BASE}rpc#add"),),
    pubsub=(
        TopicPermission(uri=f"{BASE}topic#open", pub=True, sub=True),
        TopicPermission(uri=f"{BASE}room/", prefix=True, sub=True),
    ),
)
VISITORS = Permissions(pubsub=(TopicPermission(uri=f"{BASE}topic#readonly", sub=True),))

KEYS = {
    "alice": Credentials("s3cr3t", permissions=MEMBERS),
    "bob": Credentials(derive_key("p4ss", "0bs4lt", 1000, 32), salt="0bs4lt", iterations=1000, permissions=MEMBERS),
    "zoë": Credentials("pässwörd", permissions=MEMBERS),
}


async def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
    """The demo app's keys."""
    return KEYS.get(authkey)


def make_cra_app(server: str) -> App:
    """The demo app with logins, as one of the servers `cra`, `cra-noanon` and `cra-timeout`."""
    cra = Cra(
        lookup,
        anonymous=VISITORS if server != "cra-noanon" else False,
        timeout=1.0 if server == "cra-timeout" else None,
        failures_per_minute=None,
        hide_unknown_keys=False,
    )
    return make_app(cra=cra)


def make_app(**options: Any) -> App:
    """A fresh demo app; the options are those of `App`."""
    app = App(**options)
    _procedures(app)
    for topic in (f"{BASE}topic#open", f"{BASE}topic#other", "news/sport", BASE + "room/{id}"):
        app.topic(topic, relay=True)
    for topic in (f"{BASE}topic#readonly", f"{BASE}topic#server"):
        app.topic(topic)

    @app.topic(f"{BASE}topic#writeonly", relay=True).on_subscribe
    async def refuse() -> None:
        raise NotAllowed("nobody subscribes here")

    return app


def _procedures(app: App) -> None:
    @app.rpc("ping", requires=anyone)
    async def ping() -> str:
        return "pong"

    @app.rpc(f"{BASE}rpc#add")
    async def add(a: float, b: float) -> float:
        return a + b

    @app.rpc(f"{BASE}rpc#echo")
    async def echo(x: Any) -> Any:
        return x

    @app.rpc(f"{BASE}rpc#args")
    async def args(*a: Any) -> list[Any]:
        return list(a)

    @app.rpc(f"{BASE}rpc#nothing")
    async def nothing() -> None:
        return None

    @app.rpc(f"{BASE}rpc#teapot")
    async def teapot() -> None:
        raise WampError(f"{BASE}error#teapot", "short and stout", {"code": 418, "tags": ["a", "b"]})

    @app.rpc(f"{BASE}rpc#plainerror")
    async def plainerror() -> None:
        raise WampError(f"{BASE}error#plain", "no details here")

    @app.rpc(f"{BASE}rpc#emptydesc")
    async def emptydesc() -> None:
        raise WampError(f"{BASE}error#empty")

    @app.rpc(f"{BASE}rpc#crash")
    async def crash() -> None:
        raise RuntimeError("boom")

    @app.rpc(f"{BASE}rpc#sleep")
    async def sleep(ms: float, value: Any) -> Any:
        await asyncio.sleep(ms / 1000)
        return value

    @app.rpc(f"{BASE}rpc#whoami")
    async def whoami(conn: Connection) -> str:
        return conn.id

    @app.rpc(f"{BASE}rpc#emit")
    async def emit(topic: str, event: Any, exclude: list[str] = [], eligible: list[str] | None = None) -> None:  # noqa: B006
        await app.publish(topic, event, exclude=exclude, eligible=eligible)
