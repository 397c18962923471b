"""Provide fake hosts to the stand-in's actions, which must not check the machine they run on.

The first word of a name defines a host's behaviour: answers-1.test, refuses-1.test, silent-1.test.
Connections to other names and addresses work as usual.
"""

from __future__ import annotations

import errno
import socket

DOMAIN = ".test"  # reserved for tests by RFC 6761
# Addresses for documentation, RFC 5737.
ADDRESSES = {
    "answers": "198.51.100.1",
    "refuses": "198.51.100.2",
    "silent": "198.51.100.3",
}
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def install():
    """Make the functions of `socket` in this process use the fake hosts."""
    resolve, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host, port, *args, **kwargs):
        behaviour = (
            host.partition("-")[0] if isinstance(host, str) and host.endswith(DOMAIN) else ""
        )
        return resolve(ADDRESSES.get(behaviour, host), port, *args, **kwargs)

    def create_connection(address, *args, **kwargs):
        if address[0] == ADDRESSES["answers"]:
            return socket.socket()
        if address[0] == ADDRESSES["refuses"]:
            raise REFUSED
        if address[0] == ADDRESSES["silent"]:
            raise socket.timeout("timed out")
        return connect(address, *args, **kwargs)

    socket.getaddrinfo, socket.create_connection = getaddrinfo, create_connection
