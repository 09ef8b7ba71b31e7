"""A server's WebSocket frames as bytes (RFC 6455 section 5.2): final, unmasked, uncompressed."""

from __future__ import annotations

import struct

__all__ = ["close_frame", "ping_frame", "pong_frame", "text_frame"]

_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A
_MAX_REASON = 123


def text_frame(text: bytes) -> bytes:
    """A text frame around text that is UTF-8 already."""
    size = len(text)
    if size < 126:
        return bytes((_TEXT, size)) + text
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


def ping_frame(payload: bytes) -> bytes:
    """A ping; the payload is at most 125 bytes."""
    return bytes((_PING, len(payload))) + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, with its payload."""
    return bytes((_PONG, len(payload))) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; a reason over 123 bytes of UTF-8 is cut at a character."""
    text = reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore").encode()
    return bytes((_CLOSE, 2 + len(text))) + struct.pack(">H", code) + text
