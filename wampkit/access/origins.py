"""Which web pages may connect, decided by the Origin header that browsers send and pages cannot change.

A header is never parsed loosely. Browsers write an origin in one form: lower case, IDNA A-labels, no default port. What
was configured is brought into that form once, and a header is compared with it as a string. A header in any other form
comes from no browser and is refused, even where it could be understood: parsers differ about `https://a@b`, full-width
letters or a backslash, and such differences let strangers in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from .hosts import default_port, is_address, normal_host, read_host

__all__ = ["ANY", "SAME", "AllowOrigins", "Origins", "Verdict"]

ANY = "*"

SAME = "same-origin"

_WRITTEN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[^\s\[\]]*\]|[^\s/?#@\\:\[\]]+)(?::([0-9]{1,5}))?")

_BARE = re.compile(r"(\[[^\s\[\]]*\]|[^\s/?#@\\:\[\]*]+)(?::[0-9]{1,5})?")

_SLASHED = re.compile(r"[a-z][a-z0-9+.-]*://[^/]+/")

_LABELS = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_PORT = re.compile(r"[1-9][0-9]{0,4}")

LITERAL = ("null", "file://")
"""What files and sandboxed frames send; an entry like any text that is no origin, and never meant by another."""

SOCKET_SCHEMES = ("ws", "wss")

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about a header.

    Attributes:
        allowed: Whether the page may connect.
        why: Why, or why not, fit for a log.
        missing: Whether no header came at all, as of clients that are no browsers.
    """

    allowed: bool
    why: str
    missing: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    """An origin that may connect, or with `wild` those of all names below its host."""

    scheme: str
    host: str
    port: int | None
    wild: bool = False

    def __str__(self) -> str:
        port = f":{self.port}" if self.port not in (None, default_port(self.scheme)) else ""
        return f"{self.scheme}://{'*.' if self.wild else ''}{self.host}{port}"

    def matches(self, origin: str) -> bool:
        """Whether an origin is one of a wildcard: scheme, whole labels, the dot and the rest, as strings."""
        head, tail = f"{self.scheme}://", str(self)[len(f"{self.scheme}://*") :]
        if not (origin.startswith(head) and origin.endswith(tail)):
            return False
        return _LABELS.fullmatch(origin[len(head) : -len(tail)]) is not None

    def differences(self, other: _Rule) -> list[str]:
        """In what another origin differs, in words; the host first, as the most important."""
        same = _below(other.host, self.host) if self.wild else other.host == self.host
        found = {"host": not same, "scheme": other.scheme != self.scheme, "port": other.port != self.port}
        if found["scheme"] and (self.port, other.port) == (default_port(self.scheme), default_port(other.scheme)):
            found["port"] = False
        return [name for name, differs in found.items() if differs]


def _below(host: str, parent: str) -> bool:
    return host.endswith(f".{parent}")


class Origins:
    """The origins whose pages may connect.

    Args:
        entries: `https://example.com`, `http://localhost:3000`, `https://*.example.com` for all names below (and not
            that one itself), "same-origin" for pages that came from the very host and port that they connect to, or
            "*" for all. Schemes of packaged apps, as in `capacitor://localhost`, can be named too. A bare host such as
            `example.com` or `127.0.0.1`, "null" and "file://" stand for a header of that very text, which old clients
            that are no browsers send.

    Raises:
        ValueError: One of them is no origin.

    Attributes:
        any: Whether all pages of the world may connect.
        same: Whether those of the own origin may.
        literal: The entries that are no origins, and stand for a header of that very text.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        texts = list(entries)
        self.any = ANY in texts
        self.same = SAME in texts
        self.literal = {text: None for text in texts if isinstance(text, str) and _is_literal(text)}
        self._rules = [_rule(text) for text in texts if text not in (ANY, SAME, *self.literal)]
        self._exact = frozenset(str(rule) for rule in self._rules if not rule.wild)
        self._wild = [rule for rule in self._rules if rule.wild]

    def __iter__(self) -> Iterator[str]:
        """The entries in their normal form."""
        rest = [*self.literal, *([ANY] if self.any else [])]
        return iter([*([SAME] if self.same else []), *map(str, self._rules), *rest])

    def judge(self, headers: Sequence[str], hosts: Sequence[str], *, secure: bool) -> Verdict:
        """Whether the sender of a handshake may connect.

        Args:
            headers: Its Origin headers.
            hosts: Its Host headers.
            secure: Whether the client speaks TLS, to this server or to a proxy before it.
        """
        if self.any:
            return Verdict(True, "any origin may connect")
        if not headers:
            return Verdict(False, "no Origin came, which browsers always send", missing=True)
        if len(headers) > 1:
            return Verdict(False, f"{len(headers)} Origin headers came")
        origin = headers[0]
        if origin in self.literal:
            return Verdict(True, f"the text {quote(origin)} is in the list")
        # Programs write the root's slash, which no browser does: it changes nothing.
        origin = origin[:-1] if _SLASHED.fullmatch(origin) else origin
        fault = _fault(origin)
        if fault is not None:
            return Verdict(False, fault)
        if origin in self._exact or any(rule.matches(origin) for rule in self._wild):
            return Verdict(True, f"the origin {quote(origin)} is in the list")
        return self._compare(origin, hosts, secure)

    def _compare(self, origin: str, hosts: Sequence[str], secure: bool) -> Verdict:
        """The verdict on an origin that is not in the list by name."""
        rules, given = list(self._rules), _parts(origin)
        own = None
        if self.same:
            try:
                own = _own(hosts, secure)
            except ValueError as error:
                return Verdict(False, str(error))
            if origin == str(own):
                return Verdict(True, f"the origin {quote(origin)} is the server's own")
            rules.append(own)
        why = _difference(given, rules, own)
        bare = given.host if given.host in self.literal else None
        if bare is not None:
            why += f"; {bare!r} in the list is a header of that text alone: write {given} for its pages"
        return Verdict(False, why)


def _is_literal(text: str) -> bool:
    """Whether an entry is a text that no page of a web site sends: a bare host, or what files and frames send."""
    if text in (*LITERAL, ANY, SAME):
        return text in LITERAL
    found = _BARE.fullmatch(text)
    if found is None:
        return False
    try:
        normal_host(found[1])
    except ValueError:
        return False
    return True


def _rule(text: str) -> _Rule:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text; write each origin as an argument of its own")
    scheme, separator, rest = text.partition("://")
    found = _WRITTEN.fullmatch(f"{scheme.lower()}{separator}{rest}".removesuffix("/"))
    if found is None or (found[3] is not None and not 0 < int(found[3]) < 65536):
        raise ValueError(f"{text!r} is no origin; write scheme://host or scheme://host:port, or same-origin")
    scheme, name = found[1], found[2]
    if scheme in SOCKET_SCHEMES:
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
    return _Rule(scheme, host, int(found[3]) if found[3] is not None else default_port(scheme), wild)


def _own(hosts: Sequence[str], secure: bool) -> _Rule:
    """The origin of pages that come from the address that a handshake was sent to."""
    host, port = read_host(hosts)
    scheme = "https" if secure else "http"
    return _Rule(scheme, host, port if port is not None else default_port(scheme))


# ---- a header's form


def _fault(origin: str) -> str | None:
    """What shows that no browser has written a header, or None."""
    if not origin:
        return "the Origin header is empty"
    if origin == "null":
        return "the origin is 'null', which sandboxed frames, files and redirected pages send"
    fault = _strange_text(origin) or _strange_form(origin)
    return f"the origin {quote(origin)} {fault}" if fault is not None else None


def _strange_text(origin: str) -> str | None:
    if not origin.isascii():
        return "is not ASCII: browsers send international names as xn--"
    if any(each <= " " or each == "\x7f" for each in origin):
        return "holds spaces or control characters"
    if origin != origin.lower():
        return "is not in lower case, as browsers send it"
    return None


_STRANGE = {
    "@": "names a user",
    "\\": "holds a backslash",
    "/": "has a path",
    "?": "has a query",
    "#": "has a fragment",
    "%": "holds an escape",
    ",": "is a list",
}


def _strange_form(origin: str) -> str | None:
    scheme, separator, rest = origin.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "is not scheme://host"
    strange = next((fault for each, fault in _STRANGE.items() if each in rest), None)
    if strange is not None:
        return strange
    host, colon, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    if not colon:
        host = rest
    if not host:
        return "has no host"
    if colon and not port:
        return "ends in a colon"
    if host.endswith("."):
        return "has a dot behind its host"
    if colon and not (_PORT.fullmatch(port) and int(port) < 65536):
        return "has no valid port"
    return "names the default port, which browsers leave out" if colon and int(port) == default_port(scheme) else None


def _parts(origin: str) -> _Rule:
    """The parts of a header that has the right form."""
    scheme, _, rest = origin.partition("://")
    host, colon, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    return _Rule(scheme, host if colon else rest, int(port) if colon else default_port(scheme))


# ---- saying why


def _difference(given: _Rule, rules: list[_Rule], own: _Rule | None) -> str:
    """What keeps an origin out: in what it differs from the one that is nearest."""
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


def _hint(given: _Rule, differs: list[str]) -> str:
    """What may be behind a page that seems to come from elsewhere."""
    if "scheme" in differs and "host" not in differs and given.scheme == "https":
        return "is a TLS proxy in front? name it with trusted_proxies"
    if "host" in differs:
        return "if these pages are yours, name them in AllowOrigins, or let the proxy in front pass Host on"
    return "if these pages are yours, name them in AllowOrigins"


# ---- origins


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
        DeclarationError: One of them is no origin, or nobody could get in.
    """

    def __init__(self, *origins: str, allow_missing: bool = False) -> None:
        if not origins and not allow_missing:
            raise DeclarationError('AllowOrigins() would let nobody in; name origins, or "same-origin"')
        try:
            self._origins = Origins(origins)
        except ValueError as error:
            raise DeclarationError(f"AllowOrigins: {error}") from None
        self._allow_missing = allow_missing

    @property
    def any(self) -> bool:
        """Whether the pages of any site may connect."""
        return self._origins.any

    async def connect(self, connection: Connection) -> str:
        """Compare the header as it is: an origin is a text of one form, and whatever differs is another origin."""
        headers = connection.request.headers
        origins, hosts = headers.getall("Origin", []), headers.getall("Host", [])
        verdict = self._origins.judge(origins, hosts, secure=connection.secure)
        if verdict.allowed:
            return verdict.why
        if not verdict.missing:
            raise Refused("pages of this origin may not connect", verdict.why)
        if not self._allow_missing:
            raise Refused("clients without an Origin may not connect", f"{verdict.why}; allow_missing=True lets it in")
        return "no Origin came, so that this is no page"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        if self.any:
            return "lets in the pages of any site"
        shown = {SAME: "the server's own origin"}
        pages = ", ".join(shown.get(each, each) for each in self._origins if each not in self._origins.literal)
        kinds = [f"pages of {pages}"] if pages else []
        kinds += [f"the Origin {each!r}" for each in self._origins.literal]
        return f"lets in {' and '.join([*kinds, *(['clients without Origin'] if self._allow_missing else [])])}"
