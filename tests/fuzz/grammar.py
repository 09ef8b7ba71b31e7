"""Messages, frames and handshakes as a peer may send them: most are right, some wrong in one place, few are noise."""

from __future__ import annotations

import base64
import json
import random
import struct
from typing import Any

__all__ = ["PROCEDURES", "TOPICS", "Grammar"]

PROCEDURES = ["echo", "add", "slow", "block", "fail", "item/7", "item/x", "http://example.com/calc#add", "calc:add"]
TOPICS = ["relay", "typed", "room/a", "room/b", "mute", "careful", "nowhere", "calc:relay"]
OWN = ["wampkit:subscription", "http://api.wamp.ws/procedure#authreq", "http://api.wamp.ws/procedure#auth"]

ODD_TEXTS = ["", "\0", "\ud800", "é" * 50, "a" * 2000, "\u2028", "__proto__", "toString", "x:y:z", "#", "{}", " "]
ODD_NUMBERS = [
    "0",
    "-0",
    "1e308",
    "1e309",
    "-1",
    "9" * 19,
    "9" * 400,
    "1.5",
    "2.0",
    "1e-400",
    "0x1",
    "01",
    "NaN",
    "Infinity",
]
CLOSE_CODES = [
    0,
    999,
    1000,
    1001,
    1002,
    1004,
    1005,
    1006,
    1008,
    1011,
    1012,
    1015,
    2999,
    3000,
    4000,
    4401,
    4999,
    5000,
    65535,
]
ODD_BYTES = [b"\0", b"\xff", b"\xc3\x28", b"\r", b"\n", b"\t", b"\x80", b"\x1b[31m", b"\xed\xa0\x80"]


class Grammar:
    """Draws what is sent on one connection.

    Args:
        seed: What decides all of it.
        sids: Session ids that may be named.
    """

    def __init__(self, seed: str, sids: list[str] | None = None) -> None:
        self.random = random.Random(seed)
        self._sids = sids or ["x"]
        self._calls = 0
        # One mistake ends most connections, so that only those that make few get far.
        self._wrong = self.random.choice([0.0, 0.01, 0.05, 0.2])

    def chance(self, share: float) -> bool:
        """True for this share of the questions."""
        return self.random.random() < share

    # ---- values and texts

    def text(self) -> str:
        """A text, odd now and then."""
        return self.random.choice(ODD_TEXTS) if self.chance(0.3) else f"text-{self.random.randrange(100)}"

    def value(self, depth: int = 0) -> Any:
        """A value that JSON can carry."""
        kind = self.random.randrange(9 if depth < 4 else 6)
        match kind:
            case 0:
                return None
            case 1:
                return self.chance(0.5)
            case 2:
                return self.random.randrange(-1000, 1000)
            case 3:
                return self.random.choice([1.5, -0.0, 1e300, 2**53, 2**64, -(2**63), 10**308])
            case 4 | 5:
                return self.text()
            case 6 | 7:
                return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
            case _:
                return {self.text(): self.value(depth + 1) for _ in range(self.random.randrange(4))}

    def json(self, value: Any) -> bytes:
        """A value as JSON, now and then broken."""
        text = json.dumps(value, ensure_ascii=self.chance(0.5)).encode("utf-8", "surrogatepass")
        if not self.chance(self._wrong):
            return text
        return self.random.choice([self._cut, self._swapped, self._odd_number, self._deep, self._odd_byte])(text)

    def _cut(self, text: bytes) -> bytes:
        return text[: self.random.randrange(len(text) + 1)]

    def _swapped(self, text: bytes) -> bytes:
        data = bytearray(text)
        for _ in range(self.random.randrange(1, 4)):
            data[self.random.randrange(len(data))] = self.random.choice(b'[]{}",:\\0123456789eE.-+ utnf\x00\xff')
        return bytes(data)

    def _odd_number(self, text: bytes) -> bytes:
        return text[:-1] + b"," + self.random.choice(ODD_NUMBERS).encode() + b"]"

    def _deep(self, text: bytes) -> bytes:
        depth = self.random.choice([100, 127, 128, 129, 1000, 20000])
        return text[:-1] + b"," + b"[" * depth + b"]" * depth + b"]"

    def _odd_byte(self, text: bytes) -> bytes:
        place = self.random.randrange(len(text) + 1)
        return text[:place] + self.random.choice(ODD_BYTES) + text[place:]

    # ---- messages

    def client_message(self) -> bytes:
        """What a client may send."""
        pick = self.random.choice
        self._calls += 1
        message: list[Any]
        match self.random.randrange(12):
            case 0:
                message = [1, pick(["calc", "chat", "", self.text()]), pick(["http://example.com/calc#", self.text()])]
            case 1 | 2 | 3 | 4:
                arguments = [self.value() for _ in range(self.random.randrange(4))]
                message = [2, f"{self._calls}", pick([*PROCEDURES, *PROCEDURES, *OWN, self.text()]), *arguments]
            case 5 | 6:
                message = [5, pick([*TOPICS, self.text()])]
            case 7:
                message = [6, pick([*TOPICS, self.text()])]
            case 8 | 9 | 10:
                message = [7, pick([*TOPICS, self.text()]), self.value(), *self._receivers()]
            case _ if not self.chance(self._wrong):
                message = [2, f"{self._calls}", "echo"]
            case _:
                message = [pick([0, 3, 4, 8, 9, -1, 1.0, True, "2", None, [], 2**70]), self.value(), self.value()]
        return self.json(self._varied(message))

    def _receivers(self) -> list[Any]:
        ids = [self.random.choice([*self._sids, self.text()]) for _ in range(self.random.randrange(3))]
        return self.random.choice([[], [], [True], [False], [ids], [ids, []], [[], ids], [None, ids], [True, ids]])

    def server_message(self, calls: list[str], topics: list[str]) -> bytes:
        """What a server may send to a client that has made these calls and has these subscriptions."""
        pick = self.random.choice
        call = pick([*calls, *calls, "0", self.text()]) if calls else pick(["0", "1", self.text()])
        topic = pick([*topics, *topics, self.text()]) if topics else self.text()
        message: list[Any]
        match self.random.randrange(8):
            case 0 | 1:
                message = [3, call, self.value()]
            case 2 | 3:
                message = [4, call, pick(["err:teapot", "http://example.com/error#x", self.text()]), self.text()]
                message += [self.value()] if self.chance(0.4) else []
            case 4 | 5 | 6:
                message = [8, topic, self.value()]
            case _ if not self.chance(self._wrong):
                message = [8, topic, None]
            case _:
                message = [pick([0, 1, 2, 5, 7, 9, -1, 8.0, "8", None]), self.text(), self.value(), self.value()]
        return self.json(self._varied(message))

    def welcome(self) -> bytes:
        """The first message of a server, mostly right."""
        if not self.chance(self._wrong):
            return json.dumps([0, f"session-{self.random.random()}", 1, "fuzz/1.0"]).encode()
        return self.json(self._varied([0, self.text(), 1, self.text()]))

    def _varied(self, message: list[Any]) -> Any:
        """A message, now and then with another element, one more or one less."""
        if not self.chance(self._wrong):
            return message
        match self.random.randrange(4):
            case 0:
                message[self.random.randrange(len(message))] = self.value()
            case 1:
                message.insert(self.random.randrange(len(message) + 1), self.value())
            case 2:
                del message[self.random.randrange(len(message))]
            case _:
                return self.value()
        return message

    # ---- frames

    def frames(self, payload: bytes, *, masked: bool) -> bytes:
        """One message in frames: mostly one, now and then fragments, control frames between them, or a wrong one."""
        if self.chance(self._wrong / 5):
            return self._wrong_frame(payload, masked)
        opcode = 2 if self.chance(self._wrong / 5) else 1
        pieces = self._pieces(payload) if self.chance(0.1) else [payload]
        data = b""
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            data += self.frame(opcode if number == 0 else 0, piece, final=last, masked=masked)
            if self.chance(0.05):
                data += self.frame(
                    self.random.choice([9, 10]), self.random.randbytes(self.random.randrange(126)), masked=masked
                )
        return data

    def _pieces(self, payload: bytes) -> list[bytes]:
        cuts = sorted(self.random.randrange(len(payload) + 1) for _ in range(self.random.randrange(1, 4)))
        return [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]

    def _wrong_frame(self, payload: bytes, masked: bool) -> bytes:
        match self.random.randrange(5):
            case 0:
                return self.frame(self.random.choice([3, 7, 11, 15]), payload, masked=masked)
            case 1:
                return self.frame(0, payload, masked=masked)
            case 2:
                return self.frame(1, payload, masked=not masked)
            case 3:
                return self.frame(1, payload, masked=masked, reserved=self.random.choice([0x10, 0x20, 0x40, 0x70]))
            case _:
                return self.frame(9, payload[:200] + bytes(126), masked=masked)

    def frame(self, opcode: int, payload: bytes, *, final: bool = True, masked: bool, reserved: int = 0) -> bytes:
        """One frame, its length now and then written longer than it has to be."""
        size, mask_bit = len(payload), 0x80 if masked else 0
        head = bytes([(0x80 if final else 0) | reserved | opcode])
        if size < 126 and not self.chance(0.01):
            head += bytes([mask_bit | size])
        elif size < 65536:
            head += bytes([mask_bit | 126]) + struct.pack(">H", size)
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
        if not masked:
            return head + payload
        mask = self.random.randbytes(4)
        stream = (mask * (size // 4 + 1))[:size]
        body = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
        return head + mask + body

    def close(self, *, masked: bool) -> bytes:
        """A close frame, with any code and any reason."""
        if self.chance(0.2):
            return self.frame(8, self.random.choice([b"", b"\x03", b"\x03\xe8\xff"]), masked=masked)
        code = struct.pack(">H", self.random.choice(CLOSE_CODES))
        return self.frame(8, code + self.text().encode("utf-8", "replace")[:100], masked=masked)

    def chunks(self, data: bytes) -> list[bytes]:
        """Some bytes as they may arrive: at once, or in pieces."""
        return [data] if self.chance(0.8) else [each for each in self._pieces(data) if each]

    # ---- handshakes

    def request(self) -> bytes:
        """A client's handshake, now and then with a header that is missing, twice there, or odd."""
        lines = [
            b"Host: localhost",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + base64.b64encode(self.random.randbytes(16)),
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Protocol: wamp",
        ]
        if self.chance(0.2):
            lines.append(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        first = b"GET /ws HTTP/1.1"
        if self.chance(0.15):
            place = self.random.randrange(len(lines))
            match self.random.randrange(6):
                case 0:
                    del lines[place]
                case 1:
                    lines.append(lines[place])
                case 2:
                    lines[place] += self.random.choice(ODD_BYTES)
                case 3:
                    extra = [b"Cookie: a=1; b", b"Origin: null", b"X-Forwarded-For: \xff", b"Cookie: \xc3\x28=\x80"]
                    lines.append(self.random.choice(extra))
                case 4:
                    first = self.random.choice(
                        [b"GET / HTTP/1.1", b"POST /ws HTTP/1.1", b"GET /ws\xff HTTP/1.1", b"\x16\x03\x01"]
                    )
                case _:
                    lines.append(b"X-Long: " + b"x" * self.random.choice([100, 9000]))
        return b"\r\n".join([first, *lines, b"", b""])
