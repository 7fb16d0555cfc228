"""Whose address counts behind proxies."""

from __future__ import annotations

import pytest

from synapse_like.http.proxies import TrustedProxies

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
    ],
)
def test_client_is_the_first_from_the_right_that_is_no_proxy(peer: str, forwarded_for: str, client: str) -> None:
    assert PROXIES.client_address(peer, forwarded_for) == client


def test_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="example"):
        TrustedProxies(["example.org"])
