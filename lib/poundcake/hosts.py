"""The host that an alert names."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

# RFC 1123, section 2.1, with the underscores that some names have.
_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\Z"
)
_PORT = re.compile(r"[0-9]{1,5}\Z")


def host_of(instance: str) -> dict[str, Any]:
    """The host and port of an ``instance`` label: {host, port}; host '' where there is none that
    can be trusted as an argument, port 0 where none is named."""
    host, port = instance, ""
    if instance.startswith("["):
        host, bracket, rest = instance[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return {"host": "", "port": 0}
        port = rest[1:]
    elif instance.count(":") == 1:
        host, _, port = instance.partition(":")
    if port and not (_PORT.match(port) and 0 < int(port) < 65536):
        return {"host": "", "port": 0}
    if not is_host(host):
        return {"host": "", "port": 0}
    return {"host": host, "port": int(port or 0)}


def is_host(host: str) -> bool:
    # ipaddress takes any text for the scope of an IPv6 address, from Python 3.9 on.
    if "%" in host:
        return False
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return bool(_NAME.match(host))
