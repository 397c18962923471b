"""Replace StackStorm's module of the same name if StackStorm is not installed."""

from __future__ import annotations

import os

from kombu import Connection


def get_connection(urls=None, connection_kwargs=None):
    """Return a connection to the broker: RabbitMQ, or one in this process's memory."""
    urls = urls or os.environ.get("STANDALONE_BROKER_URL") or "memory://"
    return Connection(urls, **(connection_kwargs or {}))
