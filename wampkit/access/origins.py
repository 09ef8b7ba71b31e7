"""Gate by the web page's origin: `AllowOrigins`. Browsers send the Origin header, and pages cannot change it.

A header is never parsed loosely. Browsers write an origin in one form: lower case, IDNA A-labels, no default port. The
configuration is brought into that form once, and a header is compared with it as a string. A header in any other form
comes from no browser and is refused, even where it could be understood: parsers differ about `https://a@b`, full-width
letters or a backslash, and such differences let strangers in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from .hosts import default_port, is_address, normal_host, read_host, read_port, split_port

__all__ = ["SAME", "AllowOrigins"]

ANY = "*"

SAME = "same-origin"

LITERAL = ("null", "file://")
"""The Origin headers of files and of sandboxed frames; as an entry each matches exactly that header."""

SHOWN = 3
"""Origins that a refusal names one by one."""


class AllowOrigins:
    """Lets in web pages of the listed origins only.

    Without it in an app's list, pages of the server's own origin may connect, and clients that are no browsers.

    Args:
        *origins: Scheme, host and port: `https://example.com`, `http://localhost:3000`; `https://*.example.com` for
            all names below a host, itself not included; "same-origin" for pages that come from the very host and
            port that they connect to; or "*" for the pages of any site, which turns the check off. A bare host such as
            `example.com` or `127.0.0.1`, "null" and "file://" mean a header of that very text: old clients that are no
            browsers send such. Of these "null" is nearly as good as "*", as any site's page can send it from a frame.
        allow_missing: Whether clients that send no Origin, which every browser does, are let in.

    Raises:
        DeclarationError: One of them is no origin, or the list would let in no client.
    """

    def __init__(self, *origins: str, allow_missing: bool = False) -> None:
        if not origins and not allow_missing:
            raise DeclarationError('AllowOrigins() would let nobody in; name origins, or "same-origin"')
        try:
            self._literal = {text: None for text in origins if isinstance(text, str) and _is_literal(text)}
            self._rules = [_read_entry(text) for text in origins if text not in (ANY, SAME, *self._literal)]
        except ValueError as error:
            raise DeclarationError(f"AllowOrigins: {error}") from None
        self._any = ANY in origins
        self._same = SAME in origins
        self._exact = frozenset(str(rule) for rule in self._rules if not rule.wild)
        self._wild = [rule for rule in self._rules if rule.wild]
        self._allow_missing = allow_missing

    @property
    def any(self) -> bool:
        """Whether the pages of any site may connect."""
        return self._any

    async def connect(self, connection: Connection) -> str:
        """Check the Origin header. Raises Refused."""
        headers = connection.request.headers
        origins = headers.getall("Origin", [])
        if self._any:
            return "any origin may connect"
        if not origins and self._allow_missing:
            return "no Origin came, so that this is no page"
        if not origins:
            why = "no Origin came, which browsers always send; allow_missing=True lets it in"
            raise Refused("clients without an Origin may not connect", why)
        try:
            return self._check(origins, headers.getall("Host", []), connection.secure)
        except ValueError as error:
            raise Refused("pages of this origin may not connect", str(error)) from None

    def describe(self) -> str:
        """A description for `wampkit check`."""
        if self._any:
            return "lets in the pages of any site"
        pages = ", ".join([*(["the server's own origin"] if self._same else []), *map(str, self._rules)])
        kinds = [f"pages of {pages}"] if pages else []
        kinds += [f"the Origin {each!r}" for each in self._literal]
        return f"lets in {' and '.join([*kinds, *(['clients without Origin'] if self._allow_missing else [])])}"

    def _check(self, headers: Sequence[str], hosts: Sequence[str], secure: bool) -> str:
        """Why the page of these Origin and Host headers may connect. Raises ValueError with the reason if not."""
        if len(headers) > 1:
            raise ValueError(f"{len(headers)} Origin headers came")
        origin = headers[0]
        if origin in self._literal:
            return f"the text {quote(origin)} is in the list"
        # Programs write the root's slash, which no browser does: it changes nothing.
        origin = origin[:-1] if _SLASHED.fullmatch(origin) else origin
        fault = _fault(origin)
        if fault is not None:
            raise ValueError(fault)
        if origin in self._exact or any(rule.matches(origin) for rule in self._wild):
            return f"the origin {quote(origin)} is in the list"
        own = _own_origin(hosts, secure) if self._same else None
        if own is not None and origin == str(own):
            return f"the origin {quote(origin)} is the server's own"
        given = _read_origin(origin)
        why = _difference(given, self._rules if own is None else [*self._rules, own], own)
        if given.host in self._literal:
            why += f"; {given.host!r} in the list is a header of that text alone: write {given} for its pages"
        raise ValueError(why)


# ---- the entries


@dataclass(frozen=True, slots=True)
class _Origin:
    """An origin; as an entry with `wild`, those of all names below its host."""

    scheme: str
    host: str
    port: int | None
    wild: bool = False

    def __str__(self) -> str:
        port = f":{self.port}" if self.port not in (None, default_port(self.scheme)) else ""
        return f"{self.scheme}://{'*.' if self.wild else ''}{self.host}{port}"

    def matches(self, origin: str) -> bool:
        """Whether a wildcard entry holds an origin: scheme, whole labels, the dot and the rest, as strings."""
        head, tail = f"{self.scheme}://", str(self)[len(f"{self.scheme}://*") :]
        if not (origin.startswith(head) and origin.endswith(tail)):
            return False
        return _LABELS.fullmatch(origin[len(head) : -len(tail)]) is not None

    def differences(self, other: _Origin) -> list[str]:
        """The names of the parts in which another origin differs; the host first, as the most important."""
        same = other.host.endswith(f".{self.host}") if self.wild else other.host == self.host
        found = {"host": not same, "scheme": other.scheme != self.scheme, "port": other.port != self.port}
        if found["scheme"] and (self.port, other.port) == (default_port(self.scheme), default_port(other.scheme)):
            found["port"] = False
        return [name for name, differs in found.items() if differs]


_LABELS = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")

_ENTRY = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[^\s\[\]]*\]|[^\s/?#@\\:\[\]]+)(?::([0-9]{1,5}))?")


def _is_literal(text: str) -> bool:
    """Whether an entry is a text that no page of a web site sends: a bare host, or what files and frames send."""
    if text in (*LITERAL, ANY, SAME):
        return text in LITERAL
    host, port = split_port(text)
    try:
        return bool(normal_host(host) and (port is None or read_port(port)))
    except ValueError:
        return False


def _read_entry(text: str) -> _Origin:
    """The origin that an entry names. Raises ValueError if it names none."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text; write each origin as an argument of its own")
    scheme, separator, rest = text.partition("://")
    found = _ENTRY.fullmatch(f"{scheme.lower()}{separator}{rest}".removesuffix("/"))
    try:
        if found is None:
            raise ValueError
        scheme, name = found[1], found[2]
        port = default_port(scheme) if found[3] is None else read_port(found[3])
    except ValueError:
        raise ValueError(f"{text!r} is no origin; write scheme://host or scheme://host:port, or same-origin") from None
    if scheme in ("ws", "wss"):
        raise ValueError(f"{text!r} is no origin: the origin is the page's, so that it begins with http or https")
    wild = name.startswith("*.")
    try:
        host = normal_host(name.removeprefix("*."))
    except ValueError:
        raise ValueError(f"{text!r} is no origin: it has no valid host name") from None
    if wild and is_address(host):
        raise ValueError(f"{text!r} is no origin: an address has no names below it")
    if wild and default_port(scheme) is None:
        raise ValueError(f"{text!r} is no origin: only http and https have names below a host")
    return _Origin(scheme, host, port, wild)


def _own_origin(hosts: Sequence[str], secure: bool) -> _Origin:
    """The origin of pages from the host and port that a handshake was sent to. Raises ValueError, fit for a log."""
    host, port = read_host(hosts)
    scheme = "https" if secure else "http"
    return _Origin(scheme, host, port if port is not None else default_port(scheme))


# ---- a header

_SLASHED = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+/")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_FOREIGN_CHARACTERS = {
    "@": "names a user",
    "\\": "holds a backslash",
    "/": "has a path",
    "?": "has a query",
    "#": "has a fragment",
    "%": "holds an escape",
    ",": "is a list",
}


def _fault(origin: str) -> str | None:
    """Why a header cannot have been written by a browser, or None."""
    if not origin:
        return "the Origin header is empty"
    if origin == "null":
        return "the origin is 'null', which sandboxed frames, files and redirected pages send"
    fault = _fault_of_text(origin) or _fault_of_form(origin)
    return f"the origin {quote(origin)} {fault}" if fault is not None else None


def _fault_of_text(origin: str) -> str | None:
    if not origin.isascii():
        return "is not ASCII: browsers send international names as xn--"
    if any(each <= " " or each == "\x7f" for each in origin):
        return "holds spaces or control characters"
    if origin != origin.lower():
        return "is not in lower case, as browsers send it"
    return None


def _fault_of_form(origin: str) -> str | None:
    scheme, separator, rest = origin.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "is not scheme://host"
    foreign = next((fault for each, fault in _FOREIGN_CHARACTERS.items() if each in rest), None)
    if foreign is not None:
        return foreign
    host, port = split_port(rest)
    if not host:
        return "has no host"
    if port == "":
        return "ends in a colon"
    if host.endswith("."):
        return "has a dot behind its host"
    return None if port is None else _fault_of_port(port, scheme)


def _fault_of_port(text: str, scheme: str) -> str | None:
    try:
        port = read_port(text)
    except ValueError:
        return "has no valid port"
    if text != str(port):
        return "has no valid port"
    return "names the default port, which browsers leave out" if port == default_port(scheme) else None


def _read_origin(text: str) -> _Origin:
    """The origin in a header that has the right form."""
    scheme, _, rest = text.partition("://")
    host, port = split_port(rest)
    return _Origin(scheme, host, default_port(scheme) if port is None else int(port))


# ---- saying why


def _difference(given: _Origin, rules: list[_Origin], own: _Origin | None) -> str:
    """Why an origin is refused: the parts in which it differs from the nearest entry."""
    shown = quote(str(given))
    if not rules:
        return f"the origin {shown} may not connect: no page may"
    near = min(rules, key=lambda rule: ("host" in rule.differences(given), len(rule.differences(given))))
    differs = near.differences(given)
    if "host" in differs and len(rules) > 1:
        listed = ", ".join(map(str, rules[:SHOWN])) + (f" and {len(rules) - SHOWN} more" if len(rules) > SHOWN else "")
        return f"the origin {shown} is none of {listed}"
    if not differs:
        return f"the origin {shown} has a name before .{near.host} that is not made of a-z, 0-9 and -"
    text = f"the origin {shown} differs from {near} in its {' and '.join(differs)}"
    return f"{text}: {_hint(given, differs)}" if near is own else text


def _hint(given: _Origin, differs: list[str]) -> str:
    """Advice about a page that is not of the server's own origin, by the parts that differ."""
    if "scheme" in differs and "host" not in differs and given.scheme == "https":
        return "is a TLS proxy in front? name it with trusted_proxies"
    if "host" in differs:
        return "if these pages are yours, name them in AllowOrigins, or let the proxy in front pass Host on"
    return "if these pages are yours, name them in AllowOrigins"
