"""The interface of brokers, which carry publications between nodes, and the default that serves one process.

A broker carries a `Publication` to every node that has subscribers, the publishing one included, and there calls
`deliver`, which sends it to them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from ..errors import DeclarationError

__all__ = ["Broker", "Deliver", "MemoryBroker", "Publication", "broker_from_url", "check_broker"]


class Publication(msgspec.Struct, frozen=True):
    """One event on its way to the subscribers of one topic.

    Attributes:
        topic: The full topic URI.
        event: The event as JSON text in UTF-8, encoded once.
        exclude: Session ids that do not receive it.
        eligible: If not None, only these session ids may receive it, unless `exclude` names them too.
    """

    topic: str
    event: bytes
    exclude: frozenset[str] = frozenset()
    eligible: frozenset[str] | None = None

    def __repr__(self) -> str:
        return f"Publication(topic={self.topic!r}, {len(self.event)} bytes)"


Deliver = Callable[[Publication], None]


class Broker(Protocol):
    """Carries publications between nodes. A class needs these methods only, it need not be a subclass."""

    async def start(self, deliver: Deliver) -> None:
        """Connect; from now on call `deliver`, on the loop, for each publication to a subscribed topic."""

    async def publish(self, publication: Publication) -> None:
        """Carry a publication to all nodes, this one included. Must not wait for a receiver's socket."""

    async def subscribe(self, topic: str) -> None:
        """Begin to receive publications to `topic`, which has its first subscriber on this node, before returning."""

    async def unsubscribe(self, topic: str) -> None:
        """Receive no more publications to `topic`, which has no subscriber on this node any more."""

    async def close(self) -> None:
        """Disconnect and free all resources."""


class MemoryBroker(Broker):
    """The default broker, for one process: `publish` delivers before it returns."""

    def __init__(self, url: str = "memory://") -> None:
        self._deliver: Deliver | None = None

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def publish(self, publication: Publication) -> None:
        if self._deliver is not None:
            self._deliver(publication)

    async def subscribe(self, topic: str) -> None:
        pass

    async def unsubscribe(self, topic: str) -> None:
        pass

    async def close(self) -> None:
        self._deliver = None


SCHEMES: dict[str, str] = {"memory": "wampkit.pubsub.broker:MemoryBroker"}
"""The class of each URL scheme, which takes the URL; its module is imported at the first use."""


def broker_from_url(url: str) -> Broker:
    """Make the broker of a URL such as `memory://`.

    Raises:
        DeclarationError: No broker has this scheme.
    """
    check_broker(url)
    module, _, name = SCHEMES[urlsplit(url).scheme].partition(":")
    broker: Broker = getattr(importlib.import_module(module), name)(url)
    return broker


_METHODS = ("start", "publish", "subscribe", "unsubscribe", "close")


def check_broker(broker: Any) -> Any:
    """Check a broker as it was declared, a URL or an object. Raises DeclarationError."""
    if isinstance(broker, str):
        scheme = urlsplit(broker).scheme
        if scheme not in SCHEMES:
            # The URL may hold a password, so it is not repeated.
            known = " or ".join(f"{each}://" for each in sorted(SCHEMES))
            raise DeclarationError(f"there is no broker for {scheme or 'no scheme'}://; write {known}")
    elif inspect.isclass(broker):
        raise DeclarationError(f"broker: {broker.__name__} is a class; give an instance: {broker.__name__}(...)")
    else:
        missing = [name for name in _METHODS if not callable(getattr(broker, name, None))]
        if missing:
            raise DeclarationError(f"broker: {broker!r} has no method {missing[0]!r}; see wampkit.Broker")
    return broker
