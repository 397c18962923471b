"""Pass the triggers that are published on StackStorm's exchange to the rules engine."""

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
MAX_CONCURRENT_TRIGGERS = 50
# In seconds: how often to poll the in-memory transport, and how long to wait for RabbitMQ.
CONNECTION_OPTIONS = {"transport_options": {"polling_interval": 0.02}, "connect_timeout": 3}


class TriggerConsumer:
    """Consume triggers from the queue: store and acknowledge each one, then process it."""

    def __init__(self, rules_engine: RulesEngine):
        self.rules_engine = rules_engine
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT_TRIGGERS, "rules")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._consume, name="consumer", daemon=True)

    def start(self) -> None:
        """Declare the queue, so that no later trigger is lost, and start consuming it."""
        with get_connection(connection_kwargs=CONNECTION_OPTIONS) as connection:
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
        logged_error = ""
        while not self._stopping.is_set():
            try:
                with get_connection(connection_kwargs=CONNECTION_OPTIONS) as connection:
                    connection.connect()
                    logged_error = ""
                    self._drain(connection)
            except Exception as error:
                if str(error) != logged_error:
                    LOG.warning("triggers cannot be consumed, retrying: %s", error)
                logged_error = str(error)
                time.sleep(0.5)

    def _drain(self, connection: Any) -> None:
        accept = ["pickle", "json"]
        with Consumer(connection, [QUEUE], callbacks=[self._receive], accept=accept):
            while not self._stopping.is_set():
                try:
                    connection.drain_events(timeout=0.5)
                except socket.timeout:
                    continue

    def _receive(self, body: Any, message: Any) -> None:
        # Acknowledge the trigger even after a failure: StackStorm would lose it, too.
        try:
            context = body.get("trace_context") or {}
            context = context if isinstance(context, dict) else vars(context)
            self.emit(body["trigger"], body["payload"], context)
        except Exception:
            LOG.exception("a trigger is lost")
        finally:
            message.ack()
