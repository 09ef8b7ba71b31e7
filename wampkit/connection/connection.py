"""`Connection`: a client, as handlers, hooks, middlewares and views see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..protocol.cra import Permissions
from ..protocol.websocket import CloseCode

if TYPE_CHECKING:
    from ..sessions.session import Session

__all__ = ["Connection"]


class Connection:
    """A client, from its handshake until its socket is closed. Only wampkit makes it.

    Attributes:
        id: The session id of WELCOME: unguessable, but not a credential, since other clients learn it.
        attributes: A dict for the app's own data about this client; middlewares fill it at the handshake.
        request: The aiohttp request of the handshake: headers, cookies, query. Its `remote` may be a proxy's.
        remote: The client's address, taken from a trusted proxy where there is one; None for a unix socket.
        secure: Whether the client speaks TLS, to this server or to a trusted proxy.
        session: The web front end's `Session`, or None without the middleware `Sessions`.
        close_code: The WebSocket close code once the connection has ended, 1006 where no close was agreed.
        close_reason: Why it ended, in words: the peer's, the server's or the keepalive's.
    """

    __slots__ = (
        "__weakref__",
        "_permissions",
        "_roles",
        "_user",
        "attributes",
        "close_code",
        "close_reason",
        "id",
        "remote",
        "request",
        "secure",
        "session",
    )

    def __init__(self, request: web.Request, session_id: str, remote: str | None, secure: bool) -> None:
        self.id: str = session_id
        self.attributes: dict[str, Any] = {}
        self.request: web.Request = request
        self.remote: str | None = remote
        self.secure: bool = secure
        self.session: Session | None = None
        self._user: Any = None
        self._roles: frozenset[str] = frozenset()
        self._permissions: Permissions | None = None
        self.close_code: int | None = None
        self.close_reason: str = ""

    def __repr__(self) -> str:
        return f"<Connection {self.id} from {self.remote}{' (closed)' if self.closed else ''}>"

    @property
    def user(self) -> Any:
        """The user, as a middleware or WAMP-CRA established it; None for an unknown one. Must be hashable."""
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        hash(user)
        before, self._user = self._user, user
        self._user_set(before)
        if user != before:
            self._rights_changed()

    @property
    def roles(self) -> frozenset[str]:
        """The user's roles by name, for `requires`."""
        return self._roles

    @roles.setter
    def roles(self, roles: Iterable[str]) -> None:
        if isinstance(roles, str):
            raise TypeError(f"roles are a set of names, not the text {roles!r}")
        before, self._roles = self._roles, frozenset(roles)  # frozen, so that no change goes unnoticed
        if self._roles != before:
            self._rights_changed()

    @property
    def permissions(self) -> Permissions | None:
        """The permissions that WAMP-CRA granted, or None without a login by it."""
        return self._permissions

    @permissions.setter
    def permissions(self, permissions: Permissions | None) -> None:
        before, self._permissions = self._permissions, permissions
        if permissions != before:
            self._rights_changed()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is closing; nothing more can be sent then."""
        raise NotImplementedError

    @property
    def topics(self) -> tuple[str, ...]:
        """The URIs of the topics that this client is subscribed to."""
        raise NotImplementedError

    @property
    def unsent(self) -> int:
        """Bytes sent that the kernel has not taken yet, because the client reads slowly."""
        raise NotImplementedError

    @property
    def dropped(self) -> int:
        """Events that were dropped because the client read too slowly; see `Limits.slow_reader`."""
        raise NotImplementedError

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection with a close frame (RFC 6455 section 7.4); does not wait.

        Messages sent before are still delivered. A peer that does not answer in time is cut. During the handshake it
        makes the handshake fail.
        """
        raise NotImplementedError

    def _set_close(self, code: int, reason: str) -> None:
        """Set `close_code` and `close_reason`, unless they are set already."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason

    def _user_set(self, before: Any) -> None:
        """Called when `user` has been set."""

    def _rights_changed(self) -> None:
        """Called when `user`, `roles` or `permissions` have changed."""
