"""Whose address counts behind proxies."""

from __future__ import annotations

import pytest

from synapse_like.http.proxies import TrustedProxies, counted_as

PROXIES = TrustedProxies(["127.0.0.1", "10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::1", " 2001:DB8::0:1 ", "2001:db8::1"),
        ("127.0.0.1", "192.0.2.66, 198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("127.0.0.1", "10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("127.0.0.1", "198.51.100.1, nonsense, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("", "198.51.100.1", ""),
        ("::ffff:127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "fe80::1%any-text", "fe80::1"),
        ("127.0.0.1", "198.51.100.1:4711", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1," * 2000 + "127.0.0.1", "198.51.100.1"),
        ("127.0.0.1", ",,,", "127.0.0.1"),
    ],
    ids=[
        "a stranger's claim is not believed",
        "a proxy is believed",
        "addresses are written in one way",
        "what stands left of the first stranger is the stranger's claim",
        "proxies all the way",
        "nonsense ends the search",
        "nothing is claimed",
        "a socket without an address",
        "a proxy at a socket that takes both kinds of addresses",
        "an IPv4 address within IPv6",
        "an invented zone does not make another address",
        "an address with a port is none",
        "a long chain",
        "empty claims",
    ],
)
def test_client_is_the_first_from_the_right_that_is_no_proxy(peer: str, forwarded_for: str, client: str) -> None:
    assert PROXIES.client_address(peer, forwarded_for) == client


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_ipv6_is_counted_by_its_network(address: str, name: str) -> None:
    """RATE-1: who has one address has 2^64 of them."""
    assert counted_as(address) == name


def test_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="example"):
        TrustedProxies(["example.org"])
