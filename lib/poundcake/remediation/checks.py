"""Whether a host answers."""

from __future__ import annotations

import socket
import time
from typing import Any, Sequence

from poundcake.hosts import is_host
from poundcake.remediation.errors import RemediationError

CONNECT_TIME = 3  # seconds


def check_host(host: str, ports: Sequence[int], wait: float) -> dict[str, Any]:
    """Whether a host answers on any of the ports, by TCP; tried again for ``wait`` seconds.

    A refused connection is an answer too: the host is up. Returns {reachable, port, seconds}.
    Raises RemediationError for what is no host.
    """
    if not is_host(host):
        raise RemediationError("host: a host name or an IP address is expected")
    began = time.monotonic()
    while True:
        for port in ports:
            if _answers(host, port):
                seconds = round(time.monotonic() - began, 3)
                return {"reachable": True, "port": port, "seconds": seconds}
        if time.monotonic() - began >= wait:
            seconds = round(time.monotonic() - began, 3)
            return {"reachable": False, "port": 0, "seconds": seconds}
        time.sleep(1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIME).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def ports_of(port: int) -> list[int]:
    """Where a host is asked whether it is up: SSH, and the port that its metrics come from."""
    return [22] + ([port] if port and port != 22 else [])
