"""Redis as Celery's broker: kombu's transport, with fewer words to Redis, and proof against what is no message."""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as transport
from kombu.transport.virtual import base as virtual

from worker.discreet import ODD, kept_whole


class QoS(transport.QoS):
    """What a channel has taken off its queues and not acknowledged yet, noted in Redis.

    Killed before acknowledgements are told, as before they were made: the messages come again, and change nothing.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._done: list[str] = []

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note a message, if it is one."""
        info = message.delivery_info
        texts = (delivery_tag, info["exchange"], info["routing_key"])
        if not (isinstance(message.headers, dict) and all(isinstance(text, str) for text in texts)):
            raise TypeError("has not a message's shape")
        self.channel.taken = None
        super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; Redis is told of all that come in one round of the event loop together."""
        self._done.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
        if not self.channel.active_queues:
            self._tell()

    def can_consume(self) -> bool:
        """Whether there is room for another message; asked in each round of the event loop while it consumes."""
        self._tell()
        room: bool = super().can_consume()  # type: ignore[no-untyped-call]
        return room

    def restore_unacked_once(self, *args: Any, **options: Any) -> None:
        """Give back what is not acknowledged, at the end."""
        self._tell()
        super().restore_unacked_once(*args, **options)  # type: ignore[no-untyped-call]

    def _tell(self) -> None:
        done, self._done = self._done, []
        if done:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *done).hdel(self.unacked_key, *done).execute()


class Channel(transport.Channel):
    """A channel that keeps what somebody has pushed onto a queue and is no message: it would end the worker."""

    QoS = QoS

    taken: tuple[bytes, bytes] | None = None
    """A queue and what was just taken off it, until it is known to be a message."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Make a client once a pool: kombu makes one for each command, at a fifth of a worker's whole time."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept

    def _get_client(self) -> Any:
        channel = self

        class Client(super()._get_client()):  # type: ignore[misc]
            def parse_response(self, connection: Any, command: str, **options: Any) -> Any:
                found = super().parse_response(connection, command, **options)
                if command == "BRPOP":
                    channel.taken = found or None
                return found

        return Client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except ODD:
            if self.taken is None:
                raise
            queue, item = self.taken
        if not kept_whole(item, "message: is no Celery message"):
            with self.conn_or_acquire() as client:
                client.lpush(queue, item)
        return True


class Transport(transport.Transport):
    """Redis with such channels."""

    Channel = Channel


class SentinelChannel(Channel, transport.SentinelChannel):
    """The same, where sentinels say which Redis it is."""


class SentinelTransport(transport.SentinelTransport):
    """Redis behind sentinels, with such channels."""

    Channel = SentinelChannel


TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"
