"""What a server may send that a client must stand: for `wampkit.js` and for the Python client, one table."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

__all__ = ["CLOSES", "EXPECTED", "FIRST", "ROWS", "TRY_EACH", "misbehave"]

WELCOME = '[0,"s",1,"Other/1.0"]'

ROWS: list[tuple[str, bool]] = [
    # what is JSON, but no message
    ("", False),
    ("null", False),
    ("true", False),
    ("8", False),
    ('"text"', False),
    ("{}", False),
    ("[]", False),
    ("[null]", False),
    ("[[8]]", False),
    ('{"0":8,"1":"t","2":1,"length":3}', False),
    ("not json", False),
    ("[" * 100_000, False),
    ('[8,"t",' + "[" * 100_000, False),
    ('[8,"t",1]]', False),
    # types that are none
    ('[-1,"t",1]', False),
    ('[9,"t",1]', False),
    ('[1e999,"t",1]', False),
    ('["8","t",1]', False),
    ('["length","t",1]', False),
    ('["__proto__","t",1]', False),
    ('[true,"t",1]', False),
    ('[null,"t",1]', False),
    ('[{"valueOf":8},"t",1]', False),
    ('[[8],"t",1]', False),
    # what only clients send
    ('[2,"c","call me"]', False),
    ('[2,"c","call me",1]', False),
    ('[5,"t"]', False),
    ('[6,"t"]', False),
    ('[7,"t",1]', False),
    # WELCOME again, or none
    ('[0,"again",1,"x"]', False),
    ('[0,{"endsWith":1},1,"x"]', False),
    # EVENT
    ("[8]", False),
    ('[8,"t"]', False),
    ("[8,5,1]", False),
    ("[8,null,1]", False),
    ('[8,{"trim":1},1]', False),
    ('[8,{"replace":1,"trim":1},1]', False),
    ('[8,["t"],1]', False),
    ('[8,"unknown",{"a":[1]}]', True),
    ('[8,"",null]', True),
    ('[8,"__proto__",1]', True),
    ('[8,"a:b:c",1]', True),
    ('[8,"\\ud800",1]', True),
    # CALLRESULT
    ("[3]", False),
    ('[3,"0"]', False),
    ("[3,0,1]", False),
    ("[3,null,1]", False),
    ('[3,{"toString":1},1]', False),
    ('[3,"unknown",1]', True),
    ('[3,"__proto__",1]', True),
    ('[3,"constructor",null]', True),
    # CALLERROR
    ("[4]", False),
    ('[4,"0"]', False),
    ('[4,0,"u","d"]', False),
    ('[4,["0"],"u","d"]', False),
    ('[4,"unknown","u","d"]', True),
    ('[4,"unknown",null,null]', True),
    ('[4,"unknown",{"toString":1},{"replace":1},[]]', True),
    ('[4,"unknown",5,[],null]', True),
    # PREFIX, which Ratchet and BabDev can send
    ('[1,"t","http://t/"]', True),
    ('[1,"__proto__","x"]', True),
    ('[1,"t"]', False),
    ('[1,"t",5]', False),
    ('[1,5,"u"]', False),
]
"""A text that comes after WELCOME, and whether the client goes on; else it leaves the server."""

FIRST: list[tuple[str, bool]] = [
    (WELCOME, True),
    ('[0,"",1,""]', True),
    ('[0,"s",1]', True),
    ('[0,"s",1,5]', True),
    ('[0,"s",1,null]', True),
    ('[0,"s",1,{"startsWith":1}]', True),
    ('[0,"s","1","x"]', False),
    ('[0,5,1,"x"]', False),
    ('[0,{"endsWith":1,"trim":1},1,"x"]', False),
    ('[0,null,1,"x"]', False),
    ("[0]", False),
    ('[0,"s"]', False),
    ('[8,"t",1]', False),
    ('[3,"0",1]', False),
    ('[1,"p","u"]', False),
    ("", False),
]
"""The first text of a server, and whether that is a welcome."""

CLOSES: list[tuple[int, bytes]] = [
    (1000, b""),
    (1001, "grüße".encode()),
    (1002, b"x" * 123),
    (1012, b"the server restarts"),
    (3000, b"y" * 123),
    (4999, b'{"a":1}\n\x1b[31m'),
]
"""Closes that are not final."""

_LEFT = ["ConnectionLost", 1002, "closed", 1002]

EXPECTED: list[tuple[str, list[Any]]] = [
    *((text[:60], ["answered", "open", None] if goes_on else _LEFT) for text, goes_on in (*ROWS, *FIRST)),
    *((str(code), ["ConnectionLost", code, "closed", code]) for code, _ in CLOSES),
]
"""For `wampkit.js`: a name of each row, and how a call ends, the client's state, and the code of its error."""

TRY_EACH = """async (connect, url, rows, uncaught) => {
  const wrong = [];
  for (const [row, [name, expected]] of rows.entries()) {
    const client = connect(`${url}?row=${row}`, { reconnect: false, prefixes: { a: "http://a/" } });
    client.subscribe("t", () => {});
    const ends = await client.call("echo").then((result) => [result], ({ name, code }) => [name, code]);
    await new Promise((resolve) => setTimeout(resolve, 1));
    const seen = [...ends, client.state, client.error && client.error.code, ...uncaught.splice(0)];
    if (JSON.stringify(seen) !== JSON.stringify(expected)) wrong.push([name, seen]);
    client.close();
  }
  return wrong;
}"""
"""The script that tries all of them, and gives those that end otherwise."""


async def misbehave(ws: web.WebSocketResponse) -> None:
    """A script of `Foreign`: the row is the number in the client's URL, counted through the three tables."""
    assert ws._req is not None
    row = int(ws._req.query["row"])
    first = FIRST[row - len(ROWS)][0] if len(ROWS) <= row < len(ROWS) + len(FIRST) else WELCOME
    await ws.send_str(first)
    call = await _next_call(ws)
    if row >= len(ROWS) + len(FIRST):
        code, reason = CLOSES[row - len(ROWS) - len(FIRST)]
        await ws.close(code=code, message=reason)
        return
    if row < len(ROWS):
        await ws.send_str(ROWS[row][0])
    if call is not None:
        await ws.send_str(json.dumps([3, call[1], "answered"]))
        await ws.receive()


async def _next_call(ws: web.WebSocketResponse) -> list[Any] | None:
    async for frame in ws:
        message: list[Any] = frame.json()
        if message[0] == 2:
            return message
    return None
