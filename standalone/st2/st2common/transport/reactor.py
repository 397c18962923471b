"""Replace StackStorm's module of the same name if StackStorm is not installed."""

from __future__ import annotations

from kombu import Exchange

TRIGGER_INSTANCE_XCHG = Exchange("st2.trigger_instances_dispatch", type="topic")
