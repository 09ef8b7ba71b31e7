"""WAMP v1 from one file: remote procedure calls and publish/subscribe over one WebSocket."""

from .app import App
from .authentication import Cra, Credentials
from .broker import Broker, MemoryBroker, Publication
from .client import Client, State, connect
from .connection import Connection
from .connections import Connections
from .counters import Counters
from .cra import derive_key, new_salt
from .depends import Depends
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
from .forwarded import TrustedProxies
from .gates import AllowAddresses, AllowHosts, AllowOrigins, BlockAddresses
from .incoming import Call, Incoming, Publish, Subscribe, Unsubscribe
from .keys import KeyRing
from .limits import Limits
from .middleware import CallNext
from .permissions import Permissions, ProcedurePermission, TopicPermission
from .refusals import Refused
from .requirements import Requirement, anyone, requires
from .router import Router
from .session import Session, SessionEnded, SessionReadOnly, SessionUnavailable
from .sessions import Sessions
from .subscriptions import Subscription
from .threads import run_on_loop
from .tickets import Tickets
from .topics import Topic, Topics

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
