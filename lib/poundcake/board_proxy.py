"""The key `board_proxy`: a reverse proxy that signs people in, and tells the endpoint who they are.

The endpoint believes the proxy's header only on a connection from one of the listed addresses,
because every other client could send the header as well.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Union

from poundcake.unknown_keys import refuse_unknown_keys

_KEYS = ("header", "addresses")
_FORM = "must have header and addresses, for example {header: X-Forwarded-User, addresses: [::1]}"
# RFC 9110, section 5.1. Proxies write the names of their fields with letters, digits and hyphens.
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}\Z")
# Fields that browsers send, or that proxies add for people who have not signed in.
_OTHER_HEADERS = re.compile(
    r"(?i)(accept.*|authorization|cache-control|connection|content-.*|cookie|dnt|forwarded|host"
    r"|if-.*|origin|pragma|priority|range|referer|sec-.*|te|upgrade.*|user-agent|via"
    r"|x-forwarded-(for|host|port|proto|uri)|x-real-ip|x-request-id)\Z"
)

# RFC 4291, section 2.5.5.2. A socket for IPv4 and IPv6 shows an IPv4 client as such an address.
_MAPPED_PREFIX = 96
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@dataclass(frozen=True)
class BoardProxy:
    """A reverse proxy that signs people in, or none if `header` is empty.

    Attributes:
        header: The name of the field in which the proxy sends the name of the person.
        addresses: The addresses and networks from which the field is believed.
    """

    header: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def is_configured(self) -> bool:
        """Whether there is a proxy."""
        return bool(self.header)

    def has_address(self, address: str) -> bool:
        """Return True if the proxy may connect from this IP address."""
        try:
            ip_address = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip_address, ipaddress.IPv6Address) and ip_address.ipv4_mapped:
            ip_address = ip_address.ipv4_mapped
        return any(ip_address in ipaddress.ip_network(network) for network in self.addresses)

    def as_json(self) -> dict[str, Any]:
        """Return the key as it is written in the configuration."""
        if not self.is_configured:
            return {}
        return {"header": self.header, "addresses": list(self.addresses)}


def read_board_proxy(value: Any) -> BoardProxy:
    """Validate the key `board_proxy`. A mapping without values means that there is no proxy.

    StackStorm passes `{"addresses": []}` if the key is not set.

    Raises:
        ValueError: The value is invalid.
    """
    if not isinstance(value, dict):
        raise ValueError(_FORM)
    refuse_unknown_keys(value, _KEYS)
    settings = {key: item for key, item in value.items() if item is not None and item != []}
    if not settings:
        return BoardProxy()
    header = _read_header(settings.get("header"))
    return BoardProxy(header, _read_addresses(settings.get("addresses")))


def _read_header(value: Any) -> str:
    if not isinstance(value, str) or not _HEADER.match(value.strip()):
        raise ValueError("header: must be the name of an HTTP header, such as X-Forwarded-User")
    header = value.strip()
    if _OTHER_HEADERS.match(header):
        raise ValueError(
            f"header: {header} does not say who has signed in; name the header in which the proxy "
            "does, such as X-Forwarded-User"
        )
    return header


def _read_addresses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            "addresses: must list the proxy's IP addresses or networks, because the header is "
            "believed only from there"
        )
    return tuple(str(_read_network(entry)) for entry in value)


def _unmap(network: _Network) -> _Network:
    """Return the IPv4 network that an IPv6 network maps, such as 10.0.0.7 for ::ffff:10.0.0.7."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return network
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED_PREFIX}")


def _read_network(entry: Any) -> _Network:
    try:
        if not isinstance(entry, str):
            raise ValueError
        network = ipaddress.ip_network(entry.strip())
    except ValueError:
        raise ValueError(
            f"addresses: {entry!r} must be an IP address or a network such as 10.0.0.0/24"
        ) from None
    network = _unmap(network)
    if network.prefixlen == 0:
        raise ValueError(
            f"addresses: {network} contains every address, so everybody could send the header; "
            "list the proxy's own addresses"
        )
    return network
