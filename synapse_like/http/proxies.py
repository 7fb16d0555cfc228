"""Whose address a request comes from, where proxies stand between.

X-Forwarded-For is a claim that anybody can make. It is read only when the connection comes from a proxy that the
operator named, and from its right end, where that proxy wrote whom it saw: the first address that is no such proxy is
the client's.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network


class TrustedProxies:
    """The proxies that are believed.

    :param networks: addresses and networks, such as "127.0.0.1" and "10.0.0.0/8".
    :raises ValueError: one is neither.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ip_network(network) for network in networks]

    def __contains__(self, host: str) -> bool:
        try:
            address = ip_address(host)
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
                address = str(ip_address(claimed.strip()))
            except ValueError:
                break
        return address
