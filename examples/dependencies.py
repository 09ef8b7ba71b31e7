"""Dependencies: what a handler needs is provided, once a message, and ended before the message is answered.

Run it:   wampkit run examples.dependencies:app
Call it:  wampkit call ws://127.0.0.1:8080/ws notes:add '"buy milk"'
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated

from wampkit import App, Connection, Depends

app = App(prefixes={"notes": "http://example.com/notes#"})
FILE = Path(gettempdir(), "wampkit-notes.db")


def database() -> Iterator[sqlite3.Connection]:
    """A generator: behind `yield` it commits, or rolls back after a failure; if it cannot commit, the call fails."""
    with closing(sqlite3.connect(FILE, check_same_thread=False)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS notes (author TEXT, text TEXT)")
        yield db


def author(conn: Connection) -> str:
    """A dependency can be given the connection, or depend on others."""
    return str(conn.attributes.get("user", "anonymous"))


Database = Annotated[sqlite3.Connection, Depends(database)]
Author = Annotated[str, Depends(author)]


@app.rpc("notes:add")
def add(text: str, db: Database, who: Author) -> int:
    """Keep a note and tell how many there are."""
    db.execute("INSERT INTO notes VALUES (?, ?)", (who, text))
    (count,) = db.execute("SELECT count(*) FROM notes").fetchone()
    return int(count)


@app.rpc("notes:list")
def notes(db: Database) -> list[dict[str, str]]:
    """All notes, oldest first."""
    return [{"author": who, "text": text} for who, text in db.execute("SELECT author, text FROM notes")]
