"""E-mail addresses: what is one, and when two are the same (LOGIN-4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol.email_addresses import MAX_ADDRESS_BYTES, canonical_email
from synapse_like.protocol.errors import BadJson


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("alice@example.org", "alice@example.org"),
        (" Alice@EXAMPLE.org\n", "alice@example.org"),
        ("a.b+c_d@localhost", "a.b+c_d@localhost"),
        ("o'hara@1.example", "o'hara@1.example"),
        (f"{'a' * 64}@b", f"{'a' * 64}@b"),
    ],
)
def test_addresses_are_the_same_in_any_case(text: str, address: str) -> None:
    assert canonical_email(text) == address
    assert canonical_email(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "alice",
        "alice@",
        "@example.org",
        "a@b@c",
        ".a@b",
        "a.@b",
        "a..b@c",
        "a b@c",
        '"a b"@c',
        "a@-b.org",
        "a@b-.org",
        "a@b..org",
        "a@[127.0.0.1]",
        "a@b.org\r\nBcc: c@d.org",
        "a@b.org,c@d.org",
        "a@b.org>",
        "<a@b.org>",
        "ä@b.org",
        "a@bücher.example",
        "\u212a@b.org",
        f"{'a' * 65}@b",
        f"a@{'b.' * (MAX_ADDRESS_BYTES // 2)}org",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        canonical_email(text)


@given(st.text() | st.text(alphabet="aA1.@+-\n ", max_size=20))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = canonical_email(text)
    except BadJson:
        return
    assert canonical_email(address) == address
    assert address.isascii()
    assert not set(address) & set(' \r\n<>,;\\"')
