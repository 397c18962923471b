"""Consume triggers that were published on StackStorm's exchange, for the rules engine."""

from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kombu import Consumer, Queue
from st2common.transport.reactor import TRIGGER_INSTANCE_XCHG
from st2common.transport.utils import get_connection

from standalone.rules import RulesEngine

LOG = logging.getLogger("standalone.broker")
QUEUE = Queue("st2.trigger_instances_dispatch.rules_engine", TRIGGER_INSTANCE_XCHG, "#")
RULES_AT_ONCE = 50
# Poll interval of the in-memory transport; timeout in case RabbitMQ is restarting. In seconds.
OPTIONS = {"transport_options": {"polling_interval": 0.02}, "connect_timeout": 3}


class TriggerConsumer:
    """Consume triggers from the queue: record and acknowledge each, then process it."""

    def __init__(self, rules_engine: RulesEngine):
        self.rules_engine = rules_engine
        self._pool = ThreadPoolExecutor(RULES_AT_ONCE, "rules")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._consume, name="consumer", daemon=True)

    def start(self) -> None:
        """Declare the queue, so that no later trigger is lost, and start to consume it."""
        with get_connection(connection_kwargs=OPTIONS) as connection:
            QUEUE(connection.default_channel).declare()
        self._thread.start()

    def stop(self) -> None:
        """Stop consuming. Triggers that are not acknowledged stay in the broker."""
        self._stopping.set()
        self._pool.shutdown(wait=False)
        self._thread.join(2)

    def emit(self, trigger: str, payload: Any, trace_context: dict) -> None:
        """Process a trigger that did not come through the broker."""
        instance_id = self.rules_engine.store_instance(trigger, payload, trace_context)
        if instance_id and not self._stopping.is_set():
            self._pool.submit(self.rules_engine.process, instance_id)

    def _consume(self) -> None:
        while not self._stopping.is_set():
            try:
                with get_connection(connection_kwargs=OPTIONS) as connection:
                    self._drain(connection)
            except Exception as error:
                LOG.warning("broker: %s; retrying", error)
                time.sleep(0.5)

    def _drain(self, connection: Any) -> None:
        accept = ["pickle", "json"]
        with Consumer(connection, [QUEUE], callbacks=[self._take], accept=accept):
            while not self._stopping.is_set():
                try:
                    connection.drain_events(timeout=0.5)
                except socket.timeout:
                    continue

    def _take(self, body: Any, message: Any) -> None:
        # Acknowledge it even after a failure: StackStorm's rules engine also loses the trigger.
        try:
            context = body.get("trace_context") or {}
            context = context if isinstance(context, dict) else vars(context)
            self.emit(body["trigger"], body["payload"], context)
        except Exception:
            LOG.exception("a trigger is lost")
        finally:
            message.ack()
