"""Read the host and the port that an alert's ``instance`` label names."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

# RFC 1123, section 2.1, and underscores, which some hosts have in their name all the same.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_HIGHEST_PORT = 65_535


class HostPort(NamedTuple):
    """A host and, where one is named, its port."""

    host: str
    """A host name or an IP address without brackets: safe as an argument of a command."""
    port: int = 0
    """1 to 65535, or 0 if no port is named."""

    @property
    def bracketed_host(self) -> str:
        """The host as it stands before ``:port`` in an instance or a URL (RFC 3986, 3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host


def host_and_port(instance: str) -> HostPort | None:
    """Return the host and port of an ``instance`` label, or None if it names no usable host.

    Anybody who can create a metric writes this label. Only a valid host name or IP address comes
    back, because it becomes an argument of actions that connect to it or run a command on it.

    Args:
        instance: ``web-1``, ``web-1:9100``, ``192.0.2.7:9100``, ``2001:db8::7`` or
            ``[2001:db8::7]:9100``. An empty port after the colon counts as none.
    """
    parts = _split(instance)
    if parts is None:
        return None
    host, port = parts
    if port and not (_PORT.match(port) and 0 < int(port) <= _HIGHEST_PORT):
        return None
    return HostPort(host, int(port or 0)) if is_host(host) else None


def is_host(text: str) -> bool:
    """Return True if the text is a valid host name or IP address, without a port or brackets."""
    # From Python 3.9 on, ipaddress accepts any text as the scope of an IPv6 address.
    if "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_NAME.match(text))
    return True


def _split(instance: str) -> tuple[str, str] | None:
    """Return host and port as texts that are not checked yet, or None if brackets are misused."""
    if instance.startswith("["):
        host, bracket, rest = instance[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return None
        return host, rest[1:]
    if instance.count(":") == 1:
        host, _, port = instance.partition(":")
        return host, port
    return instance, ""  # a name without a port, or an IPv6 address without brackets
