"""Hosts and ports are read from instances, which anyone who can create a metric controls."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake import hosts
from poundcake.hosts import HostPort, canonical_host, host_and_port, host_from_labels, is_host_in

HOSTILE = [
    "",
    " ",
    ":",
    ":9100",
    "web-1:0",
    "web-1:65536",
    "web-1:99999999999999999999",
    "web-1:-1",
    "web-1:٩",
    "web-1:80:80",
    "web-1\n",
    "web-1:80\n",
    "web 1",
    "-oProxyCommand=reboot",
    "-h",
    "web-1;reboot",
    "web-1|reboot",
    "web-1&reboot",
    "$(reboot)",
    "`reboot`",
    "web'1",
    'web"1',
    "../../etc/passwd",
    "a/b",
    "user@host",
    "host\\",
    "{{st2kv.system.x}}",
    "<% st2kv(x) %>",
    "http://user@web-1/",
    "http://web-1;reboot/",
    "http:///metrics",
    "http://web-1:99999/",
    "://web-1",
    "web-.example",
    ".web",
    "web..",
    ".",
    "web..x",
    "größe",
    "web\x00",
    "ѡeb",
    "\u212aube-1",
    "127.1",
    "0x7f.1",
    "0x7f000001",
    "0X7F.0.0.1",
    "2130706433",
    "010.0.0.1",
    "0177.0.0.1",
    "10.0.0.01",
    "10.0.0.256",
    "1.2.3.4.5",
    "127.0.0.1.5",
    "web.0x",
    "٧.٧.٧.٧",
    "a" * 64,
    "a." * 127 + "a",
    "fe80::1%eth0;reboot",
    "fe80::1%$(reboot)",
    "[fe80::1%$(reboot)]:22",
    "[fe80::1%{{x}}]:22",
    "::1%`reboot`",
    "fe80::1% -oProxyCommand=x",
    "[web-1]:22",
    "[",
    "[]",
    "[::1",
    "[::1]x",
    "[::1]:x",
    "[[::1]]:1",
    "*",
    "10.0.0.0/8",
]


@pytest.mark.parametrize(
    "instance, host, port",
    [
        ("web-1", "web-1", 0),
        ("web-1:", "web-1", 0),
        ("web-1:9100", "web-1", 9100),
        ("web-1:65535", "web-1", 65535),
        ("web_1.example.org:80", "web_1.example.org", 80),
        ("a" * 63 + ".b", "a" * 63 + ".b", 0),
        ("192.0.2.7:9100", "192.0.2.7", 9100),
        ("2001:db8::7", "2001:db8::7", 0),
        ("[2001:db8::7]:9100", "2001:db8::7", 9100),
        ("[::1]", "::1", 0),
        ("[::1]:", "::1", 0),
        ("WEB-1.Example.ORG.:9100", "web-1.example.org", 9100),
        ("web-1.", "web-1", 0),
        ("::ffff:192.0.2.7", "192.0.2.7", 0),
        ("[::FFFF:c000:0207]:9100", "192.0.2.7", 9100),
        ("2001:DB8:0:0:0:0:0:7", "2001:db8::7", 0),
        ("[2001:0db8::0007]:9100", "2001:db8::7", 9100),
        ("10.0.0.attacker.net", "10.0.0.attacker.net", 0),
        ("0x7f.1.example.org", "0x7f.1.example.org", 0),
        ("http://web-1:9100/metrics", "web-1", 9100),
        ("HTTPS://Web-1.example.org./health?x=[1]#y", "web-1.example.org", 443),
        ("http://web-1", "web-1", 80),
        ("http://[2001:db8::7]:9100/", "2001:db8::7", 9100),
        ("tcp://db-1:5432", "db-1", 5432),
        ("tcp://db-1", "db-1", 0),
        ("http://web-1/x y\n$(reboot)", "web-1", 80),
    ],
)
def test_the_host_and_port_of_an_instance_are_read(instance, host, port):
    assert host_and_port(instance) == HostPort(host, port)


@pytest.mark.parametrize("instance", HOSTILE)
def test_a_hostile_instance_yields_no_host(instance):
    assert host_and_port(instance) is None


@given(st.text(alphabet="ab1.:-_[]%$(){}<>;|& \n'\"/\\@", max_size=20) | st.text(max_size=30))
def test_a_host_is_safe_as_a_command_argument(instance):
    parsed = host_and_port(instance)
    if parsed is not None:
        assert not parsed.host.startswith("-")
        assert all(c.isascii() and (c.isalnum() or c in "._-:") for c in parsed.host)
        assert 0 <= parsed.port <= 65535


@pytest.mark.parametrize("text", ["web-1:9100", "[::1]", "::1%eth0", "http://web-1", ""])
def test_text_with_a_port_brackets_or_a_scope_is_not_a_host(text):
    assert canonical_host(text) == ""


@given(st.text(alphabet="aB1.:-_[]/x", max_size=20))
def test_a_canonical_host_is_not_changed_again(text):
    parsed = host_and_port(text)
    if parsed is not None:
        assert canonical_host(parsed.host) == parsed.host
        bracketed = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        assert host_and_port(bracketed) == HostPort(parsed.host)


def test_labels_without_a_host_yield_an_empty_string():
    assert host_from_labels({"instance": "Web-1.:9100"}, "instance") == "web-1"
    assert host_from_labels({"instance": "web-1; reboot", "host": "web-1"}, "instance") == ""
    assert host_from_labels({"instance": "", "node": "WEB-2"}, "node") == "web-2"
    assert host_from_labels({}, "instance") == ""


@pytest.mark.parametrize(
    "pattern, matching, not_matching",
    [
        ("*", ["web-1", "a.b.c", "10.0.0.1", "2001:db8::1"], []),
        ("web-*", ["web-1", "web-"], ["web", "web-1.example.org", "db-web-1"]),
        ("WEB-*.Example.org.", ["web-1.example.org"], ["web-1.a.example.org", "web-1.example"]),
        ("*.example.org", ["web-1.example.org"], ["example.org", "a.b.example.org"]),
        ("*.*", [], ["a.b", "a", "10.0"]),
        ("web-?", ["web-1"], ["web-12", "web-."]),
        ("web-[12]", ["web-1"], ["web-3"]),
        ("10.0.0.*", ["10.0.0.7"], ["10.0.1.7", "10.0.0.attacker.net", "10.0.0.attacker"]),
        ("10.0.0.7", ["10.0.0.7"], ["10.0.0.70", "10.0.0.7.example"]),
        ("10.0.0.0/8", ["10.0.0.7", "10.255.255.255"], ["11.0.0.1", "2001:db8::1", "web-1"]),
        ("10.1.2.3/8", ["10.0.0.7"], ["11.0.0.1"]),
        ("2001:DB8::/32", ["2001:db8::7"], ["2001:db9::7", "10.0.0.1"]),
        ("2001:db8:0::7", ["2001:db8::7"], ["2001:db8::8"]),
        ("10.0.0.0/33", [], ["10.0.0.7", "10.0.0.0"]),
        ("", [], ["web-1"]),
        (" web-1 ", ["web-1"], []),
    ],
)
def test_a_pattern_matches_the_expected_hosts(pattern, matching, not_matching):
    assert [host for host in matching if not is_host_in(host, [pattern])] == []
    assert [host for host in not_matching if is_host_in(host, [pattern])] == []


def test_one_matching_pattern_is_enough():
    assert is_host_in("web-1", ["db-*", "web-*"])
    assert not is_host_in("web-1", [])


class TestTargets:
    @pytest.mark.parametrize(
        "host, reason",
        [
            ("localhost", "is the machine on which StackStorm runs"),
            ("web-1.localhost", "is the machine on which StackStorm runs"),
            ("127.0.0.1", "is a loopback address"),
            ("127.9.9.9", "is a loopback address"),
            ("::1", "is a loopback address"),
            ("0.0.0.0", "is the unspecified address"),
            ("0.1.2.3", "is the unspecified address"),
            ("::", "is the unspecified address"),
            ("169.254.169.254", "is a link-local address"),
            ("fe80::1", "is a link-local address"),
            ("224.0.0.1", "is a multicast or broadcast address"),
            ("ff02::1", "is a multicast or broadcast address"),
            ("255.255.255.255", "is a multicast or broadcast address"),
        ],
    )
    def test_an_address_that_cannot_belong_to_one_other_host_is_refused(self, host, reason):
        assert hosts.target_refusal(host).startswith(f"{host} {reason}")

    @pytest.mark.parametrize("host", ["web-1", "192.0.2.77", "2001:db8::7", "localhost.example"])
    def test_another_host_is_accepted(self, host):
        assert hosts.target_refusal(host) == ""

    def test_each_name_of_this_machine_is_refused(self, monkeypatch):
        monkeypatch.setattr(socket, "gethostname", lambda: "StackStorm")
        monkeypatch.setattr(socket, "getfqdn", lambda: "stackstorm.example.org")
        for name in ("stackstorm", "stackstorm.example.org"):
            reason = f"{name} is the machine on which StackStorm runs"
            assert hosts.target_refusal(name) == reason
        for name in ("stackstorm.other.org", "stackstorm-2"):
            assert hosts.target_refusal(name) == ""

    def test_the_address_of_this_machine_is_refused(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.77", 9))
            except OSError:
                pytest.skip("this machine has no route, and only a loopback address")
            own_address = ipaddress.ip_address(probe.getsockname()[0])
        reason = f"{own_address} is an address of the machine on which StackStorm runs"
        assert hosts.address_refusal(own_address) == reason
