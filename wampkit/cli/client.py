"""What `wampkit call`, `publish` and `subscribe` do: connect, do one thing, and say what went wrong in one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client.client import Client, connect
from ..client.state import State
from ..client.subscriptions import Subscription
from ..errors import ConnectionLost
from ..runner.loading import USAGE, CommandError

__all__ = ["Server", "call", "json_text", "publish", "subscribe"]

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Whom to talk to, and how.

    Attributes:
        url: A ws:// or wss:// URL.
        prefixes: Prefix to URI, for the CURIEs of this command.
        headers: HTTP headers of the handshake.
        origin: The Origin header, or None for none.
        authkey: As whom to log in, or None for not at all.
        secret: The secret of the authkey.
        timeout: Seconds to wait for the connection, and for the answer to a call.
        cookies: Cookies of the handshake.
        cafile: Certificates to trust in place of the system's, or None.
        insecure: Whether any certificate is accepted.
    """

    url: str
    prefixes: Mapping[str, str]
    headers: Mapping[str, str]
    origin: str | None
    authkey: str | None = None
    secret: str | None = field(default=None, repr=False)
    timeout: float
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    cafile: Path | None = None
    insecure: bool = False

    def ssl(self) -> ssl.SSLContext | bool:
        """How the server's certificate is verified.

        Raises:
            CommandError: The file of certificates cannot be read, or both options contradict each other.
        """
        if self.cafile is None:
            return not self.insecure
        if self.insecure:
            raise CommandError("--insecure accepts any certificate; leave out --cafile", USAGE)
        try:
            return ssl.create_default_context(cafile=self.cafile)
        except ssl.SSLError:
            raise CommandError(f"--cafile {self.cafile}: there is no certificate (PEM) in it", USAGE) from None
        except OSError as error:
            raise CommandError(f"--cafile {self.cafile}: {error.strerror}", USAGE) from None


async def call(server: Server, procedure: str, args: Sequence[Any]) -> Any:
    """The result of a call. Raises CallError, and CommandError where no answer came."""
    async with _connected(server) as client:
        return await client.call(procedure, *args, timeout=server.timeout)


async def publish(server: Server, topic: str, event: Any, **receivers: Any) -> None:
    """Publish an event and wait for what the server says to it, if it says anything.

    Args:
        server: Whom to talk to.
        topic: A URI or CURIE.
        event: Anything JSON can carry.
        receivers: The options of `Client.publish`.

    Raises:
        CallError: The server refused it.
        CommandError: The connection could not be made or was lost, or no answer came.
    """
    async with _connected(server) as client:
        await client.publish(topic, event, confirm=True, timeout=server.timeout, **receivers)


async def subscribe(server: Server, topics: Sequence[str], on_event: Callable[[str, Any], object], say: Say) -> None:
    """Hand on each event until SIGINT or SIGTERM, across lost connections.

    Args:
        server: Whom to talk to.
        topics: Which topics, as URIs or CURIEs.
        on_event: Called with topic and event; what it raises ends the subscription and is raised.
        say: Called with a line for the user about the connection.

    Raises:
        CommandError: The connection could not be made, or is lost for good, or the server refused all topics.
    """
    async with _connected(server, on_state=_narrator(say)) as client, contextlib.AsyncExitStack() as stack:
        entered = [await stack.enter_async_context(client.subscribe(topic)) for topic in dict.fromkeys(topics)]
        for each in entered:
            if each.accepted is not False:  # a refusal has been logged
                say(f"subscribed to {json_text(each.topic)}")
        if all(each.accepted is False for each in entered):
            raise CommandError("no subscription is left to wait for")
        stop = _signalled()
        readers = [asyncio.create_task(_read(each, on_event)) for each in entered]
        waiter = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({waiter, *readers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiter, *readers):
                task.cancel()
        for task in done:
            task.result()
        if not stop.is_set():
            raise client.error or ConnectionLost("the server closed the connection")


async def _read(events: Subscription, on_event: Callable[[str, Any], object]) -> None:
    async for event in events:
        on_event(events.topic, event)


def _signalled() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _narrator(say: Say) -> Callable[[State], None]:
    lost = False

    def tell(state: State) -> None:
        nonlocal lost
        if state is State.RECONNECTING:
            lost = True
            say("the connection is lost; trying to make it again")
        elif state is State.OPEN and lost:
            lost = False
            say("connected again")

    return tell


@contextlib.asynccontextmanager
async def _connected(server: Server, on_state: Callable[[State], None] | None = None) -> AsyncIterator[Client]:
    try:
        async with connect(
            server.url,
            prefixes=server.prefixes,
            headers=server.headers,
            cookies=server.cookies,
            ssl=server.ssl(),
            origin=server.origin,
            authkey=server.authkey,
            secret=server.secret,
            open_timeout=server.timeout,
            on_state=on_state,
        ) as client:
            yield client
    except ConnectionLost as error:
        raise CommandError(error.reason) from error
    except TimeoutError as error:
        raise CommandError(f"{error} (--timeout)") from error
    except ValueError as error:
        raise CommandError(str(error), USAGE) from error


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON that a terminal can be shown: whatever is not printable is escaped."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
