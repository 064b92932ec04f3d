"""kombu's Redis transport, but an item in the queue that is no message does not end the worker."""

from __future__ import annotations

import logging
from queue import Empty

import kombu.transport
from kombu.transport import redis

from neuroscan_farm.dispatch.plain_messages import plain_message

log = logging.getLogger(__name__)

_SCHEMES = ("redis", "rediss")


class Message(redis.Channel.Message):  # type: ignore[misc] # kombu has no types
    """A message of which nothing is believed but the order in it."""

    def __init__(self, payload: object, channel: object = None, **options: object) -> None:
        super().__init__(plain_message(payload), channel, **options)


class Channel(redis.Channel):  # type: ignore[misc] # kombu has no types
    """A channel that drops what it cannot read, with a line in the log."""

    Message = Message

    def _brpop_read(self, **options: object) -> object:
        try:
            return super()._brpop_read(**options)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            log.error("an item in the queue is no message and was dropped: %.300r", error)
            raise Empty from None


class Transport(redis.Transport):  # type: ignore[misc] # kombu has no types
    """The transport behind redis://, rediss:// and redis+socket:// in this process."""

    Channel = Channel


def use_forgiving_transport() -> None:
    """Let kombu take this transport for Redis; a second call does nothing."""
    for scheme in _SCHEMES:
        kombu.transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
