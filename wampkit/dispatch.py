"""One message to its handler and back: match, pass the middlewares, bind, run, answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import messages
from .binding import Plan
from .connection import Connection
from .depends import Scope
from .errors import NotAllowed, NotFound, WampError, answer_for, quote
from .fatal import is_fatal
from .frames import text_frame
from .incoming import Call, Incoming, Publish, Subscribe, Unsubscribe
from .middleware import CallNext, fold
from .router import Declaration, Table
from .threads import Threads
from .topics import Topic, Topics
from .uris import expand

__all__ = ["Dispatcher", "Policy", "Procedure", "ServedTopic"]

logger = logging.getLogger("wampkit")

_NO_VARIABLES: Mapping[str, str] = {}
_NO_KEYWORDS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Procedure:
    """A procedure ready to run; one of wampkit's own passes no middleware."""

    route: Declaration
    plan: Plan
    middlewares: tuple[Any, ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class ServedTopic:
    """A topic ready to be used."""

    route: Declaration
    plan: Plan | None
    on_subscribe: tuple[Plan, ...]
    on_unsubscribe: tuple[Plan, ...]
    middlewares: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the app decides about answers; see `App` for what each means."""

    error_uris: Mapping[str, str]
    prefixes: Mapping[str, str]
    error_handlers: Mapping[type[BaseException], Callable[[Any], Any]]
    on_error: Callable[[BaseException, Connection], Awaitable[None]]
    debug: bool
    exclude_publisher: bool


class Dispatcher:
    """Takes every message of every connection.

    Args:
        procedures: The procedures by URI.
        topics: The declared topics by URI.
        register: Who is subscribed.
        middlewares: The app's message middlewares, outermost first; they see unknown URIs too.
        threads: Where blocking handlers run.
        policy: What the app decides.
    """

    def __init__(
        self,
        procedures: Table[Procedure],
        topics: Table[ServedTopic],
        register: Topics,
        middlewares: tuple[Any, ...],
        threads: Threads,
        policy: Policy,
    ) -> None:
        self._procedures = procedures
        self._topics = topics
        self._register = register
        self._threads = threads
        self._policy = policy
        self._draining = False
        self._calls = _Chains(middlewares, procedures, self._run_call)
        self._publishes = _Chains(middlewares, topics, self._run_publish)
        self._subscribes = _Chains(middlewares, topics, self._run_subscribe)
        self._unsubscribes = _Chains(middlewares, topics, self._run_unsubscribe)

    def drain(self) -> None:
        """Begin nothing more; what is under way ends as usual."""
        self._draining = True

    def receive(self, connection: Connection, message: messages.Message) -> None:
        """Take one message. Never blocks: calls run side by side, topic messages in the order they came."""
        if self._draining:
            return
        if isinstance(message, messages.Call):
            connection.work.start_call(self._call(connection, message))
        elif isinstance(message, messages.Subscribe | messages.Unsubscribe | messages.Publish):
            outlives = not isinstance(message, messages.Subscribe)
            connection.work.in_order(lambda: self._topic_message(connection, message), outlives=outlives)

    # ---- calls

    async def _call(self, connection: Connection, message: messages.Call) -> None:
        try:
            result = await self._result(connection, message)
        except BaseException as error:
            if is_fatal(error):
                raise
            text = await self._answer(connection, message, error)
        else:
            text = await self._write_result(connection, message, result)
        connection.send(text_frame(text))

    async def _write_result(self, connection: Connection, message: messages.Call, result: Any) -> bytes:
        try:
            return connection.protocol.result(message.id, result)
        except Exception as error:
            await self._report(connection, error, f"procedure {quote(message.uri)}: writing its result as JSON")
            description = "the result cannot be written as JSON"
            if self._policy.debug:
                description += f": {error}"
            return connection.protocol.error(message.id, self._policy.error_uris["internal"], description)

    async def _result(self, connection: Connection, message: messages.Call) -> Any:
        found = self._procedures.find(message.uri)
        procedure, variables = found if found is not None else (None, _NO_VARIABLES)
        call = Call(
            connection=connection,
            uri=message.uri,
            route=procedure.route if procedure is not None else None,
            variables=variables,
            id=message.id,
            args=message.args,
        )
        timeout = procedure.route.timeout if procedure is not None else None
        if timeout is None:
            return await self._calls.of(procedure)(call)
        try:
            async with asyncio.timeout(timeout) as limit:
                return await self._calls.of(procedure)(call)
        except TimeoutError:
            if not limit.expired():
                raise
            uri = self._policy.error_uris["timeout"]
            raise WampError(uri, f"{call.name}: no result within {timeout:g} s") from None

    async def _run_call(self, procedure: Procedure | None, message: Incoming) -> Any:
        assert isinstance(message, Call)
        if procedure is None:
            raise NotFound(f"no such procedure: {quote(message.uri)}")
        values = procedure.plan.bind(message.args)
        return await self._run(procedure.plan, values, message)

    async def _answer(self, connection: Connection, message: messages.Call, error: BaseException) -> bytes:
        what = f"procedure {quote(message.uri)}"
        error = await self._explained(connection, error, what)
        try:
            uri, description, details = answer_for(error, self._policy.error_uris, debug=self._policy.debug)
            return connection.protocol.error(message.id, expand(uri, self._policy.prefixes), description, details)
        except Exception as failure:
            await self._report(connection, failure, f"{what}: writing its error as JSON")
            uri = self._policy.error_uris["internal"]
            return connection.protocol.error(message.id, uri, "the error cannot be written as JSON")

    async def _explained(self, connection: Connection, error: BaseException, what: str) -> BaseException:
        """What the app makes of an error: its own handlers first; whatever is unexpected is reported."""
        if isinstance(error, WampError):
            return error
        handler = _lookup(self._policy.error_handlers, type(error))
        if handler is not None:
            try:
                answer = handler(error)
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if isinstance(answer, WampError):
                    return answer
            except WampError as raised:
                return raised
            except BaseException as failure:
                if is_fatal(failure):
                    raise
                await self._report(connection, failure, f"the error handler for {type(error).__name__}")
                return failure
        await self._report(connection, error, what)
        return error

    async def _report(self, connection: Connection, error: BaseException, what: str) -> None:
        kind = (what, type(error), _line_of(error))
        connection.complaints.add(kind, f"{what} failed", level=logging.ERROR, error=error)
        await self._policy.on_error(error, connection)

    # ---- topics

    async def _topic_message(
        self, connection: Connection, message: messages.Subscribe | messages.Unsubscribe | messages.Publish
    ) -> None:
        found = self._topics.find(message.uri)
        topic, variables = found if found is not None else (None, _NO_VARIABLES)
        route = topic.route if topic is not None else None
        try:
            if isinstance(message, messages.Publish):
                publish = Publish(
                    connection=connection,
                    uri=message.uri,
                    route=route,
                    variables=variables,
                    event=message.event,
                    exclude_me=message.exclude_me,
                    exclude=message.exclude,
                    eligible=message.eligible,
                )
                await self._publishes.of(topic)(publish)
            elif isinstance(message, messages.Subscribe):
                subscribe = Subscribe(connection=connection, uri=message.uri, route=route, variables=variables)
                await self._subscribes.of(topic)(subscribe)
            else:
                unsubscribe = Unsubscribe(connection=connection, uri=message.uri, route=route, variables=variables)
                await self._unsubscribes.of(topic)(unsubscribe)
        except BaseException as error:
            if is_fatal(error):
                raise
            await self._refused(connection, message, error)

    async def _refused(self, connection: Connection, message: messages.Message, error: BaseException) -> None:
        """WAMP v1 has no answer to a refused topic message: the client hears nothing, the log does."""
        verb = type(message).__name__.upper()
        what = f"{verb} {quote(getattr(message, 'uri', ''))}"
        error = await self._explained(connection, error, what)
        if isinstance(error, WampError):
            connection.complaints.add(("refused", verb), f"{what} refused: {error.description or error.uri}")

    async def _run_publish(self, topic: ServedTopic | None, message: Incoming) -> Any:
        assert isinstance(message, Publish)
        if topic is None:
            raise NotFound("no such topic")
        event = message.event
        if topic.plan is not None:
            values = topic.plan.bind([event] if topic.plan.wire.names else [])
            event = await self._run(topic.plan, values, message)
            if event is None:
                return None
        elif not topic.route.relay:
            raise NotAllowed("only the server publishes to this topic")
        exclude = message.exclude
        if exclude is None:
            leave_out = self._policy.exclude_publisher if message.exclude_me is None else message.exclude_me
            exclude = [message.connection.id] if leave_out else []
        await self._register.publish(message.uri, event, exclude=exclude, eligible=message.eligible)
        return event

    async def _run_subscribe(self, topic: ServedTopic | None, message: Incoming) -> None:
        connection, uri = message.connection, message.uri
        if topic is None:
            raise NotFound("no such topic")
        if self._register.has(uri, connection.id):
            return
        try:
            await self._register.propose(uri, connection)
            for hook in topic.on_subscribe:
                await self._run(hook, [], message)
        except BaseException:
            await self._register.remove(uri, connection.id)
            raise
        connection.subscriptions[uri] = None
        self._register.accept(uri, connection)
        if connection.left:
            # The hook ignored its cancellation and outlasted its connection.
            await self._leave(connection, uri)

    async def _run_unsubscribe(self, topic: ServedTopic | None, message: Incoming) -> None:
        connection, uri = message.connection, message.uri
        connection.subscriptions.pop(uri, None)
        try:
            if not await self._register.remove(uri, connection.id):
                return
        except Exception as error:
            # The subscription is gone from this node all the same.
            await self._report(connection, error, "telling the broker of a topic's last subscriber")
        if topic is None:
            return
        for hook in topic.on_unsubscribe:
            try:
                await self._run(hook, [], message)
            except BaseException as error:
                if is_fatal(error):
                    raise
                await self._report(connection, error, f"on_unsubscribe of {quote(uri)}")

    async def leave(self, connection: Connection) -> None:
        """End all subscriptions of a connection that has ended, running each one's hooks whatever fails."""
        connection.left = True
        for uri in connection.topics:
            await self._leave(connection, uri)

    async def _leave(self, connection: Connection, uri: str) -> None:
        found = self._topics.find(uri)
        topic, variables = found if found is not None else (None, _NO_VARIABLES)
        route = topic.route if topic is not None else None
        message = Unsubscribe(connection=connection, uri=uri, route=route, variables=variables)
        await self._run_unsubscribe(topic, message)

    # ---- parts

    def _run(self, plan: Plan, values: list[Any], message: Incoming) -> Awaitable[Any]:
        if not plan.injected:
            return plan.call(self._threads, values, _NO_KEYWORDS)
        topic = Topic(message.uri, self._register)
        return plan.run(values, Scope(message.connection, message, topic, message.variables, self._threads))


class _Chains:
    """For one type of message: what runs it, folded into its middlewares once for each route."""

    def __init__(
        self, outer: tuple[Any, ...], targets: Iterable[Any], innermost: Callable[[Any, Incoming], Awaitable[Any]]
    ) -> None:
        def end(target: Any) -> CallNext:
            return lambda message: innermost(target, message)

        def chain(target: Any) -> CallNext:
            own = isinstance(target, Procedure) and target.own
            return fold(() if own else (*outer, *target.middlewares), end(target))

        self._unknown = fold(outer, end(None))
        self._chains = {id(target): chain(target) for target in targets}

    def of(self, target: Procedure | ServedTopic | None) -> CallNext:
        return self._unknown if target is None else self._chains[id(target)]


def _lookup(
    handlers: Mapping[type[BaseException], Callable[[Any], Any]], kind: type[BaseException]
) -> Callable[[Any], Any] | None:
    """The handler of the nearest class in the exception's ancestry."""
    for ancestor in kind.__mro__:
        handler = handlers.get(ancestor)
        if handler is not None:
            return handler
    return None


def _line_of(error: BaseException) -> int:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_lineno if trace is not None else 0
