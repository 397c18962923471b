"""Stands in for StackStorm's module of this name where StackStorm is not installed."""

from __future__ import annotations

from kombu import Exchange

TRIGGER_INSTANCE_XCHG = Exchange("st2.trigger_instances_dispatch", type="topic")
