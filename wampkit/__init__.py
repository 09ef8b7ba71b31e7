"""WAMP v1 from one file: remote procedure calls and publish/subscribe over one WebSocket."""

from .app import App
from .broker import Broker, MemoryBroker, Publication
from .client import Client, State, connect
from .connection import Connection
from .connections import Connections
from .counters import Counters
from .depends import Depends
from .errors import (
    ERROR_URIS,
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
from .incoming import Call, Incoming, Publish, Subscribe, Unsubscribe
from .keys import KeyRing
from .limits import Limits
from .middleware import AllowOrigins, BlockAddresses, CallNext
from .requirements import Requirement, anyone, requires
from .router import Router
from .session import Session, SessionEnded, SessionReadOnly, SessionUnavailable
from .sessions import Sessions
from .subscriptions import Subscription
from .threads import run_on_loop
from .tickets import Tickets
from .topics import Topic, Topics

__version__ = "0.1.0"

__all__ = [
    "ERROR_URIS",
    "AllowOrigins",
    "App",
    "BlockAddresses",
    "Broker",
    "Call",
    "CallError",
    "CallNext",
    "Client",
    "ClientError",
    "Connection",
    "ConnectionLost",
    "Connections",
    "Counters",
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
    "Publication",
    "Publish",
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
    "Topics",
    "Unsubscribe",
    "WampError",
    "anyone",
    "connect",
    "requires",
    "run_on_loop",
]
