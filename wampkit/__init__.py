"""WAMP v1 from one file: remote procedure calls and publish/subscribe over one WebSocket."""

from .access.addresses import AllowAddresses, BlockAddresses
from .access.hosts import AllowHosts
from .access.origins import AllowOrigins
from .access.proxies import TrustedProxies
from .app import App
from .auth.credentials import Cra, Credentials
from .auth.keys import KeyRing
from .auth.tickets import Tickets
from .client.client import Client, connect
from .client.state import State
from .client.subscriptions import Subscription
from .concurrency.threads import run_on_loop
from .connection.connection import Connection
from .connection.registry import Connections
from .dispatch.middleware import Call, CallNext, Incoming, Publish, Refused, Subscribe, Unsubscribe
from .dispatch.requirements import Requirement, anyone, requires
from .errors import (
    ERROR_URIS,
    AuthenticationFailed,
    Busy,
    CallError,
    ClientError,
    ConnectionLost,
    DeclarationError,
    HandshakeRefused,
    InvalidArgument,
    LimitExceeded,
    NotAllowed,
    NotFound,
    TooManyMessages,
    WampError,
)
from .handlers.depends import Depends
from .limits import Limits
from .protocol.cra import Permissions, ProcedurePermission, TopicPermission, derive_key, new_salt
from .pubsub.broker import Broker, MemoryBroker, Publication
from .pubsub.topics import Topic, Topics
from .router import Router
from .sessions.middleware import Sessions
from .sessions.session import Session, SessionReadOnly
from .sessions.storage import SessionEnded, SessionUnavailable
from .telemetry.counters import Counters

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """The public names, for those who type `wampkit.` into a shell: not the modules that they come from."""
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])


__all__ = [
    "ERROR_URIS",
    "AllowAddresses",
    "AllowHosts",
    "AllowOrigins",
    "App",
    "AuthenticationFailed",
    "BlockAddresses",
    "Broker",
    "Busy",
    "Call",
    "CallError",
    "CallNext",
    "Client",
    "ClientError",
    "Connection",
    "ConnectionLost",
    "Connections",
    "Counters",
    "Cra",
    "Credentials",
    "DeclarationError",
    "Depends",
    "HandshakeRefused",
    "Incoming",
    "InvalidArgument",
    "KeyRing",
    "LimitExceeded",
    "Limits",
    "MemoryBroker",
    "NotAllowed",
    "NotFound",
    "Permissions",
    "ProcedurePermission",
    "Publication",
    "Publish",
    "Refused",
    "Requirement",
    "Router",
    "Session",
    "SessionEnded",
    "SessionReadOnly",
    "SessionUnavailable",
    "Sessions",
    "State",
    "Subscribe",
    "Subscription",
    "Tickets",
    "TooManyMessages",
    "Topic",
    "TopicPermission",
    "Topics",
    "TrustedProxies",
    "Unsubscribe",
    "WampError",
    "anyone",
    "connect",
    "derive_key",
    "new_salt",
    "requires",
    "run_on_loop",
]
