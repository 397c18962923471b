"""Read the host of an alert, and convert it to one canonical form.

Anybody who can create a metric controls the label that contains the host. Locks, cooldowns and
permissions use the canonical host, and actions receive no other part of the label.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import socket
from typing import Iterable, Mapping, NamedTuple, Union

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

HOST_LABEL = "instance"
"""The label that contains an alert's host, unless the configuration key host_label is set."""

# RFC 1123, section 2.1, plus underscores, which some host names contain despite the RFC.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")
# The C library parses 127.1, 2130706433, 0x7f.1 and 0177.0.0.1 as addresses. So a name whose last
# label is a number is invalid (as in the WHATWG URL standard).
_ENDS_IN_A_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\Z")
_DECIMAL_OCTETS = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_HIGHEST_PORT = 65_535
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ANY = "*"
_NAME_PATTERN = re.compile(r"[a-z0-9_.*?\[\]!-]+\Z")


class HostPort(NamedTuple):
    """A host and an optional port."""

    host: str
    """A canonical host: safe as an argument of a command."""
    port: int = 0
    """1 to 65535, or 0 if there is none."""


def canonical_host(text: str) -> str:
    """Return the canonical form of a host name or IP address, or '' if the text is neither.

    A name is converted to lower case, without a trailing dot. An IPv6 address is converted to its
    shortest form, and an IPv4-mapped one (``::ffff:192.0.2.7``) to the IPv4 address. An IPv4
    address must consist of four decimal numbers; other notations are refused.

    Args:
        text: A host without port, brackets or scope.
    """
    if not text.isascii():  # lower() can produce ASCII: it turns the Kelvin sign into a k
        return ""
    if ":" in text:
        address = _parse_ipv6(text)
        return str(address) if address else ""
    name = text.lower()
    name = name[:-1] if name.endswith(".") else name
    if _ENDS_IN_A_NUMBER.match(name):
        return name if _is_ipv4(name) else ""
    return name if _NAME.match(name) else ""


def host_and_port(instance: str) -> HostPort | None:
    """Return the host and port in an ``instance`` label, or None if it contains no host.

    Args:
        instance: ``web-1``, ``web-1:9100``, ``192.0.2.7:9100``, ``2001:db8::7``,
            ``[2001:db8::7]:9100`` or a URL, ``http://web-1:9100/metrics``. An empty port counts as
            no port. An http or https URL without a port has its scheme's default port. A URL with
            a user name is invalid.
    """
    url = _URL.match(instance)
    parts = _split_authority(url.group(2) if url else instance)
    if parts is None:
        return None
    host, port = canonical_host(parts[0]), parts[1]
    if not host or (port and not (_PORT.match(port) and 0 < int(port) <= _HIGHEST_PORT)):
        return None
    default_port = _DEFAULT_PORTS.get(url.group(1).lower(), 0) if url else 0
    return HostPort(host, int(port) if port else default_port)


def host_from_labels(labels: Mapping[str, str], host_label: str) -> str:
    """Return the canonical host of an alert, or '' if its host label contains none."""
    parsed = host_and_port(labels.get(host_label, ""))
    return parsed.host if parsed else ""


def parse_address(host: str) -> IPAddress | None:
    """Return a canonical host as an IP address, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_host_in(host: str, patterns: Iterable[str]) -> bool:
    """Return True if one of the patterns matches a canonical host.

    Args:
        host: A canonical host.
        patterns: ``*`` for any host; a network in CIDR notation or an address; or a name in which
            ``*``, ``?`` and ``[…]`` match characters within one label. A pattern without letters
            (``10.0.0.*``) matches only addresses.
    """
    return any(_pattern_matches(pattern.strip().lower(), host) for pattern in patterns)


def check_pattern(pattern: str) -> None:
    """Raise ValueError if the pattern can never match a host in `is_host_in`."""
    pattern = pattern.strip().lower()
    if not _NAME_PATTERN.match(pattern) and _parse_network(pattern) is None:
        raise ValueError(
            "must contain host names (* matches within one label), addresses, or networks such as "
            "10.0.0.0/8, all without a port"
        )


def target_refusal(host: str) -> str:
    """Return why no action may target this host, or an empty string.

    The host is compared with this machine's name, but it is not resolved.
    """
    address = parse_address(host)
    if address:
        return address_refusal(address)
    if host == "localhost" or host.endswith(".localhost") or _is_own_name(host):
        return f"{host} is the machine on which StackStorm runs"
    return ""


def address_refusal(address: IPAddress) -> str:
    """Return why no action may target this address, or an empty string."""
    if address.is_loopback:
        return f"{address} is a loopback address of the machine on which StackStorm runs"
    if address.is_unspecified or address in _THIS_NETWORK:
        return f"{address} is the unspecified address of the machine on which StackStorm runs"
    if address.is_link_local:
        return f"{address} is a link-local address, which does not identify a single host"
    if address.is_multicast or address == _BROADCAST:
        return f"{address} is a multicast or broadcast address"
    if _is_own_address(address):
        return f"{address} is an address of the machine on which StackStorm runs"
    return ""


_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST = ipaddress.ip_address("255.255.255.255")


def _parse_ipv6(text: str) -> IPAddress | None:
    # Since Python 3.9, ipaddress accepts any text as the scope of an IPv6 address.
    if "%" in text:
        return None
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address


def _is_ipv4(text: str) -> bool:
    # Python 3.8 accepts octets with leading zeros, which are octal numbers to the C library.
    return bool(_DECIMAL_OCTETS.match(text)) and all(int(octet) <= 255 for octet in text.split("."))


def _split_authority(authority: str) -> tuple[str, str] | None:
    """Return host and port, not yet validated, or None if brackets are misused."""
    if authority.startswith("["):
        host, bracket, after_bracket = authority[1:].partition("]")
        if not bracket or ":" not in host or (after_bracket and not after_bracket.startswith(":")):
            return None
        return host, after_bracket[1:]
    if authority.count(":") == 1:
        host, _, port = authority.partition(":")
        return host, port
    return authority, ""  # a name without a port, or an IPv6 address without brackets


def _pattern_matches(pattern: str, host: str) -> bool:
    if pattern == _ANY:
        return True
    address = parse_address(host)
    has_letters = any("a" <= character <= "z" for character in pattern)
    network = _parse_network(pattern)
    if network is not None:
        return address is not None and address in network
    if has_letters == (address is not None):
        return False
    labels, pattern_labels = host.split("."), pattern.rstrip(".").split(".")
    return len(labels) == len(pattern_labels) and all(
        map(fnmatch.fnmatchcase, labels, pattern_labels)
    )


def _parse_network(pattern: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return a pattern as a network or a single address, or None if it is neither."""
    try:
        return ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return None


def _is_own_name(host: str) -> bool:
    """Return True if a host is this machine's name, with or without its domain."""
    own_name = canonical_host(socket.gethostname())
    short_name = own_name.partition(".")[0]
    if host in (own_name, short_name):
        return True
    # getfqdn() may query a name server, so call it only if the short names are equal.
    return host.partition(".")[0] == short_name and host == canonical_host(socket.getfqdn())


def _is_own_address(address: IPAddress) -> bool:
    """Return True if an interface of this machine has the address.

    Connecting a UDP socket sends nothing, but makes the kernel choose a source address. If the
    address belongs to this machine, the source address is the address itself.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:
        return False  # no route to the address
