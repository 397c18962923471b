"""The host and port in an alert's `instance` label, which anybody who makes a metric can write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.hosts import HostPort, host_and_port, is_host

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
    "http://web-1",
    "web-.example",
    ".web",
    "web.",
    "web..x",
    "größe",
    "web\x00",
    "ѡeb",
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
    ],
)
def test_an_instance_names_a_host_and_perhaps_a_port(instance, host, port):
    assert host_and_port(instance) == HostPort(host, port)


@pytest.mark.parametrize("instance", HOSTILE)
def test_a_hostile_instance_names_no_host(instance):
    assert host_and_port(instance) is None


@given(st.text(alphabet="ab1.:-_[]%$(){}<>;|& \n'\"/\\@", max_size=20) | st.text(max_size=30))
def test_a_host_is_always_safe_as_an_argument_of_a_command(instance):
    found = host_and_port(instance)
    if found is not None:
        assert not found.host.startswith("-")
        assert all(c.isascii() and (c.isalnum() or c in "._-:") for c in found.host)
        assert 0 <= found.port <= 65535


@pytest.mark.parametrize(
    "host, bracketed", [("web-1", "web-1"), ("192.0.2.7", "192.0.2.7"), ("::1", "[::1]")]
)
def test_an_ipv6_address_stands_in_brackets_before_a_port(host, bracketed):
    found = HostPort(host, 9100)
    assert found.bracketed_host == bracketed
    assert host_and_port(f"{found.bracketed_host}:9100") == found


@pytest.mark.parametrize("text", ["web-1:9100", "[::1]", "::1%eth0", ""])
def test_a_host_has_neither_port_nor_brackets_nor_scope(text):
    assert not is_host(text)
