"""Publish triggers to StackStorm with publisher confirms, so that a lost trigger raises an error.

StackStorm's own `sensor_service.dispatch` returns None whether or not the trigger arrived, and
never works again after one broken connection. Here, every publish waits for the broker's
confirm (https://www.rabbitmq.com/docs/confirms), is `mandatory` (the broker returns a message that
it cannot route to a queue), has a time limit, and reconnects after any failure.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Protocol

from kombu.serialization import dumps

from poundcake.errors import PoundCakeError

_PACK = "poundcake"
_TIMEOUT = 5  # seconds, for the write and again for the confirm
_CLOSE_TIMEOUT = 0.5  # seconds that close() waits for a publish in progress
_PERSISTENT = 2  # the AMQP delivery_mode of persistent messages


class BusError(PoundCakeError):
    """The broker did not accept a trigger, or is unreachable."""


class Publisher(Protocol):
    """A publisher of triggers."""

    def publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        """Publish a trigger; return once the broker has queued it. Raises BusError."""

    def close(self) -> None:
        """Close the connection without waiting for the broker."""


class Broker(Publisher, Protocol):
    """A publisher that can also check its connection to the broker."""

    def check(self) -> None:
        """Raise BusError if the broker does not accept this client."""


class Bus:
    """Publish triggers from any thread, one at a time."""

    def __init__(self, connect: Callable[[], Any] | None = None):
        """Create a bus that connects on first use.

        Args:
            connect: Returns an unconnected kombu Connection; by default the one that
                StackStorm's own configuration describes.
        """
        self._connect = connect or _stackstorm_connection
        self._lock = threading.Lock()
        self._connection: Any = None
        self._channel: Any = None

    def publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
        """Publish a trigger; return once the broker has queued it.

        Raises:
            BusError: The broker did not confirm it in time, or the publish failed.
        """
        with self._lock:
            # An idle connection may have been lost unnoticed, so a failed publish on it is retried
            # once on a new connection.
            for is_reused in (self._channel is not None, False):
                try:
                    self._open()
                    self._publish(trigger, payload, trace_tag)
                    return
                # kombu, amqp and sockets raise many exception types. After any of them, the broker
                # may not have the trigger.
                except Exception as error:
                    self._disconnect()
                    if not is_reused:
                        raise _bus_error(error) from None

    def check(self) -> None:
        """Check that the broker accepts this client, and keep the connection for the next publish.

        Raises:
            BusError: The broker cannot be reached, or refuses the credentials.
        """
        with self._lock:
            try:
                self._open()
            except Exception as error:
                self._disconnect()
                raise _bus_error(error) from None

    def close(self) -> None:
        """Close the connection without waiting for the broker."""
        has_lock = self._lock.acquire(timeout=_CLOSE_TIMEOUT)
        # Closing the socket wakes a publish that is still waiting for its confirm.
        self._disconnect()
        if has_lock:
            self._lock.release()

    def _open(self) -> None:
        if self._channel is None:
            self._connection = self._connect()
            self._channel = self._connection.channel()

    def _publish(self, trigger: str, payload: dict[str, Any], trace_tag: str) -> None:
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

    def _disconnect(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                # close() would wait for the broker's answer; collect() closes the socket.
                connection.collect()
            except Exception:  # the socket is gone either way
                pass


def registered_config() -> dict[str, Any]:
    """Return the pack's currently registered configuration, with its defaults.

    Raises:
        Exception: The configuration cannot be read: StackStorm's database is unavailable, or a
            value that the configuration takes from the datastore is missing.
    """
    from st2common.util.config_loader import ContentPackConfigLoader

    config: dict[str, Any] = ContentPackConfigLoader(_PACK).get_config()
    if not config:  # the defaults are missing too while the pack is being removed or reregistered
        raise LookupError("the configuration schema of the pack is not registered")
    return config


def _bus_error(error: Exception) -> BusError:
    text = (str(error).splitlines() or [""])[0]
    return BusError(f"{type(error).__name__}: {text[:200]}")


# The exchange, routing key and message format of StackStorm: st2common/transport/reactor.py.
_ROUTING_KEY = "trigger_instance"


def _stackstorm_connection() -> Any:
    from st2common.transport.utils import get_connection

    return get_connection(
        connection_kwargs={"transport_options": {"confirm_publish": True}, "connect_timeout": 3}
    )


def _exchange() -> Any:
    from st2common.transport.reactor import TRIGGER_INSTANCE_XCHG

    return TRIGGER_INSTANCE_XCHG.name


def _message(trigger: str, payload: dict[str, Any], trace_tag: str) -> dict[str, Any]:
    # The rules engine itself passes the trace context as a dict (rules/worker.py), and a dict
    # unpickles without any StackStorm class.
    return {"trigger": trigger, "payload": payload, "trace_context": {"trace_tag": trace_tag}}
