"""The way into StackStorm: triggers published with confirms, so that a loss is an exception.

StackStorm's own sensor_service.dispatch returns None whether or not the trigger arrived, and
after one broken connection never works again. Here every publish waits for the broker's word
(https://www.rabbitmq.com/docs/confirms), is `mandatory` (a message that no queue takes comes back),
has a time limit, and opens a new connection after any failure.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

from kombu.serialization import dumps

from poundcake.errors import PoundCakeError

_TIMEOUT = 5  # seconds, for the write and for the confirm each
_PERSISTENT = 2


class BusError(PoundCakeError):
    """The broker did not take the trigger."""


class Bus:
    """Publishes triggers. May be used from any thread; one publish at a time.

    connect() gives an unconnected kombu Connection; by default the one that StackStorm's own
    configuration describes.
    """

    def __init__(self, connect: Callable[[], Any] | None = None):
        self._connect = connect or _stackstorm_connection
        self._lock = threading.Lock()
        self._connection: Any = None
        self._channel: Any = None

    def publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        """Publishes a trigger; returns once the broker has it on a queue. Raises BusError."""
        with self._lock:
            # A connection that was idle may have died unseen: its first failure is worth one
            # new connection.
            for reused in (self._channel is not None, False):
                try:
                    self._publish(trigger, payload, trace_tag)
                    return
                # Whatever kombu, amqp or a socket raise: the trigger is not known to be taken.
                except Exception as error:
                    self._drop()
                    if not reused:
                        what = (str(error).splitlines() or [""])[0]
                        raise BusError(f"{type(error).__name__}: {what[:200]}") from None

    def close(self) -> None:
        """Ends the connection, without waiting for the broker."""
        free = self._lock.acquire(timeout=0.5)
        # A publish that still waits for the broker's word is woken by the end of its socket.
        self._drop()
        if free:
            self._lock.release()

    def _publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        if self._channel is None:
            self._connection = self._connect()
            self._channel = self._connection.channel()
        content_type, content_encoding, body = dumps(
            _message(trigger, payload, trace_tag), serializer="pickle"
        )
        message = self._channel.prepare_message(
            body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers={},
            properties={"delivery_mode": _PERSISTENT},
        )
        # Producer.publish of kombu 5.0.2, which StackStorm 3.8.1 ships, drops the time limits.
        self._channel.basic_publish(
            message,
            exchange=_exchange(),
            routing_key=_ROUTING_KEY,
            mandatory=True,
            timeout=_TIMEOUT,
            confirm_timeout=_TIMEOUT,
        )

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                # close() would wait for the broker's answer; this closes the socket.
                connection.collect()
            except Exception:  # the socket is gone either way
                pass


# What follows knows StackStorm's exchange and its message: st2common/transport/reactor.py.
_ROUTING_KEY = "trigger_instance"


def _stackstorm_connection() -> Any:
    from st2common.transport.utils import get_connection

    return get_connection(
        connection_kwargs={"transport_options": {"confirm_publish": True}, "connect_timeout": 3}
    )


def _exchange() -> str:
    from st2common.transport.reactor import TRIGGER_INSTANCE_XCHG

    return TRIGGER_INSTANCE_XCHG.name


def _message(trigger: str, payload: dict[str, Any], trace_tag: str) -> dict[str, Any]:
    # A dict is what the rules engine itself passes on as a trace context (rules/worker.py), and
    # needs no class of StackStorm's to be unpickled.
    return {"trigger": trigger, "payload": payload, "trace_context": {"trace_tag": trace_tag}}
