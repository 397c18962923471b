"""Check whether a host can be reached."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass
from typing import Any, Sequence

from poundcake.hosts import is_host
from poundcake.remediation.errors import RemediationError

CONNECT_TIMEOUT = 3.0
"""Seconds that one connection attempt may take."""

_SSH_PORT = 22
_RETRY_PAUSE = 1  # seconds


@dataclass(frozen=True)
class ReachabilityResult:
    """What a check of a host found."""

    reachable: bool
    port: int
    """The port that answered, or 0 if none did."""
    seconds: float
    """How long the check took."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.check_host."""
        return asdict(self)


def check_host(host: str, ports: Sequence[int], wait: float) -> ReachabilityResult:
    """Check by TCP whether a host answers on any of the ports.

    A refused connection counts as an answer: the host is up.

    Args:
        host: A host name or an IP address.
        ports: The ports to try, in this order.
        wait: Seconds for which to try again while none answers; 0 tries each port once.

    Raises:
        RemediationError: The host is neither a valid host name nor an IP address.
    """
    if not is_host(host):
        raise RemediationError("host: must be a host name or an IP address")
    started = time.monotonic()
    while True:
        port = next((port for port in ports if _answers(host, port)), 0)
        elapsed = time.monotonic() - started
        if port or elapsed >= wait:
            return ReachabilityResult(bool(port), port, round(elapsed, 3))
        time.sleep(_RETRY_PAUSE)


def ports_to_check(port: int) -> list[int]:
    """Return the ports that tell whether a host is up: SSH, and `port` if it is not 0."""
    return [_SSH_PORT] + ([port] if port not in (0, _SSH_PORT) else [])


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True
