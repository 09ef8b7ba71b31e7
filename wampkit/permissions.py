"""What WAMP-CRA grants: which procedures may be called, which topics used, in the form that v1 clients receive."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Permissions", "ProcedurePermission", "TopicPermission"]


class ProcedurePermission(msgspec.Struct, frozen=True):
    """A rule about one procedure.

    Attributes:
        uri: The full URI; what it grants holds for exactly this one.
        call: Whether it may be called.
    """

    uri: str
    call: bool = True


class TopicPermission(msgspec.Struct, frozen=True, kw_only=True):
    """A rule about a topic, or about all whose URIs begin alike.

    Attributes:
        uri: The full URI.
        prefix: Whether every URI that begins with it is meant.
        pub: Whether clients may publish.
        sub: Whether clients may subscribe.
    """

    uri: str
    prefix: bool = False
    pub: bool = False
    sub: bool = False


class Permissions(msgspec.Struct, frozen=True):
    """What a client may do; whatever is not granted is refused.

    The first topic rule that fits decides, in the order of the list, as in WampSharp.

    Attributes:
        rpc: The rules about procedures.
        pubsub: The rules about topics.
    """

    rpc: tuple[ProcedurePermission, ...] = ()
    pubsub: tuple[TopicPermission, ...] = ()

    def may_call(self, uri: str) -> bool:
        """Whether the procedure with this full URI may be called."""
        return any(rule.call for rule in self.rpc if rule.uri == uri)

    def may_publish(self, uri: str) -> bool:
        """Whether clients may publish to the topic with this full URI."""
        rule = self._rule(uri)
        return rule is not None and rule.pub

    def may_subscribe(self, uri: str) -> bool:
        """Whether clients may subscribe to the topic with this full URI."""
        rule = self._rule(uri)
        return rule is not None and rule.sub

    def _rule(self, uri: str) -> TopicPermission | None:
        for rule in self.pubsub:
            if uri.startswith(rule.uri) if rule.prefix else uri == rule.uri:
                return rule
        return None

    def as_json(self) -> dict[str, Any]:
        """The object that clients receive: `{"rpc": [...], "pubsub": [...]}`."""
        return {
            "rpc": [msgspec.to_builtins(rule) for rule in self.rpc],
            "pubsub": [msgspec.to_builtins(rule) for rule in self.pubsub],
        }
