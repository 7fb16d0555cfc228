"""Whose address a request comes from, where proxies stand between.

X-Forwarded-For is a claim that anybody can make. It is read only when the connection comes from a proxy that the
operator named, and from its right end, where that proxy wrote whom it saw: the first address that is no such proxy is
the client's.

Addresses have one spelling here, whoever writes them: an IPv4 address within IPv6 is that IPv4 address, and what stands
behind a `%` is left out. What is counted by address is counted by `counted_as`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

#: Bits of an IPv6 address that tell who it is; the others each machine chooses for itself, as often as it likes.
_PREFIX = 64


def read_address(text: str) -> IPv4Address | IPv6Address:
    """An address, in its one spelling.

    :raises ValueError: it is none.
    """
    address = ip_address(text.strip().partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(4096)
def counted_as(address: str) -> str:
    """Under what name that which comes from an address is counted: IPv6 by its /64 (RATE-1)."""
    try:
        read = read_address(address)
    except ValueError:
        return address
    return str(read) if isinstance(read, IPv4Address) else str(ip_network((read, _PREFIX), strict=False))


class TrustedProxies:
    """The proxies that are believed.

    :param networks: addresses and networks, such as "127.0.0.1" and "10.0.0.0/8".
    :raises ValueError: one is neither.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ip_network(network) for network in networks]

    def __contains__(self, host: str) -> bool:
        try:
            address = read_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: str) -> str:
        """Tell the client's address, for a connection from `peer` that carries an X-Forwarded-For header.

        What is no address ends the search: nothing to the left of it can be believed.
        """
        address = peer
        for claimed in reversed(forwarded_for.split(",")):
            if address not in self:
                break
            try:
                address = str(read_address(claimed))
            except ValueError:
                break
        return address
