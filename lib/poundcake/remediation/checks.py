"""Check over TCP whether a host answers."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Sequence

from poundcake.hosts import HostPort, address_refusal, canonical_host, target_refusal
from poundcake.remediation.errors import RemediationError
from poundcake.string_enum import StringEnum

CONNECT_TIMEOUT = 3.0
"""Timeout of one connection attempt, in seconds."""

_SSH_PORT = 22
_RETRY_PAUSE = 1  # seconds
_SILENT_ERRORS = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN)


class TcpState(StringEnum):
    """The result of a TCP check. Only NO_ANSWER permits a change."""

    ANSWERS = "answers"
    """A connection was accepted."""
    REFUSED = "refused"
    """No port accepted a connection, but the host refused one, so it is up."""
    NO_ANSWER = "no_answer"
    """No port answered: an attempt timed out, or the host was unreachable."""
    UNRESOLVABLE = "unresolvable"
    """The name has no address, or no name server answered. The host may still be up."""
    UNKNOWN = "unknown"
    """The host could not be checked. Only `try_check_host` returns this."""


@dataclass(frozen=True)
class TcpResult:
    """The result of a TCP check of a host."""

    state: TcpState
    port: int
    """The port that answered or refused, or 0."""
    seconds: float
    """How long the check took."""
    detail: str
    """The result in words, or why the host could not be checked."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {**asdict(self), "state": str(self.state)}

    def as_action_result(self) -> dict[str, Any]:
        """Return the result of poundcake.check_host.

        Workflows that were written for release 0.2.0, or started by it, read `reachable`. It is
        missing if the name does not resolve, so that such a workflow fails and changes nothing.
        """
        result = self.as_dict()
        if self.state is not TcpState.UNRESOLVABLE:
            result["reachable"] = self.state is not TcpState.NO_ANSWER
        return result


class _Attempt(NamedTuple):
    """The result of trying every port once."""

    state: TcpState
    port: int = 0


def check_host(host: str, ports: Sequence[int], wait: float) -> TcpResult:
    """Check over TCP whether a host answers on any of the ports.

    Args:
        host: A host name or an IP address.
        ports: The ports to try, in this order.
        wait: Seconds to keep trying until a port answers; 0 to try each port once.

    Raises:
        RemediationError: The host is not a valid host name or IP address, it is StackStorm's own
            machine, or an error on this machine prevented the check.
    """
    canonical = canonical_host(host)
    if not canonical:
        raise RemediationError("host: must be a host name or an IP address")
    refusal = target_refusal(canonical)
    if refusal:
        raise RemediationError(f"host: {refusal}")
    started = time.monotonic()
    while True:
        attempt = _try_all(canonical, ports)
        elapsed = time.monotonic() - started
        if attempt.state is TcpState.ANSWERS or elapsed >= wait:
            detail = _describe(canonical, attempt)
            return TcpResult(attempt.state, attempt.port, round(elapsed, 3), detail)
        time.sleep(_RETRY_PAUSE)


def try_check_host(host: HostPort | None) -> TcpResult:
    """Check once whether the host of an alert answers; return UNKNOWN if it cannot be checked."""
    try:
        return check_host(host.host if host else "", ports_to_check(host.port if host else 0), 0)
    except RemediationError as error:
        return TcpResult(TcpState.UNKNOWN, 0, 0.0, str(error))


def ports_to_check(port: int) -> list[int]:
    """Return the ports to check: SSH, and `port` if it is not 0."""
    return [_SSH_PORT] + ([port] if port not in (0, _SSH_PORT) else [])


def _describe(host: str, attempt: _Attempt) -> str:
    descriptions = {
        TcpState.ANSWERS: f"{host} answers on port {attempt.port}",
        TcpState.REFUSED: f"{host} is up and refuses connections on port {attempt.port}",
        TcpState.NO_ANSWER: f"{host} does not answer",
        TcpState.UNRESOLVABLE: f"the name {host} could not be resolved",
    }
    return descriptions[attempt.state]


def _try_all(host: str, ports: Sequence[int]) -> _Attempt:
    """Try each port on each address, and return the best result."""
    addresses = _resolve(host)
    if not addresses:
        return _Attempt(TcpState.UNRESOLVABLE)
    refused_port, has_silent_port, local_error = 0, False, ""
    for port in ports:
        for address in addresses:
            try:
                socket.create_connection((address, port), timeout=CONNECT_TIMEOUT).close()
                return _Attempt(TcpState.ANSWERS, port)
            except (ConnectionRefusedError, ConnectionResetError):
                refused_port = refused_port or port
            except OSError as error:
                # Any other error, such as ENETUNREACH, EPERM or EMFILE, is a problem on this
                # machine, and the host may be up.
                is_silent = isinstance(error, socket.timeout) or error.errno in _SILENT_ERRORS
                has_silent_port = has_silent_port or is_silent
                local_error = local_error or str(error)
    if refused_port:
        return _Attempt(TcpState.REFUSED, refused_port)
    if has_silent_port:
        return _Attempt(TcpState.NO_ANSWER)
    raise RemediationError(f"{host} could not be checked from this machine: {local_error}")


def _resolve(host: str) -> list[str]:
    """Return the host's addresses; [] if it has none, or if no name server answered.

    Raises:
        RemediationError: An address belongs to StackStorm's machine or does not identify one host.
    """
    try:
        results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = list(dict.fromkeys(str(result[4][0]) for result in results))
    for text in addresses:
        # A link-local address includes its scope: fe80::1%eth0.
        refusal = address_refusal(ipaddress.ip_address(text.partition("%")[0]))
        if refusal:
            raise RemediationError(f"host: {host} resolves to {text}: {refusal}")
    return addresses
