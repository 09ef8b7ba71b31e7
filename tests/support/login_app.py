"""An app with logins, and the credentials of its users."""

from typing import Any

from wampkit import (
    App,
    Connection,
    Cra,
    Credentials,
    Permissions,
    ProcedurePermission,
    TopicPermission,
    anyone,
    derive_key,
    requires,
)

NOTHING = {"rpc": [], "pubsub": []}


SALTED = {"salt": "0bs4lt", "iterations": 1000, "keylen": 32}


ADDING = Permissions(
    rpc=(ProcedurePermission("add"), ProcedurePermission("never", call=False)),
    pubsub=(
        TopicPermission(uri="open", pub=True, sub=True),
        TopicPermission(uri="room/secret", prefix=True),
        TopicPermission(uri="room/", prefix=True, sub=True),
    ),
)


KEYS = {
    "alice": Credentials("s3cr3t"),
    "bob": Credentials(derive_key("p4ss", "0bs4lt", 1000, 32), **SALTED),
    "carol": Credentials("p4ss", derived=False, **SALTED),
    "dave": Credentials("s3cr3t", user=("dave", 7), roles=["staff"], permissions=ADDING),
    "zoë": Credentials("pässwörd"),
}


async def lookup(authkey: str, extra: dict[str, Any]) -> Credentials | None:
    return KEYS.get(authkey)


def demo(lookup: Any = lookup, *, app: dict[str, Any] | None = None, **options: Any) -> App:
    """An app with logins: `whoami`, `add` and `never` after one, `ping` and `me` before it too."""
    made = App(cra=Cra(lookup, **options), **(app or {}))

    @made.rpc("ping", requires=anyone)
    async def ping() -> str:
        return "pong"

    @made.rpc("me", requires=anyone)
    async def me(connection: Connection) -> list[Any]:
        granted = connection.permissions and connection.permissions.as_json()
        return [connection.user, sorted(connection.roles), granted]

    @made.rpc("whoami")
    async def whoami(connection: Connection) -> Any:
        return connection.user

    @made.rpc("add")
    async def add(x: int, y: int) -> int:
        return x + y

    @made.rpc("never")
    async def never() -> None:
        raise AssertionError("nobody was granted this")

    @made.rpc("staff", requires=requires("staff"))
    async def staff() -> str:
        return "staff"

    for topic in ("open", "closed", "room/{name}"):
        made.topic(topic, relay=True)
    return made
