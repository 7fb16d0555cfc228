"""Which addresses federation may reach (SEC-1).

The names of servers come from strangers. A name that leads to loopback or into a private net would let them knock, by
our hand, on doors that are closed to them. So every address is looked at when it is connected to and not when a name is
looked up: what DNS says may change between the two.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_TRANSLATED = ip_network("64:ff9b::/96")
_TRANSLATED_LOCALLY = ip_network("64:ff9b:1::/48")


def is_public(address: str) -> bool:
    """Whether an address can be that of a server on the internet.

    :param address: an IP address. Anything else is not public.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return _is_public(parsed)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local or address in _TRANSLATED_LOCALLY:
            return False
    # `is_global` knows the registries of special addresses: private, loopback, link-local, documentation, shared …
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not address.is_loopback
        and not address.is_link_local
        and not address.is_private
    )


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address within an IPv6 address, where the network takes the one out of the other."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    packed = address.packed
    # NAT64, and the old "IPv4-compatible" form.
    if address in _TRANSLATED or (packed[:12] == bytes(12) and int(address) > 1):
        return IPv4Address(packed[12:])
    return None
