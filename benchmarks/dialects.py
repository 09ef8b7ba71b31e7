"""What the generator says to a server, and what it must hear: each protocol's words for the same conversation."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ECHO", "SOCKET_IO", "WAMP", "Dialect"]


@dataclass(frozen=True)
class Dialect:
    """Arguments of the generator; its templates are explained in `wampload.c`.

    Attributes:
        greeting: The handshake, and what each connection hears first.
        call: A call and its answer.
        events: How to subscribe, and to prove with a call that it was taken; how to publish; what arrives.
    """

    greeting: tuple[str, ...]
    call: tuple[str, ...]
    events: tuple[str, ...] = ()


# fmt: off
WAMP = Dialect(
    greeting=("--preset", "wamp1", "--proto", "wamp", "--path", "/ws"),
    call=("--mode", "rpc", "--call", '[2,"%I","http://example.com/calc#add",1.5,2]', "--reply", '[3,"%I",3.5]'),
    events=(
        "--sub", '>[5,"%T"]', "--sub", '>[2,"1","http://example.com/calc#add",1.5,2]', "--sub", '<[3,"1",3.5]',
        "--pub", '[7,"%T","%P"]', "--event", '[8,"%T","%P"]',
    ),
)
SOCKET_IO = Dialect(
    greeting=("--preset", "sio"),
    call=("--mode", "rpc", "--call", '42%I["add",1.5,2]', "--reply", "43%I[3.5]"),
    events=(
        "--sub", '>420["sub","%T"]', "--sub", "<430%*", "--sub", '>421["add",1.5,2]', "--sub", "<431[3.5]",
        "--pub", '42["pub","%T","%P"]', "--event", '42["ev","%P"]',
    ),
)
ECHO = Dialect(
    greeting=("--proto", "", "--path", "/", "--noscript"),
    call=("--mode", "echo", "--size", "24"),
)
# fmt: on
