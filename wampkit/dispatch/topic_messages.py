"""Runs SUBSCRIBE, UNSUBSCRIBE and PUBLISH: find the topic, pass the middlewares, run the topic's handler and hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Literal

from ..concurrency.cancellation import must_propagate
from ..concurrency.threads import ThreadPools
from ..connection.server_connection import ServerConnection
from ..errors import LimitExceeded, NotAllowed, NotFound, WampError, quote
from ..handlers.hooks import ErrorReporter
from ..handlers.plan import Plan
from ..limits import Limits
from ..protocol import messages
from ..protocol.messages import encode, encode_value
from ..pubsub.broker import Broker, Publication
from ..pubsub.registry import TopicRegistry
from ..telemetry.counters import Counters
from ..telemetry.logs import KIND
from .compiler import CompiledTopic, run_plan, topic_chain
from .middleware import CallNext, Incoming, Publish, Subscribe, Unsubscribe
from .requirements import check_all
from .route_table import RouteTable

__all__ = ["TopicMessages"]

REFUSAL_CODES = {"not_found": 404, "not_allowed": 403, "limit_exceeded": 429}
"""The `code` of the EVENT that explains a refusal, by the kind of the error; 400 for all others."""

_NO_IDS: frozenset[str] = frozenset()


class TopicMessages:
    """Runs the messages that concern topics. WAMP v1 has no answer to any of them.

    Args:
        topics: The declared topics by URI.
        registry: The subscribers.
        broker: Carries what clients publish.
        middlewares: The app's message middlewares, outermost first; messages to unknown URIs pass them too.
        threads: Run blocking handlers and hooks.
        errors: Answers and reports exceptions.
        counters: Counts what is beyond a limit.
        limits: How many topics one connection may be subscribed to, and how many session ids one PUBLISH may name.
        exclude_publisher: Whether an event is not sent to its publisher, if the PUBLISH does not say.
        explain: Whether a refused client receives an EVENT on that topic that says why.
        empty_eligible: The receivers of a PUBLISH whose list `eligible` is empty.
    """

    def __init__(
        self,
        topics: RouteTable[CompiledTopic],
        registry: TopicRegistry,
        broker: Broker,
        middlewares: tuple[Any, ...],
        threads: ThreadPools,
        errors: ErrorReporter,
        counters: Counters,
        limits: Limits,
        *,
        exclude_publisher: bool,
        explain: bool,
        empty_eligible: Literal["nobody", "everybody"],
    ) -> None:
        self._topics = topics
        self._registry = registry
        self._broker = broker
        self._threads = threads
        self._errors = errors
        self._counters = counters
        self._limits = limits
        self._exclude_publisher = exclude_publisher
        self._explain = explain
        self._empty_eligible = empty_eligible
        every = (None, *topics)
        self._publish_chains = {
            each: topic_chain(each, middlewares, each.publish_rules if each else (), self._run_publish)
            for each in every
        }
        # The rules of SUBSCRIBE are checked by `_run_subscribe`, which must know for which rights they held, and
        # UNSUBSCRIBE has none: a client may always leave.
        self._chains: dict[type[messages.Message], tuple[type[Incoming], dict[CompiledTopic | None, CallNext]]] = {
            messages.Subscribe: (
                Subscribe,
                {each: topic_chain(each, middlewares, (), self._run_subscribe) for each in every},
            ),
            messages.Unsubscribe: (
                Unsubscribe,
                {each: topic_chain(each, middlewares, (), self._run_unsubscribe) for each in every},
            ),
        }
        # A PUBLISH to one of these needs neither middlewares nor rules nor a handler.
        self._plain = {
            each
            for each in topics
            if each.plan is None and each.route.relay and not (middlewares or each.middlewares or each.publish_rules)
        }

    async def receive(
        self, connection: ServerConnection, message: messages.Publish | messages.Subscribe | messages.Unsubscribe
    ) -> None:
        """Run one message; a refusal is logged, and explained to the client if the app wants that."""
        new = False
        try:
            if type(message) is messages.Publish:
                await self.publish(connection, message)
            else:
                kind, chains = self._chains[type(message)]
                new = kind is Subscribe and message.uri not in connection.subscriptions
                topic, incoming = self._incoming(kind, connection, message.uri)
                await chains[topic](incoming)
        except BaseException as error:
            if must_propagate(error):
                raise
            if new and message.uri in connection.subscriptions:
                # A middleware has refused it after it was accepted.
                await self._unsubscribe(connection, [message.uri])
            await self._refuse(connection, message, error)

    def _incoming(
        self, kind: type[Incoming], connection: ServerConnection, uri: str
    ) -> tuple[CompiledTopic | None, Incoming]:
        """The topic of a URI, or None, and the message about it as middlewares and hooks see it."""
        topic, variables = self._topics.find(uri)
        route = topic.route if topic is not None else None
        return topic, kind(connection=connection, uri=uri, route=route, variables=variables)

    async def _refuse(self, connection: ServerConnection, message: messages.Message, error: BaseException) -> None:
        uri = getattr(message, "uri", "")
        what = f"{type(message).__name__.upper()} {quote(uri)}"
        error = await self._errors.as_answer(connection, error, what)
        if isinstance(error, WampError):
            reason = error.description or error.uri
            connection.log.add(("refused", what, reason[:KIND]), f"{what} refused: {reason}")
            if self._explain and not isinstance(message, messages.Unsubscribe):
                # The object that BabDev's stock dispatcher sends, with what was wrong besides.
                code = REFUSAL_CODES.get(error.kind or "", 400)
                event = {"error": True, "message": error.description, "code": code, "uri": uri}
                connection.outbox.send_text(encode(messages.Event(uri, event)))

    # ---- PUBLISH

    def publish(self, connection: ServerConnection, message: messages.Publish) -> Awaitable[Any]:
        """Publish an event; done when the broker has it, or when a handler or a middleware drops it without an error.

        A refusal is raised, here or where the result is awaited.
        """
        if message.exclude or message.eligible:
            self._check_ids(message)
        topic, variables = self._topics.find(message.uri)
        if topic in self._plain:
            return self._broadcast(connection, message, message.event)
        incoming = Publish(
            connection=connection,
            uri=message.uri,
            route=topic.route if topic is not None else None,
            variables=variables,
            event=message.event,
            exclude_me=message.exclude_me,
            exclude=message.exclude,
            eligible=message.eligible,
        )
        return self._publish_chains[topic](incoming)

    def _check_ids(self, message: messages.Publish) -> None:
        most = self._limits.session_ids
        if len(message.exclude or ()) + len(message.eligible or ()) > most:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {most} session ids")

    async def _run_publish(self, topic: CompiledTopic | None, message: Incoming) -> Any:
        assert isinstance(message, Publish)
        if topic is None:
            raise NotFound("no such topic")
        event = message.event
        if topic.plan is not None:
            wire = topic.plan.wire
            values = wire.bind([event] if wire.names else [])
            event = await run_plan(topic.plan, values, message, self._threads.handlers, self._registry)
            if event is None:
                return None
        elif not topic.route.relay:
            raise NotAllowed("only the server publishes to this topic")
        assert isinstance(message.connection, ServerConnection)
        await self._broadcast(message.connection, message, event)
        return event

    def _broadcast(
        self, connection: ServerConnection, message: Publish | messages.Publish, event: Any
    ) -> Awaitable[None]:
        """Give an event to the broker, for the receivers that its PUBLISH names."""
        if message.exclude is not None:
            exclude = frozenset(message.exclude)
        elif self._exclude_publisher if message.exclude_me is None else message.exclude_me:
            exclude = frozenset((connection.id,))
        else:
            exclude = _NO_IDS
        eligible = None if message.eligible is None else self._eligible(connection, message)
        return self._broker.publish(Publication(message.uri, encode_value(event), exclude, eligible))

    def _eligible(self, connection: ServerConnection, message: Publish | messages.Publish) -> frozenset[str] | None:
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
        return _NO_IDS

    # ---- SUBSCRIBE

    async def _run_subscribe(self, topic: CompiledTopic | None, message: Incoming) -> None:
        connection, uri = message.connection, message.uri
        assert isinstance(connection, ServerConnection)
        if topic is None:
            raise NotFound("no such topic")
        rules = topic.subscribe_rules
        version = await check_all(rules, message) if rules else connection.rights_version
        if connection.unsubscribed or self._registry.has(uri, connection.id):
            return
        limits = self._limits
        if len(connection.subscriptions) >= limits.subscriptions:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {limits.subscriptions} subscriptions")
        size = len(uri.encode())
        if connection.subscriptions_size + size > limits.subscriptions_size:
            self._counters.over_limit += 1
            raise LimitExceeded(f"more than {limits.subscriptions_size} bytes of subscribed URIs")
        try:
            await self._registry.add_pending(uri, connection)
            for hook in topic.on_subscribe:
                await run_plan(hook, [], message, self._threads.hooks, self._registry)
        except BaseException:
            await self._registry.discard_pending(uri, connection.id)
            raise
        try:
            if connection.rights_version != version:
                # A right that was lost meanwhile may be this one.
                await check_all(rules, message)
        except BaseException:
            await self._unsubscribe(connection, [uri])
            raise
        connection.subscriptions[uri] = size
        connection.subscriptions_size += size
        self._registry.accept(uri, connection)
        if connection.unsubscribed:
            # The hook ignored its cancellation and outlasted its connection.
            await self._unsubscribe(connection, [uri])

    # ---- UNSUBSCRIBE, and what ends a subscription without one

    async def _run_unsubscribe(self, topic: CompiledTopic | None, message: Incoming) -> None:
        connection = message.connection
        assert isinstance(connection, ServerConnection)
        if self._remove(connection, message.uri):
            await self._run_hooks(connection, [(topic, message)])

    async def unsubscribe_all(self, connection: ServerConnection) -> None:
        """End the subscriptions of a closed connection and run the hooks of each, even if some of them fail."""
        connection.unsubscribed = True
        await self._unsubscribe(connection, connection.topics)

    async def recheck(self, connection: ServerConnection) -> list[str]:
        """End the subscriptions for which the rules do not hold any more; returns their URIs."""
        connection.rights_version += 1  # so that the rules of a SUBSCRIBE that is being decided are checked again
        lost: dict[str, BaseException] = {}
        ended: list[tuple[CompiledTopic | None, Incoming]] = []
        try:
            for uri in connection.topics:
                error = await self._objection(connection, uri)
                if error is not None:
                    lost[uri] = error
                    ended += self._remove_all(connection, [uri])
        finally:
            await self._run_hooks(connection, ended)
        for uri, error in lost.items():
            await self._refuse(connection, messages.Subscribe(uri), error)
        return list(lost)

    async def _objection(self, connection: ServerConnection, uri: str) -> BaseException | None:
        """Why a rule does not let a connection subscribe to a topic, or None."""
        topic, message = self._incoming(Subscribe, connection, uri)
        try:
            await check_all(topic.subscribe_rules if topic is not None else (), message)
        except BaseException as error:
            if must_propagate(error):
                raise
            return error
        return None

    async def _unsubscribe(self, connection: ServerConnection, uris: Iterable[str]) -> None:
        await self._run_hooks(connection, self._remove_all(connection, uris))

    def _remove_all(
        self, connection: ServerConnection, uris: Iterable[str]
    ) -> list[tuple[CompiledTopic | None, Incoming]]:
        """End subscriptions on this node, before anything is awaited; returns what `_run_hooks` takes."""
        return [self._incoming(Unsubscribe, connection, uri) for uri in uris if self._remove(connection, uri)]

    def _remove(self, connection: ServerConnection, uri: str) -> bool:
        """End a subscription on this node: no further event reaches it. False if there was none."""
        connection.subscriptions_size -= connection.subscriptions.pop(uri, 0)
        return self._registry.remove(uri, connection.id)

    async def _run_hooks(
        self, connection: ServerConnection, ended: Sequence[tuple[CompiledTopic | None, Incoming]]
    ) -> None:
        """Run the `on_unsubscribe` hooks of ended subscriptions in order, while the broker unsubscribes."""
        unsubscribed = self._registry.update_broker([message.uri for _, message in ended])
        try:
            for topic, message in ended:
                for hook in topic.on_unsubscribe if topic is not None else ():
                    await self._run_hook(hook, connection, message)
        finally:
            for error in await unsubscribed:
                # The subscription is gone from this node all the same.
                await self._errors.report(connection, error, "telling the broker of a topic's last subscriber")

    async def _run_hook(self, hook: Plan, connection: ServerConnection, message: Incoming) -> None:
        try:
            await run_plan(hook, [], message, self._threads.hooks, self._registry)
        except BaseException as error:
            if must_propagate(error):
                raise
            await self._errors.report(connection, error, f"on_unsubscribe of {quote(message.uri)}")
