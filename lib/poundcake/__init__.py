"""PoundCake: every Alertmanager webhook on record, from the alert to its remediation."""

__version__ = "0.2.0"
