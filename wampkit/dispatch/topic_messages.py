"""SUBSCRIBE, UNSUBSCRIBE and PUBLISH: match, pass the middlewares, run the topic's handler and hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Literal

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import ThreadPools
from ..connection.connection import Connection
from ..errors import LimitExceeded, NotAllowed, NotFound, WampError, quote
from ..handlers.hooks import ErrorReporter
from ..protocol import messages
from ..protocol.messages import encode
from ..protocol.websocket import text_frame
from ..pubsub.topics import Topics
from ..telemetry.counters import Counters
from ..telemetry.logs import KIND
from .compiler import CompiledTopic, run_plan, topic_chain
from .middleware import Incoming, Publish, Subscribe, Unsubscribe
from .requirements import check_all
from .route_table import Names, Table

__all__ = ["TopicMessages"]

CODES = {"not_found": 404, "not_allowed": 403, "limit_exceeded": 429}
"""The number of the explained refusal, by the kind of the error; 400 for all others."""

_NO_VARIABLES: Mapping[str, str] = {}


class TopicMessages:
    """Runs the messages that concern topics. WAMP v1 has no answer to any of them.

    Args:
        topics: The declared topics by URI.
        names: Finds them.
        register: Who is subscribed to what.
        middlewares: The app's message middlewares, outermost first; they see unknown URIs too.
        threads: Where blocking handlers and hooks run.
        errors: What becomes of exceptions.
        counters: Where refusals are counted.
        most: Topics that one connection may be subscribed to.
        most_bytes: Bytes of their URIs together.
        most_ids: Session ids that one PUBLISH may name.
        exclude_publisher: Whether an event goes not to its sender, where the PUBLISH does not say.
        explain: Whether a refused client is told why in an EVENT on that topic.
        empty_eligible: Who receives the event of a PUBLISH whose list `eligible` is empty.
    """

    def __init__(
        self,
        topics: Table[CompiledTopic],
        names: Names,
        register: Topics,
        middlewares: tuple[Any, ...],
        threads: ThreadPools,
        errors: ErrorReporter,
        counters: Counters,
        *,
        most: int,
        most_bytes: int,
        most_ids: int,
        exclude_publisher: bool,
        explain: bool,
        empty_eligible: Literal["nobody", "everybody"],
    ) -> None:
        self._topics = topics
        self._names = names
        self._register = register
        self._threads = threads
        self._errors = errors
        self._counters = counters
        self._most = most
        self._most_bytes = most_bytes
        self._most_ids = most_ids
        self._exclude_publisher = exclude_publisher
        self._explain = explain
        self._empty_eligible = empty_eligible
        every = (None, *topics)
        publish, subscribe = self._run_publish, self._run_subscribe
        self._publishes = {
            each: topic_chain(each, middlewares, each.may_publish if each else (), publish) for each in every
        }
        # Its rules are asked by `_run_subscribe`, which must know of what rights they were asked.
        self._subscribes = {each: topic_chain(each, middlewares, (), subscribe) for each in every}
        # Whoever may stay may leave.
        self._unsubscribes = {each: topic_chain(each, middlewares, (), self._run_unsubscribe) for each in every}
        # Nothing stands between their PUBLISH and the subscribers.
        self._plain = {
            each
            for each in topics
            if each.plan is None and each.route.relay and not (middlewares or each.middlewares or each.may_publish)
        }

    async def publish(self, connection: Connection, message: messages.Publish) -> None:
        """Take a PUBLISH."""
        try:
            await self.confirm(connection, message)
        except BaseException as error:
            if must_propagate(error):
                raise
            await self._refused(connection, message, error)

    def confirm(self, connection: Connection, message: messages.Publish) -> Awaitable[Any]:
        """Take a PUBLISH whose sender is told what became of it.

        Done when the event was given to the broker, or when a handler or a middleware has dropped it without an error.
        What stands against it is raised, here or where the result is awaited.
        """
        if message.exclude or message.eligible:
            self._check_ids(message)
        topic, variables = self._names.find(self._topics, message.uri)
        if topic in self._plain:
            return self._send_on(connection, message, message.event)
        publish = Publish(
            connection=connection,
            uri=message.uri,
            route=topic.route if topic is not None else None,
            variables=variables,
            event=message.event,
            exclude_me=message.exclude_me,
            exclude=message.exclude,
            eligible=message.eligible,
        )
        return self._publishes[topic](publish)

    async def subscribe(self, connection: Connection, message: messages.Subscribe) -> None:
        """Take a SUBSCRIBE."""
        stood = message.uri in connection.subscriptions
        try:
            topic, variables = self._names.find(self._topics, message.uri)
            route = topic.route if topic is not None else None
            subscribe = Subscribe(connection=connection, uri=message.uri, route=route, variables=variables)
            await self._subscribes[topic](subscribe)
        except BaseException as error:
            if must_propagate(error):
                raise
            if not stood and message.uri in connection.subscriptions:
                # A middleware has refused it after it was accepted.
                await self._leave(connection, [message.uri])
            await self._refused(connection, message, error)

    async def unsubscribe(self, connection: Connection, message: messages.Unsubscribe) -> None:
        """Take an UNSUBSCRIBE."""
        try:
            topic, variables = self._names.find(self._topics, message.uri)
            route = topic.route if topic is not None else None
            unsubscribe = Unsubscribe(connection=connection, uri=message.uri, route=route, variables=variables)
            await self._unsubscribes[topic](unsubscribe)
        except BaseException as error:
            if must_propagate(error):
                raise
            await self._refused(connection, message, error)

    async def _refused(self, connection: Connection, message: messages.Message, error: BaseException) -> None:
        """WAMP v1 has no answer to a refused topic message: the client hears nothing, the log does."""
        verb = type(message).__name__.upper()
        what = f"{verb} {quote(getattr(message, 'uri', ''))}"
        error = await self._errors.as_answer(connection, error, what)
        if isinstance(error, WampError):
            reason = error.description or error.uri
            connection.log.add(("refused", what, reason[:KIND]), f"{what} refused: {reason}")
            if self._explain and not isinstance(message, messages.Unsubscribe):
                self._send_reason(connection, getattr(message, "uri", ""), error)

    def _send_reason(self, connection: Connection, uri: str, error: WampError) -> None:
        # The object that BabDev's stock dispatcher sends, with what was wrong besides.
        code = CODES.get(error.kind or "", 400)
        event = {"error": True, "message": error.description, "code": code, "uri": uri}
        connection.outbox.send(text_frame(encode(messages.Event(uri, event))))

    def _check_ids(self, message: messages.Publish) -> None:
        if len(message.exclude or ()) + len(message.eligible or ()) > self._most_ids:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {self._most_ids} session ids")

    async def _run_publish(self, topic: CompiledTopic | None, message: Incoming) -> Any:
        assert isinstance(message, Publish)
        if topic is None:
            raise NotFound("no such topic")
        event = message.event
        if topic.plan is not None:
            values = topic.plan.bind([event] if topic.plan.wire.names else [])
            event = await run_plan(topic.plan, values, message, self._threads.handlers, self._register)
            if event is None:
                return None
        elif not topic.route.relay:
            raise NotAllowed("only the server publishes to this topic")
        await self._send_on(message.connection, message, event)
        return event

    def _send_on(self, connection: Connection, message: Publish | messages.Publish, event: Any) -> Awaitable[None]:
        exclude = message.exclude
        if exclude is None:
            leave_out = self._exclude_publisher if message.exclude_me is None else message.exclude_me
            exclude = [connection.id] if leave_out else []
        eligible = None if message.eligible is None else self._eligible(connection, message)
        return self._register.send(message.uri, event, frozenset(exclude), eligible)

    def _eligible(self, connection: Connection, message: Publish | messages.Publish) -> frozenset[str] | None:
        """The only session ids that may receive an event, or None where an empty list restricts nothing."""
        if message.eligible:
            return frozenset(message.eligible)
        if self._empty_eligible == "everybody":
            return None
        connection.log.add(
            "empty eligible",
            f"PUBLISH {quote(message.uri)} reaches nobody: its list of eligible sessions is empty. To Ratchet, BabDev "
            'and WampSharp that means no restriction: App(empty_eligible="everybody")',
        )
        return frozenset()

    async def _run_subscribe(self, topic: CompiledTopic | None, message: Incoming) -> None:
        connection, uri = message.connection, message.uri
        if topic is None:
            raise NotFound("no such topic")
        version = await check_all(topic.may_subscribe, message)
        if connection.unsubscribed or self._register.has(uri, connection.id):
            return
        if len(connection.subscriptions) >= self._most:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {self._most} subscriptions")
        size = len(uri.encode())
        if connection.subscriptions_size + size > self._most_bytes:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {self._most_bytes} bytes of subscribed URIs")
        try:
            await self._register.propose(uri, connection)
            for hook in topic.on_subscribe:
                await run_plan(hook, [], message, self._threads.hooks, self._register)
        except BaseException:
            await self._register.remove(uri, connection.id)
            raise
        try:
            if connection.rights_version != version:
                # A right that was lost meanwhile may be this one.
                await check_all(topic.may_subscribe, message)
        except BaseException:
            await self._leave(connection, [uri])
            raise
        connection.subscriptions[uri] = size
        connection.subscriptions_size += size
        self._register.accept(uri, connection)
        if connection.unsubscribed:
            # The hook ignored its cancellation and outlasted its connection.
            await self._leave(connection, [uri])

    async def _run_unsubscribe(self, topic: CompiledTopic | None, message: Incoming) -> None:
        if self._release(message.connection, message.uri):
            await self._told(message.connection, [(topic, message)])

    def _release(self, connection: Connection, uri: str) -> bool:
        """End a subscription here: from now on no event reaches it. False if there was none."""
        connection.subscriptions_size -= connection.subscriptions.pop(uri, 0)
        return self._register.release(uri, connection.id)

    async def _told(self, connection: Connection, ended: Sequence[tuple[CompiledTopic | None, Incoming]]) -> None:
        """Run the hooks of subscriptions that have ended, one after the other, while the broker is told of them."""
        goodbye = self._register.say_goodbye([message.uri for _, message in ended])
        try:
            for topic, message in ended:
                await self._run_unsubscribe_hooks(topic, message)
        finally:
            for error in await goodbye:
                # The subscription is gone from this node all the same.
                await self._errors.report(connection, error, "telling the broker of a topic's last subscriber")

    async def _run_unsubscribe_hooks(self, topic: CompiledTopic | None, message: Incoming) -> None:
        for hook in topic.on_unsubscribe if topic is not None else ():
            try:
                await run_plan(hook, [], message, self._threads.hooks, self._register)
            except BaseException as error:
                if must_propagate(error):
                    raise
                await self._errors.report(message.connection, error, f"on_unsubscribe of {quote(message.uri)}")

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions for which the rules do not hold any more; gives their URIs."""
        connection.rights_version += 1  # so that the rules of a SUBSCRIBE that is being decided are asked again
        lost: dict[str, BaseException] = {}
        ended: list[tuple[CompiledTopic | None, Incoming]] = []
        try:
            for uri in connection.topics:
                error = await self._objection(connection, uri)
                if error is not None:
                    lost[uri] = error
                    ended += self._released(connection, [uri])
        finally:
            await self._told(connection, ended)
        for uri, error in lost.items():
            await self._refused(connection, messages.Subscribe(uri), error)
        return list(lost)

    async def _objection(self, connection: Connection, uri: str) -> BaseException | None:
        """Why a rule does not let a connection subscribe to a topic, or None."""
        topic, variables = self._topics.find(uri) or (None, _NO_VARIABLES)
        if topic is None or not topic.may_subscribe:
            return None
        message = Subscribe(connection=connection, uri=uri, route=topic.route, variables=variables)
        try:
            await check_all(topic.may_subscribe, message)
        except BaseException as error:
            if must_propagate(error):
                raise
            return error
        return None

    async def leave(self, connection: Connection) -> None:
        """End all subscriptions of a connection that has ended, running each one's hooks whatever fails."""
        connection.unsubscribed = True
        await self._leave(connection, connection.topics)

    async def _leave(self, connection: Connection, uris: Iterable[str]) -> None:
        await self._told(connection, self._released(connection, uris))

    def _released(self, connection: Connection, uris: Iterable[str]) -> list[tuple[CompiledTopic | None, Incoming]]:
        """End subscriptions here, before anything is awaited; gives what must be told to the hooks."""
        ended: list[tuple[CompiledTopic | None, Incoming]] = []
        for uri in uris:
            if self._release(connection, uri):
                topic, variables = self._topics.find(uri) or (None, _NO_VARIABLES)
                route = topic.route if topic is not None else None
                ended.append((topic, Unsubscribe(connection=connection, uri=uri, route=route, variables=variables)))
        return ended
