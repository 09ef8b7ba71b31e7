"""CALL to its procedure and back: match, pass the middlewares, bind, run, answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import Threads
from ..connection.connection import Connection
from ..errors import answer_for, quote
from ..handlers.hooks import ErrorReporter
from ..protocol import messages
from ..protocol.uris import expand, prefix_advice, undeclared_prefix
from ..protocol.websocket import text_frame
from ..pubsub.topics import Topics
from .compiler import CompiledProcedure, call_chain, is_plain
from .route_table import Names, Table

__all__ = ["Answers", "Calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the app decides about errors; see `App` for what each means."""

    error_uris: Mapping[str, str]
    prefixes: Mapping[str, str]
    debug: bool


class Calls:
    """Runs calls.

    Args:
        procedures: The procedures by URI.
        names: Finds them.
        register: Who is subscribed to what, for handlers that ask.
        middlewares: The app's message middlewares, outermost first; they see unknown URIs too.
        threads: Where blocking handlers run.
        errors: What becomes of exceptions.
        answers: What callers are told.
    """

    def __init__(
        self,
        procedures: Table[CompiledProcedure],
        names: Names,
        register: Topics,
        middlewares: tuple[Any, ...],
        threads: Threads,
        errors: ErrorReporter,
        answers: Answers,
    ) -> None:
        self._procedures = procedures
        self._names = names
        self._errors = errors
        self._answers = answers
        self._cut_off = False
        uri = answers.error_uris["timeout"]
        self._ways = {each: call_chain(each, middlewares, threads, register, uri) for each in (None, *procedures)}
        self._plain = {
            each.route.uri: (each.plan.function, each.plan.bind) for each in procedures if is_plain(each, middlewares)
        }

    def cut_off(self) -> None:
        """Answer the calls that are cancelled from now on too: what has no answer was never begun."""
        self._cut_off = True

    async def call(self, connection: Connection, message: messages.Call) -> None:
        """Run a call and answer it."""
        plain = self._plain.get(message.uri)
        try:
            if plain is not None:
                handler, bind = plain
                result = await handler(*bind(message.args))
            else:
                procedure, variables = self._names.find(self._procedures, message.uri)
                result = await self._ways[procedure](connection, message, variables)
        except BaseException as error:
            if must_propagate(error):
                if self._cut_off:
                    self._send_error(connection, message, "timeout", "the server stopped before the procedure ended")
                raise
            await self.refuse(connection, message, error)
            return
        try:
            text = connection.protocol.result(message.id, result)
        except Exception as error:
            text = await self._unwritable(connection, message, error)
        connection.outbox.send(text_frame(text))

    async def _unwritable(self, connection: Connection, message: messages.Call, error: Exception) -> bytes:
        await self._errors.report(connection, error, f"procedure {quote(message.uri)}: writing its result as JSON")
        description = "the result cannot be written as JSON"
        if self._answers.debug:
            description += f": {error}"
        return connection.protocol.error(message.id, self._answers.error_uris["internal"], description)

    async def refuse(self, connection: Connection, message: messages.Call, error: BaseException) -> None:
        """Answer a call with an error."""
        what = f"procedure {quote(message.uri)}"
        error = await self._errors.as_answer(connection, error, what)
        try:
            uri, description, details = answer_for(error, self._answers.error_uris, debug=self._answers.debug)
            uri = self._error_uri(connection, uri, what)
            text = connection.protocol.error(message.id, uri, description, details)
        except Exception as failure:
            await self._errors.report(connection, failure, f"{what}: writing its error as JSON")
            self._send_error(connection, message, "internal", "the error cannot be written as JSON")
        else:
            connection.outbox.send(text_frame(text))

    def _error_uri(self, connection: Connection, name: str, what: str) -> str:
        """The full error URI of what the app raised; one that no caller can rely on is told in the log."""
        uri = expand(name, self._answers.prefixes)
        prefix = undeclared_prefix(name, self._answers.prefixes)
        problem = "it has two '#', and a URI has one at most" if uri.count("#") > 1 else None
        if prefix is not None:
            problem = prefix_advice(prefix)
        if problem is not None:
            connection.log.add(("error URI", name), f"{what} answered with the error URI {quote(uri)}: {problem}")
        return uri

    def _send_error(self, connection: Connection, message: messages.Call, kind: str, description: str) -> None:
        text = connection.protocol.error(message.id, self._answers.error_uris[kind], description)
        connection.outbox.send(text_frame(text))
