"""One message to its handler and back: match, pass the middlewares, bind, run, answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import messages
from .chains import Procedure, ServedTopic, call_way, is_plain, run_plan, way
from .connection import Connection
from .counters import Counters
from .errors import LimitExceeded, NotAllowed, NotFound, TooManyMessages, WampError, answer_for, quote
from .failures import Failures
from .fatal import is_fatal
from .frames import text_frame
from .incoming import Incoming, Publish, Subscribe, Unsubscribe
from .limits import Limits
from .router import Table
from .threads import Threads
from .topics import Topics
from .uris import expand

__all__ = ["Dispatcher", "Policy"]

TOO_MUCH = 1008

_NO_VARIABLES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the app decides about answers; see `App` for what each means."""

    error_uris: Mapping[str, str]
    prefixes: Mapping[str, str]
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
        failures: What becomes of exceptions.
        policy: What the app decides.
        limits: What a client may ask for.
        counters: Where refusals are counted.
    """

    def __init__(
        self,
        procedures: Table[Procedure],
        topics: Table[ServedTopic],
        register: Topics,
        middlewares: tuple[Any, ...],
        threads: Threads,
        failures: Failures,
        policy: Policy,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._procedures = procedures
        self._topics = topics
        self._register = register
        self._threads = threads
        self._failures = failures
        self._policy = policy
        self._limits = limits
        self._counters = counters
        self._draining = False
        self._rated = limits.messages_per_second is not None
        uri = policy.error_uris["timeout"]
        self._calls = {each: call_way(each, middlewares, threads, register, uri) for each in (None, *procedures)}
        self._plain = {
            each.route.uri: (each.plan.function, each.plan.bind) for each in procedures if is_plain(each, middlewares)
        }
        self._publishes = {each: way(each, middlewares, self._run_publish) for each in (None, *topics)}
        self._subscribes = {each: way(each, middlewares, self._run_subscribe) for each in (None, *topics)}
        self._unsubscribes = {each: way(each, middlewares, self._run_unsubscribe) for each in (None, *topics)}

    def drain(self) -> None:
        """Begin nothing more; what is under way ends as usual."""
        self._draining = True

    def receive(self, connection: Connection, message: messages.Message) -> None:
        """Take one message. Never blocks: calls run side by side, topic messages in the order they came."""
        if self._draining or (self._rated and not self._admit(connection, message)):
            return
        if type(message) is messages.Call:
            connection.work.start_call(self._call(connection, message))
        elif isinstance(message, messages.Subscribe | messages.Unsubscribe | messages.Publish):
            outlives = not isinstance(message, messages.Subscribe)
            connection.work.in_order(partial(self._topic_message, connection, message), outlives=outlives)

    def _admit(self, connection: Connection, message: messages.Message) -> bool:
        """Whether the client may send one more message now; refuses the message otherwise."""
        if connection.allowance is None or connection.allowance.take():
            return True
        self._counters.over_limit += 1
        reason = f"more than {self._limits.messages_per_second:g} messages a second"
        if self._limits.flood == "close":
            connection.complaints.add("flood", f"closed: {reason}")
            connection.close(TOO_MUCH, reason)
        elif isinstance(message, messages.Call):
            connection.work.start_call(self._refuse_call(connection, message, TooManyMessages(reason)))
        else:
            what = f"{type(message).__name__.upper()} {quote(getattr(message, 'uri', ''))}"
            connection.complaints.add("flood", f"{what} dropped: {reason}")
        return False

    # ---- calls

    async def _call(self, connection: Connection, message: messages.Call) -> None:
        plain = self._plain.get(message.uri)
        try:
            if plain is not None:
                handler, bind = plain
                result = await handler(*bind(message.args))
            else:
                procedure, variables = self._found(self._procedures, message.uri)
                result = await self._calls[procedure](connection, message, variables)
        except BaseException as error:
            if is_fatal(error):
                raise
            await self._refuse_call(connection, message, error)
            return
        try:
            text = messages.encode_value([3, message.id, result])
        except Exception as error:
            text = await self._unwritable(connection, message, error)
        connection.outbox.send(text_frame(text))

    def _found(self, table: Table[Any], uri: str) -> tuple[Any, Mapping[str, str]]:
        """What a URI means, or None with no variables."""
        found = table.exact(uri)
        if found is not None:
            return found
        # A declared name is as long as it is; what a client made up is not. No character has more than 4 bytes.
        most = self._limits.uri_length
        if len(uri) * 4 > most and len(uri.encode()) > most:
            self._counters.over_limit += 1
            raise LimitExceeded(f"the URI is longer than {most} bytes")
        return table.match(uri) or (None, _NO_VARIABLES)

    async def _unwritable(self, connection: Connection, message: messages.Call, error: Exception) -> bytes:
        await self._failures.report(connection, error, f"procedure {quote(message.uri)}: writing its result as JSON")
        description = "the result cannot be written as JSON"
        if self._policy.debug:
            description += f": {error}"
        return connection.protocol.error(message.id, self._policy.error_uris["internal"], description)

    async def _refuse_call(self, connection: Connection, message: messages.Call, error: BaseException) -> None:
        what = f"procedure {quote(message.uri)}"
        error = await self._failures.explained(connection, error, what)
        try:
            uri, description, details = answer_for(error, self._policy.error_uris, debug=self._policy.debug)
            text = connection.protocol.error(message.id, expand(uri, self._policy.prefixes), description, details)
        except Exception as failure:
            await self._failures.report(connection, failure, f"{what}: writing its error as JSON")
            uri = self._policy.error_uris["internal"]
            text = connection.protocol.error(message.id, uri, "the error cannot be written as JSON")
        connection.outbox.send(text_frame(text))

    # ---- topics

    async def _topic_message(
        self, connection: Connection, message: messages.Subscribe | messages.Unsubscribe | messages.Publish
    ) -> None:
        try:
            topic, variables = self._found(self._topics, message.uri)
            route = topic.route if topic is not None else None
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
                await self._publishes[topic](publish)
            elif isinstance(message, messages.Subscribe):
                subscribe = Subscribe(connection=connection, uri=message.uri, route=route, variables=variables)
                await self._subscribes[topic](subscribe)
            else:
                unsubscribe = Unsubscribe(connection=connection, uri=message.uri, route=route, variables=variables)
                await self._unsubscribes[topic](unsubscribe)
        except BaseException as error:
            if is_fatal(error):
                raise
            await self._refused(connection, message, error)

    async def _refused(self, connection: Connection, message: messages.Message, error: BaseException) -> None:
        """WAMP v1 has no answer to a refused topic message: the client hears nothing, the log does."""
        verb = type(message).__name__.upper()
        what = f"{verb} {quote(getattr(message, 'uri', ''))}"
        error = await self._failures.explained(connection, error, what)
        if isinstance(error, WampError):
            connection.complaints.add(("refused", verb), f"{what} refused: {error.description or error.uri}")

    async def _run_publish(self, topic: ServedTopic | None, message: Incoming) -> Any:
        assert isinstance(message, Publish)
        if topic is None:
            raise NotFound("no such topic")
        event = message.event
        if topic.plan is not None:
            values = topic.plan.bind([event] if topic.plan.wire.names else [])
            event = await run_plan(topic.plan, values, message, self._threads, self._register)
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
        if len(connection.subscriptions) >= self._limits.subscriptions:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {self._limits.subscriptions} subscriptions")
        try:
            await self._register.propose(uri, connection)
            for hook in topic.on_subscribe:
                await run_plan(hook, [], message, self._threads, self._register)
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
            await self._failures.report(connection, error, "telling the broker of a topic's last subscriber")
        if topic is None:
            return
        for hook in topic.on_unsubscribe:
            try:
                await run_plan(hook, [], message, self._threads, self._register)
            except BaseException as error:
                if is_fatal(error):
                    raise
                await self._failures.report(connection, error, f"on_unsubscribe of {quote(uri)}")

    async def leave(self, connection: Connection) -> None:
        """End all subscriptions of a connection that has ended, running each one's hooks whatever fails."""
        connection.left = True
        for uri in connection.topics:
            await self._leave(connection, uri)

    async def _leave(self, connection: Connection, uri: str) -> None:
        topic, variables = self._topics.find(uri) or (None, _NO_VARIABLES)
        route = topic.route if topic is not None else None
        message = Unsubscribe(connection=connection, uri=uri, route=route, variables=variables)
        await self._run_unsubscribe(topic, message)
