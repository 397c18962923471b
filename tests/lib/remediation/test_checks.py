"""A host is checked with TCP connections to its ports."""

from __future__ import annotations

import errno
import socket

import pytest

from poundcake.hosts import HostPort
from poundcake.remediation import checks
from poundcake.remediation.checks import TcpResult, TcpState, check_host, try_check_host
from poundcake.remediation.errors import RemediationError


@pytest.fixture
def loopback_is_another_host(monkeypatch):
    """Let the checks treat 127.0.0.1 as a host other than StackStorm's own."""
    monkeypatch.setattr(checks, "target_refusal", lambda host: "")
    monkeypatch.setattr(checks, "address_refusal", lambda address: "")


@pytest.fixture
def network(monkeypatch):
    """Return a function that fakes the network: how connections end, and how names resolve."""
    monkeypatch.setattr(checks.time, "sleep", lambda seconds: None)

    def fake(*connections, addresses=("198.51.100.7",)):
        """Set the outcomes, each an error or None for success, and return the list of attempts.

        Further connections repeat the last outcome.
        """
        outcomes, attempts = list(connections), []

        def connect(address, timeout):
            attempts.append(address)
            outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
            if outcome is not None:
                raise outcome
            return socket.socket()

        def resolve(host, port, type):
            if isinstance(addresses, Exception):
                raise addresses
            return [(socket.AF_INET, type, 6, "", (address, 0)) for address in addresses]

        monkeypatch.setattr(checks.socket, "create_connection", connect)
        monkeypatch.setattr(checks.socket, "getaddrinfo", resolve)
        return attempts

    return fake


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
TIMED_OUT = socket.timeout("timed out")
NO_HOST = OSError(errno.EHOSTUNREACH, "No route to host")
NO_NETWORK = OSError(errno.ENETUNREACH, "Network is unreachable")
NOT_PERMITTED = PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.usefixtures("loopback_is_another_host")
class TestRealSockets:
    def test_an_open_port_answers(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            port = listener.getsockname()[1]
            result = check_host("127.0.0.1", [port], 0)
        assert (result.state, result.port) == (TcpState.ANSWERS, port)

    def test_a_refused_connection_is_distinguished_from_no_answer(self):
        with socket.socket() as bound_socket:  # it does not listen
            bound_socket.bind(("127.0.0.1", 0))
            port = bound_socket.getsockname()[1]
            result = check_host("127.0.0.1", [port], 0)
        assert (result.state, result.port) == (TcpState.REFUSED, port)

    def test_a_connection_that_nobody_accepts_times_out(self, monkeypatch):
        monkeypatch.setattr(checks, "CONNECT_TIMEOUT", 0.3)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            clients = [socket.socket() for _ in range(3)]
            try:
                for client in clients:  # fill the backlog, so that the next SYN is not answered
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", port))
                assert check_host("127.0.0.1", [port], 0).state is TcpState.NO_ANSWER
            finally:
                for client in clients:
                    client.close()

    def test_a_name_without_an_address_is_unresolvable(self):
        result = check_host("no-such-host.invalid", [22], 0)
        assert (result.state, result.port) == (TcpState.UNRESOLVABLE, 0)


@pytest.mark.parametrize(
    "connections, state, port",
    [
        ([None], "answers", 22),
        ([TIMED_OUT, None], "answers", 80),
        ([REFUSED, None], "answers", 80),
        ([TIMED_OUT, REFUSED], "refused", 80),
        ([REFUSED, TIMED_OUT], "refused", 22),
        ([RESET, TIMED_OUT], "refused", 22),
        ([NO_NETWORK, REFUSED], "refused", 80),
        ([TIMED_OUT, TIMED_OUT], "no_answer", 0),
        ([NO_HOST, NO_HOST], "no_answer", 0),
        ([NO_NETWORK, TIMED_OUT], "no_answer", 0),
    ],
)
def test_the_best_result_of_all_ports_counts(network, connections, state, port):
    attempts = network(*connections)
    result = check_host("web-1", [22, 80], 0)
    assert (str(result.state), result.port) == (state, port)
    assert attempts == [("198.51.100.7", 22), ("198.51.100.7", 80)][: len(attempts)]


def test_every_address_of_a_name_is_tried(network):
    attempts = network(NO_NETWORK, None, addresses=("2001:db8::7", "198.51.100.7"))
    assert check_host("web-1", [22], 0).state is TcpState.ANSWERS
    assert attempts == [("2001:db8::7", 22), ("198.51.100.7", 22)]


@pytest.mark.parametrize("error", [NO_NETWORK, NOT_PERMITTED])
def test_a_local_network_fault_is_an_error_and_not_a_state_of_the_host(network, error):
    network(error)
    with pytest.raises(RemediationError, match="web-1 could not be checked from this machine: "):
        check_host("web-1", [22, 80], 0)


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_failing_name_server_does_not_mean_that_the_host_is_down(network, code):
    network(None, addresses=socket.gaierror(code, "x"))
    assert check_host("web-1", [22], 0).state is TcpState.UNRESOLVABLE


@pytest.mark.parametrize(
    "connections, detail",
    [
        ([None], "web-1 answers on port 22"),
        ([TIMED_OUT, REFUSED], "web-1 is up and refuses connections on port 9100"),
        ([TIMED_OUT, TIMED_OUT], "web-1 does not answer"),
    ],
)
def test_a_host_is_checked_on_the_ssh_port_and_on_the_port_of_its_instance(
    network, connections, detail
):
    attempts = network(*connections)
    assert try_check_host(HostPort("web-1", 9100)).detail == detail
    assert [port for _, port in attempts] == [22, 9100][: len(connections)]


@pytest.mark.parametrize("host", [HostPort("web-1"), HostPort("localhost"), None])
def test_a_host_that_cannot_be_checked_has_an_unknown_state(network, host):
    network(NO_NETWORK)
    result = try_check_host(host)
    assert result.state is TcpState.UNKNOWN
    assert result.detail.startswith(("web-1 could not be checked from this machine: ", "host: "))


def test_a_host_is_checked_until_it_answers(network):
    network(TIMED_OUT, TIMED_OUT, REFUSED, REFUSED, TIMED_OUT, None)
    result = check_host("web-1", [22, 80], 60)
    assert (result.state, result.port) == (TcpState.ANSWERS, 80)


def test_the_last_state_is_returned_after_the_wait(network, monkeypatch):
    clock = iter([0, 30, 61])
    monkeypatch.setattr(checks.time, "monotonic", lambda: next(clock))
    network(TIMED_OUT, REFUSED)
    result = check_host("web-1", [22], 60)
    detail = "web-1 is up and refuses connections on port 22"
    assert result == TcpResult(TcpState.REFUSED, 22, 61, detail)


@pytest.mark.parametrize(
    "host", ["", "a b", "-x", "$(reboot)", "fe80::1%$(x)", "web-1:80", "0x7f.1", "2130706433"]
)
def test_an_invalid_host_is_refused(host):
    with pytest.raises(RemediationError, match="host: must be a host name or an IP address"):
        check_host(host, [22], 0)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "::1", "::", "fe80::1"])
def test_stackstorm_does_not_check_itself(network, host):
    attempts = network(None)
    with pytest.raises(RemediationError, match="host: "):
        check_host(host, [22], 0)
    assert attempts == []


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1%eth0"])
def test_stackstorm_is_not_checked_under_a_name_that_resolves_to_it(network, address):
    attempts = network(None, addresses=("198.51.100.7", address))
    with pytest.raises(RemediationError, match="host: web-1 resolves to "):
        check_host("web-1", [22], 0)
    assert attempts == []


def test_the_ssh_port_and_the_metrics_port_are_checked_once_each():
    assert checks.ports_to_check(0) == [22]
    assert checks.ports_to_check(22) == [22]
    assert checks.ports_to_check(9100) == [22, 9100]


def test_the_tcp_result_becomes_the_result_of_the_action():
    detail = "web-1 answers on port 22"
    result = TcpResult(TcpState.ANSWERS, port=22, seconds=0.1, detail=detail).as_dict()
    assert result == {"state": "answers", "port": 22, "seconds": 0.1, "detail": detail}
    assert type(result["state"]) is str


@pytest.mark.parametrize(
    "state, keys",
    [
        (TcpState.ANSWERS, {"reachable": True}),
        (TcpState.REFUSED, {"reachable": True}),
        (TcpState.NO_ANSWER, {"reachable": False}),
        # A workflow that reads the missing key fails, and changes nothing.
        (TcpState.UNRESOLVABLE, {}),
    ],
)
def test_workflows_of_release_0_2_0_can_still_read_whether_the_host_is_reachable(state, keys):
    result = TcpResult(state, port=0, seconds=0.1, detail="")
    assert result.as_action_result() == {**result.as_dict(), **keys}
