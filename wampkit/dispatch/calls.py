"""Runs CALL messages: find the procedure, pass the middlewares, bind the arguments, run the handler, answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import Threads
from ..connection.server_connection import ServerConnection
from ..errors import answer_for, quote
from ..handlers.hooks import ErrorReporter
from ..protocol import messages
from ..protocol.uris import expand, prefix_problem
from ..pubsub.registry import TopicRegistry
from .compiler import CompiledProcedure, call_chain, is_plain
from .route_table import RouteTable

__all__ = ["Calls"]


class Calls:
    """Runs calls.

    Args:
        procedures: The procedures by URI.
        registry: The subscribers, for handlers that take a `Topic`.
        middlewares: The app's message middlewares, outermost first; calls to unknown URIs pass them too.
        threads: Runs blocking handlers.
        errors: Answers and reports exceptions.
        error_uris: The error URI of each kind of error.
        prefixes: The app's prefixes, which expand the error URIs that it raises.
        debug: Whether callers see the text of unexpected exceptions.
    """

    def __init__(
        self,
        procedures: RouteTable[CompiledProcedure],
        registry: TopicRegistry,
        middlewares: tuple[Any, ...],
        threads: Threads,
        errors: ErrorReporter,
        *,
        error_uris: Mapping[str, str],
        prefixes: Mapping[str, str],
        debug: bool,
    ) -> None:
        self._procedures = procedures
        self._errors = errors
        self._error_uris = error_uris
        self._prefixes = prefixes
        self._debug = debug
        self._answers_cancelled = False
        timeout_uri = error_uris["timeout"]
        self._chains = {
            each: call_chain(each, middlewares, threads, registry, timeout_uri) for each in (None, *procedures)
        }
        self._plain = {
            each.route.uri: (each.plan.function, each.plan.wire.bind)
            for each in procedures
            if is_plain(each, middlewares)
        }

    def answer_cancelled(self) -> None:
        """Answer calls that are cancelled from now on with a timeout error: the server stops, their clients are there.

        A client may take a call without an answer for one that never ran.
        """
        self._answers_cancelled = True

    async def call(self, connection: ServerConnection, message: messages.Call) -> None:
        """Run a call and answer it."""
        plain = self._plain.get(message.uri)
        try:
            if plain is not None:
                handler, bind = plain
                result = await handler(*bind(message.args))
            else:
                procedure, variables = self._procedures.find(message.uri)
                result = await self._chains[procedure](connection, message, variables)
        except BaseException as error:
            if must_propagate(error):
                if self._answers_cancelled:
                    self._send_error(connection, message, "timeout", "the server stopped before the procedure ended")
                raise
            await self.refuse(connection, message, error)
            return
        try:
            text = connection.protocol.result(message.id, result)
        except Exception as error:
            text = await self._unwritable(connection, message, error)
        connection.outbox.send_text(text)

    async def _unwritable(self, connection: ServerConnection, message: messages.Call, error: Exception) -> bytes:
        await self._errors.report(connection, error, f"procedure {quote(message.uri)}: writing its result as JSON")
        description = "the result cannot be written as JSON"
        if self._debug:
            description += f": {error}"
        return connection.protocol.error(message.id, self._error_uris["internal"], description)

    async def refuse(self, connection: ServerConnection, message: messages.Call, error: BaseException) -> None:
        """Answer a call with an error."""
        what = f"procedure {quote(message.uri)}"
        error = await self._errors.as_answer(connection, error, what)
        try:
            uri, description, details = answer_for(error, self._error_uris, debug=self._debug)
            uri = self._error_uri(connection, uri, what)
            text = connection.protocol.error(message.id, uri, description, details)
        except Exception as failure:
            await self._errors.report(connection, failure, f"{what}: writing its error as JSON")
            self._send_error(connection, message, "internal", "the error cannot be written as JSON")
        else:
            connection.outbox.send_text(text)

    def _error_uri(self, connection: ServerConnection, name: str, what: str) -> str:
        """The full error URI of what the app raised; logs one that no caller can rely on."""
        uri = expand(name, self._prefixes)
        problem = prefix_problem(name, self._prefixes)
        if problem is None and uri.count("#") > 1:
            problem = "it has two '#', and a URI has one at most"
        if problem is not None:
            connection.log.add(("error URI", name), f"{what} answered with the error URI {quote(uri)}: {problem}")
        return uri

    def _send_error(self, connection: ServerConnection, message: messages.Call, kind: str, description: str) -> None:
        text = connection.protocol.error(message.id, self._error_uris[kind], description)
        connection.outbox.send_text(text)
