"""Accept Alertmanager webhooks, keep a complete trail, and let StackStorm remediate alerts."""

from __future__ import annotations

__version__ = "0.3.0"
