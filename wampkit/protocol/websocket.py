"""WebSocket close codes, and a server's frames as bytes (RFC 6455): final, unmasked, compressed by `deflate` alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache

__all__ = [
    "PONG_WAIT",
    "SHORT_TEXT",
    "TEXT",
    "CloseCode",
    "FrameHeaders",
    "close_frame",
    "deflate",
    "header",
    "is_close_code",
    "ping_frame",
    "pong_frame",
    "text_frame",
]


class CloseCode(IntEnum):
    """The close codes that wampkit sends or reports (RFC 6455 section 7.4.1; those from 4000 are its own).

    Attributes:
        NORMAL: A regular end of the connection.
        GOING_AWAY: The server stops or the page is left.
        PROTOCOL_ERROR: A frame breaks RFC 6455, or a JSON text is no WAMP v1 message.
        UNSUPPORTED_DATA: A binary message; WAMP v1 is text.
        NO_STATUS: Reported where a close frame held no code; never sent.
        ABNORMAL: Reported where a connection ended without a close frame; never sent.
        INVALID_DATA: A text that is not JSON in UTF-8, or compressed data that cannot be inflated.
        POLICY_VIOLATION: The client may not connect, asks for more than `Limits` allow, or failed to log in.
        MESSAGE_TOO_BIG: A message is longer than the receiver takes.
        INTERNAL_ERROR: The server failed while it set up the connection.
        SERVICE_RESTART: The server restarts; clients may come back at once.
        SLOW_READER: Reported where a client was cut because it reads too slowly; never sent.
        SESSION_ENDED: The web session behind the connection has ended, or its user has logged out.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    SLOW_READER = 4008
    SESSION_ENDED = 4401


PONG_WAIT = 0.4
"""The share of the keepalive interval in which the other side must answer a ping."""

TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A

_COMPRESSED = 0x40

_MAX_REASON = 123

SHORT_TEXT = [bytes((TEXT, size)) for size in range(126)]
"""The headers of text frames by the size of their text, which is up to 125 bytes; see `header` for longer ones."""


def text_frame(text: bytes) -> bytes:
    """A text frame; the text is encoded as UTF-8 already."""
    size = len(text)
    return (SHORT_TEXT[size] if size < 126 else header(TEXT, size)) + text


def ping_frame(payload: bytes) -> bytes:
    """A ping frame; the payload has at most 125 bytes."""
    return bytes((_PING, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    """A pong frame with the payload of the ping that it answers."""
    return bytes((_PONG, len(payload))) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; a reason over 123 bytes of UTF-8 is cut at the end of a character."""
    text = reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore").encode()
    return bytes((_CLOSE, 2 + len(text))) + struct.pack(">H", code) + text


def header(first: int, size: int) -> bytes:
    """The header of a frame with a payload of `size` bytes; the first byte tells its type, such as `TEXT`."""
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


# ---- frames of clients


def is_close_code(code: int) -> bool:
    """Whether a close frame may carry a code (RFC 6455, 7.4): 1004 to 1006 and 1015 are never sent."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class FrameHeaders:
    """Follows the headers of a client's frames through the chunks in which they arrive."""

    __slots__ = ("_partial", "_rest")

    def __init__(self) -> None:
        self._partial = b""  # the beginning of a header whose end has not arrived
        self._rest = 0  # bytes of the current frame that are still to come

    def find_unmasked(self, chunk: bytes) -> int:
        """The position in a chunk of the first unmasked frame (0 if it began before), or -1 if all are masked."""
        size = len(chunk)
        if not self._rest and not self._partial and size > 1 and 0 <= chunk[1] - 128 == size - 6 < 126:
            return -1  # the usual chunk: one short frame
        known = len(self._partial)
        data = self._partial + chunk
        size += known
        at = self._rest
        while at + 1 < size:
            length = data[at + 1] - 128
            if length < 0:
                return max(at - known, 0)
            if length < 126:
                at += 6 + length
                continue
            extended = 2 if length == 126 else 8
            if at + 2 + extended > size:
                break
            at += 6 + extended + int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        self._partial = data[at:] if at < size else b""
        self._rest = max(at - size, 0)
        return -1


# ---- permessage-deflate (RFC 7692)


@lru_cache(maxsize=2)  # the same event is sent to many connections
def deflate(frames: bytes, window: int) -> bytes:
    """Compress the text frames among frames of this module, each message by itself.

    A message that refers to no earlier one is valid under any negotiated parameters (RFC 7692, 7.1.1.1) and needs no
    memory between messages; a compressor for each connection would take some 90 kB.

    Args:
        frames: Whole frames.
        window: The negotiated bits of the window, 9 to 15.
    """
    return b"".join(_deflate_frame(first, payload, window) for first, payload in _split(frames))


def _split(frames: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(frames):
        first, size = frames[position], frames[position + 1]
        position += 2
        if size > 125:
            length = 2 if size == 126 else 8
            size = int.from_bytes(frames[position : position + length], "big")
            position += length
        yield first, frames[position : position + size]
        position += size


def _deflate_frame(first: int, payload: bytes, window: int) -> bytes:
    if first != TEXT:
        return header(first, len(payload)) + payload
    compressor = zlib.compressobj(level=1, wbits=-window)
    body = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    body = body[:-4]  # the receiver adds these four bytes again (RFC 7692, 7.2.1)
    return header(first | _COMPRESSED, len(body)) + body
