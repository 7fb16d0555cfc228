"""Requests between servers: whose they are, and that nothing of them was changed (FED-9, SEC-8)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signedjson.key import generate_signing_key, get_verify_key
from signedjson.sign import verify_signed_json

from synapse_like.protocol.errors import SignatureError
from synapse_like.protocol.request_signing import (
    LONGEST_HEADER,
    Credentials,
    authorization,
    encode_content,
    parse_authorization,
    verify,
)
from tests.protocol.strategies import contents

KEY = generate_signing_key("a_1")
VERIFY_KEY = get_verify_key(KEY)
URI = "/_matrix/federation/v1/send/1/?a=%21x"
REQUEST: dict[str, Any] = {"method": "PUT", "uri": URI, "content": b'{"one":1}'}

values = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='",\\'), min_size=1, max_size=40)
names = st.sampled_from(["a.example", "b.example:8448", "[::1]:1", "127.0.0.1"])
key_ids = st.from_regex(r"\Aed25519:[A-Za-z0-9_]{1,20}\Z")


def signed(**changes: Any) -> str:
    return authorization(**{**REQUEST, "origin": "a.example", "destination": "b.example", "key": KEY, **changes})


def check(header: str, **changes: Any) -> None:
    verify(parse_authorization(header), **{**REQUEST, "destination": "b.example", "key": VERIFY_KEY, **changes})


def refusal(header: str) -> str:
    with pytest.raises(SignatureError) as caught:
        parse_authorization(header)
    return caught.value.message


@given(st.sampled_from(["GET", "PUT", "POST"]), st.none() | contents)
def test_what_was_signed_verifies(method: str, content: dict[str, Any] | None) -> None:
    request = {"method": method, "content": None if content is None else encode_content(content)}
    check(signed(**request), **request)


def test_what_is_signed_is_what_the_specification_says() -> None:
    credentials = parse_authorization(signed())
    said = {
        "method": "PUT",
        "uri": URI,
        "origin": "a.example",
        "destination": "b.example",
        "content": {"one": 1},
        "signatures": {"a.example": {credentials.key_id: credentials.signature}},
    }
    verify_signed_json(said, "a.example", VERIFY_KEY)
    del said["content"]
    said["signatures"] = {"a.example": {credentials.key_id: parse_authorization(signed(content=None)).signature}}
    verify_signed_json(said, "a.example", VERIFY_KEY)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"uri": URI + "&b=1"},
        {"uri": URI.replace("%21", "!")},
        {"content": b'{"one":2}'},
        {"content": None},
        {"key": get_verify_key(generate_signing_key("a_1"))},
    ],
)
def test_any_change_breaks_the_signature(changes: dict[str, Any]) -> None:
    with pytest.raises(SignatureError, match="false"):
        check(signed(), **changes)


def test_body_cannot_be_added() -> None:
    with pytest.raises(SignatureError, match="false"):
        check(signed(content=None), content=b"{}")


def test_fake_origin_is_found_out() -> None:
    with pytest.raises(SignatureError, match="false"):
        check(signed().replace("a.example", "c.example"))


def test_request_cannot_be_replayed_to_another_server() -> None:
    with pytest.raises(SignatureError, match="another server"):
        check(signed(), destination="c.example")
    with pytest.raises(SignatureError, match="false"):
        check(signed().replace('destination="b.example",', ""), destination="c.example")


def test_header_without_destination_is_checked_as_if_it_named_us() -> None:
    check(signed().replace('destination="b.example",', ""))


def test_big_integers_are_signed_exactly() -> None:
    content = encode_content({"n": 10**30})
    assert content == b'{"n":1000000000000000000000000000000}'
    check(signed(content=content), content=content)


# Reading the header.


@given(names, st.none() | names, key_ids, values, st.randoms(), st.data())
def test_parameters_come_in_any_order_quoted_or_not(
    origin: str, destination: str | None, key_id: str, signature: str, dice: Any, data: st.DataObject
) -> None:
    given_ = {"origin": origin, "key": key_id, "sig": signature, "unknown": data.draw(values)}
    if destination is not None:
        given_["destination"] = destination
    parts = list(given_.items())
    dice.shuffle(parts)
    texts = []
    for name, value in parts:
        form = data.draw(st.sampled_from(['{}="{}"', "{}={}", ' {} = "{}" ', "\t{}={}\t"]))
        texts.append(form.format(name.upper() if data.draw(st.booleans()) else name, value))
    scheme = data.draw(st.sampled_from(["X-Matrix", "x-matrix", "X-MATRIX"]))
    header = f"{scheme} {','.join(texts)}"
    assert parse_authorization(header) == Credentials(origin, destination, key_id, signature)


@given(names, names, key_ids)
def test_what_we_write_we_can_read(origin: str, destination: str, key_id: str) -> None:
    key = generate_signing_key(key_id.removeprefix("ed25519:"))
    credentials = parse_authorization(signed(origin=origin, destination=destination, key=key))
    assert credentials[:3] == (origin, destination, key_id)


def test_quoted_values_may_hold_escapes_and_commas() -> None:
    header = 'X-Matrix origin="a\\.example",key="ed25519:1",sig="x",extra="a,\\"b=\\\\"'
    assert parse_authorization(header) == Credentials("a.example", None, "ed25519:1", "x")


@given(st.text(max_size=200) | st.text('oriegnkysd=",\\ \tX-Matrix1:.', max_size=100))
def test_nonsense_is_refused_and_nothing_else_happens(text: str) -> None:
    for header in (text, "X-Matrix " + text):
        with suppress(SignatureError):
            parse_authorization(header)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("", "no X-Matrix"),
        ("Bearer abc", "no X-Matrix"),
        ("X-Matrix", "cannot be read"),
        ('X-Matrix origin="a.example"', "lacks key and sig"),
        ('X-Matrix origin="a.example",key="ed25519:1"', "lacks sig"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig="x",origin="b.example"', "twice"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig="x",SIG="y"', "twice"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig="x', "cannot be read"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig="x" y', "cannot be read"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig=', "cannot be read"),
        ('X-Matrix origin="a.example" key="ed25519:1" sig="x"', "cannot be read"),
        ('X-Matrix origin="a.example",key="ed25519:1",sig="x", X-Matrix origin="b.example"', "cannot be read"),
        ('X-Matrix origin="a example",key="ed25519:1",sig="x"', "not the name of a server"),
        ('X-Matrix origin="A.example",key="ed25519:1",sig="x"', "not the name of a server"),
        ('X-Matrix origin="a.example",destination="",key="ed25519:1",sig="x"', "not the name of a server"),
        ('X-Matrix origin="a.example",key="rsa:1",sig="x"', "kind ed25519"),
        ('X-Matrix origin="a.example",key="ed25519:",sig="x"', "kind ed25519"),
        ("X-Matrix " + ",".join(f"p{number}=1" for number in range(17)), "too much"),
        ("X-Matrix " + "a" * LONGEST_HEADER, "too long"),
    ],
)
def test_faults_are_named(header: str, fault: str) -> None:
    assert fault in refusal(header)


def test_reading_takes_no_longer_for_what_was_made_to_be_slow() -> None:
    for filler in ("\\a", 'a="', " \t", "a=b ", '""'):
        refusal("X-Matrix " + filler * 500)


@pytest.mark.parametrize("signature", ["", "x", "é", "A" * 86, "A" * 88, "A" * 200])
def test_unreadable_signature_is_false(signature: str) -> None:
    with pytest.raises(SignatureError, match="false"):
        verify(
            Credentials("a.example", None, "ed25519:1", signature), **REQUEST, destination="b.example", key=VERIFY_KEY
        )
