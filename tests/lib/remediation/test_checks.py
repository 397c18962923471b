"""Whether a host answers by TCP."""

from __future__ import annotations

import socket

import pytest

from poundcake.remediation import checks
from poundcake.remediation.checks import ReachabilityResult, check_host
from poundcake.remediation.errors import RemediationError


def test_an_open_port_answers():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        found = check_host("127.0.0.1", [port], 0)
    assert (found.reachable, found.port) == (True, port)


def test_a_refused_connection_is_an_answer():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        found = check_host("127.0.0.1", [port], 0)
    assert (found.reachable, found.port) == (True, port)


def test_a_host_that_answers_on_no_port_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(checks, "_answers", lambda host, port: tried.append(port))
    found = check_host("192.0.2.1", [22, 80], 0)
    assert (found.reachable, found.port) == (False, 0)
    assert tried == [22, 80]


def test_a_host_is_tried_again_until_it_answers(monkeypatch):
    answers = iter([False, False, False, True])
    monkeypatch.setattr(checks, "_answers", lambda host, port: next(answers))
    monkeypatch.setattr(checks.time, "sleep", lambda seconds: None)
    found = check_host("127.0.0.1", [22, 80], 60)
    assert (found.reachable, found.port) == (True, 80)


def test_a_connection_that_nobody_accepts_ends_after_its_timeout(monkeypatch):
    monkeypatch.setattr(checks, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        others = [socket.socket() for _ in range(3)]
        try:
            for other in others:  # they fill the queue, so the next SYN is not answered
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            assert check_host("127.0.0.1", [port], 0).reachable is False
        finally:
            for other in others:
                other.close()


@pytest.mark.parametrize("host", ["", "a b", "-x", "$(reboot)", "fe80::1%$(x)", "web-1:80"])
def test_an_invalid_host_is_refused(host):
    with pytest.raises(RemediationError, match="host: must be a host name or an IP address"):
        check_host(host, [22], 0)


def test_a_name_that_does_not_resolve_does_not_answer():
    assert check_host("no-such-host.invalid", [22], 0).reachable is False


def test_ssh_and_the_port_of_the_metrics_are_checked():
    assert checks.ports_to_check(0) == [22]
    assert checks.ports_to_check(22) == [22]
    assert checks.ports_to_check(9100) == [22, 9100]


def test_the_result_is_that_of_the_action():
    found = ReachabilityResult(reachable=True, port=22, seconds=0.1).as_dict()
    assert found == {"reachable": True, "port": 22, "seconds": 0.1}
