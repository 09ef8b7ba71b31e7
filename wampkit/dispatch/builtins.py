"""Built-in procedures (`wampkit:*`); they skip middlewares and rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..concurrency.cancellation import must_propagate
from ..connection.server_connection import ServerConnection
from ..errors import InvalidArgument, ProtocolError, WampError, quote
from ..protocol import messages
from ..protocol.extensions import PUBLISH, SUBSCRIPTION
from ..router import Route
from .topic_messages import TopicMessages

__all__ = ["publish_procedure", "subscription_procedure"]


def subscription_procedure() -> Route:
    """The procedure that says whether its caller is subscribed to a topic: WAMP v1 does not answer SUBSCRIBE."""
    return Route("procedure", SUBSCRIPTION, SUBSCRIPTION, _subscription)


async def _subscription(topic: str, connection: ServerConnection) -> str | None:
    """The full URI of the caller's subscription, or None if it has none.

    Answers once the SUBSCRIBE messages received before have been decided.
    """
    uri = connection.protocol.resolve(topic)
    await connection.tasks.wait_for_queued()
    return uri if uri in connection.subscriptions else None


def publish_procedure(topic_messages: Callable[[], TopicMessages]) -> Route:
    """The procedure that publishes and answers: WAMP v1 does not answer PUBLISH.

    Args:
        topic_messages: Gives what runs the app's PUBLISH messages, while the app runs.
    """

    async def publish(connection: ServerConnection, topic: str, event: Any, *receivers: Any) -> None:
        """Publish after the topic messages received before; answer with null once it is done, or with an error.

        The arguments are those of PUBLISH. A handler or a middleware may drop the event without an error.
        """
        message = _publish_message(connection, topic, event, *receivers)
        outcome: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        # The event is published even if its sender does not wait for the answer.
        connection.tasks.run_in_order(_publish, topic_messages(), connection, message, outcome, finish_after_close=True)
        error = await outcome
        if error is not None:
            raise error

    return Route("procedure", PUBLISH, PUBLISH, publish)


def _publish_message(connection: ServerConnection, topic: str, *rest: Any) -> messages.Publish:
    try:
        return messages.read_publish([messages.Publish.code, connection.protocol.resolve(topic), *rest])
    except ProtocolError as error:
        raise InvalidArgument(error.reason) from None


async def _publish(
    topic_messages: TopicMessages,
    connection: ServerConnection,
    message: messages.Publish,
    outcome: asyncio.Future[BaseException | None],
) -> None:
    failure = None
    try:
        await topic_messages.publish(connection, message)
    except BaseException as error:
        if must_propagate(error):
            outcome.cancel()
            raise
        if not isinstance(error, WampError):
            error.add_note(f"It was raised by a confirmed PUBLISH {quote(message.uri)}.")
        failure = error
    if not outcome.done():
        outcome.set_result(failure)
