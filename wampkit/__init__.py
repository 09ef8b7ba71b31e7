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
from .forwarded import TrustedProxies
from .gates import AllowAddresses, AllowHosts, AllowOrigins, BlockAddresses
from .incoming import Call, Incoming, Publish, Subscribe, Unsubscribe
from .limits import Limits
from .middleware import CallNext
from .refusals import Refused
from .router import Router
from .subscriptions import Subscription
from .threads import run_on_loop
from .topics import Topic, Topics

__version__ = "0.1.0"

__all__ = [
    "ERROR_URIS",
    "AllowAddresses",
    "AllowHosts",
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
    "LimitExceeded",
    "Limits",
    "MemoryBroker",
    "NotAllowed",
    "NotFound",
    "Publication",
    "Publish",
    "Refused",
    "Router",
    "State",
    "Subscribe",
    "Subscription",
    "TooManyMessages",
    "Topic",
    "Topics",
    "TrustedProxies",
    "Unsubscribe",
    "WampError",
    "connect",
    "run_on_loop",
]
