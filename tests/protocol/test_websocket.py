"""Frames as RFC 6455 wants them, read back by an independent reader."""

import pytest

from wampkit.protocol.websocket import close_frame, ping_frame, pong_frame, text_frame

from ..support.tables import rows


def read(frame: bytes) -> tuple[int, bytes]:
    """The first byte and the payload of one unmasked frame, which must be all there is."""
    size, start = frame[1], 2
    assert size < 128, "a server does not mask"
    if size == 126:
        size, start = int.from_bytes(frame[2:4], "big"), 4
        assert size >= 126, "the shortest form is required"
    elif size == 127:
        size, start = int.from_bytes(frame[2:10], "big"), 10
        assert size >= 65536, "the shortest form is required"
    assert len(frame) == start + size
    return frame[0], frame[start:]


@rows("size", [0, 1, 125, 126, 127, 65535, 65536, 1_000_000])
def test_text_of_any_length(size: int) -> None:
    """A text frame is final, carries its text, and gives its length in the shortest form."""
    assert read(text_frame(b"x" * size)) == (0x81, b"x" * size)


def test_pings_and_pongs() -> None:
    """Control frames carry their payload."""
    assert read(ping_frame(b"abcd")) == (0x89, b"abcd")
    assert read(pong_frame(b"")) == (0x8A, b"")


def test_close_carries_code_and_reason() -> None:
    """A close frame is the code in two bytes and the reason in UTF-8."""
    assert read(close_frame(1002, "für dich")) == (0x88, b"\x03\xea" + "für dich".encode())


@pytest.mark.parametrize("reason", ["x" * 500, "ü" * 100, "☃" * 60, "\ud800" * 200])
def test_a_long_reason_is_cut_at_a_character(reason: str) -> None:
    """A control frame has at most 125 bytes, and its reason stays valid UTF-8."""
    first, payload = read(close_frame(1000, reason))
    assert first == 0x88
    assert 100 < len(payload) <= 125
    payload[2:].decode("utf-8", "strict")
