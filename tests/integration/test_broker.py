"""Redis as Celery's broker: what a channel notes there, and when it is told of acknowledgements."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Queue

from worker import broker


@pytest.fixture
def channel(redis_url: str) -> Iterator[Any]:
    """Give a channel that consumes, three messages in its queue."""
    with Connection(redis_url, transport=broker.Transport) as connection:
        found = connection.channel()
        queue = Queue("q", channel=found)
        queue.declare()
        producer = connection.Producer()
        for number in range(3):
            producer.publish({"number": number}, routing_key="q", serializer="json")
        yield found


def taken(channel: Any, count: int) -> list[Any]:
    """Take so many messages off the queue."""
    messages: list[Any] = []
    queue = Queue("q", channel=channel)
    queue.consume(callback=messages.append)
    while len(messages) < count:
        channel.connection.client.drain_events(timeout=5)
    return messages


def noted(redis_url: str) -> int:
    """Count the messages that Redis has noted as taken and not acknowledged."""
    with redis.Redis.from_url(redis_url) as server:
        assert server.hlen("unacked") == server.zcard("unacked_index")
        return int(server.hlen("unacked"))


def test_acknowledgements_are_told_together(channel: Any, redis_url: str) -> None:
    """Messages are noted at once; that they are acknowledged is told before the channel takes more."""
    messages = taken(channel, 3)
    assert noted(redis_url) == 3
    for message in messages:
        message.ack()
    assert noted(redis_url) == 3
    assert channel.qos.can_consume()
    assert noted(redis_url) == 0


def test_acknowledged_after_the_last_message(channel: Any, redis_url: str) -> None:
    """A channel that consumes no more tells at once."""
    [first, *_] = taken(channel, 3)
    for tag in list(channel._consumers):
        channel.basic_cancel(tag)
    first.ack()
    assert noted(redis_url) == 2


def test_channel_that_is_closed(channel: Any, redis_url: str) -> None:
    """A channel's end tells what is acknowledged, and gives back the rest."""
    [first, *_] = taken(channel, 3)
    first.ack()
    channel.close()
    assert noted(redis_url) == 0
    with redis.Redis.from_url(redis_url) as server:
        assert server.llen("q") == 2


def test_one_client_for_all_commands(channel: Any) -> None:
    """A channel makes one client, and another one when its connections were made anew."""
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
        assert one is other
    channel._disconnect_pools()
    with channel.conn_or_acquire() as another:
        assert another is not one
        assert another.ping()
