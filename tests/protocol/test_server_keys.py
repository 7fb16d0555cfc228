"""What a server says of its own keys: what is believed of it (FED-9)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json, verify_signed_json

from synapse_like.protocol.errors import SignatureError
from synapse_like.protocol.server_keys import MOST_KEYS, ServerKeys, publish, read
from tests.protocol.strategies import any_values

NAME = "a.example"
KEY, OTHER, OLD = (generate_signing_key(version) for version in ("1", "2", "0"))


def told(*signers: Any, **changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "server_name": NAME,
        "valid_until_ts": 1000,
        "verify_keys": {"ed25519:1": {"key": public(KEY)}},
        "old_verify_keys": {"ed25519:0": {"key": public(OLD), "expired_ts": 5}},
    } | changes
    for key in signers or (KEY,):
        said = sign_json(said, NAME, key)
    return said


def public(key: Any) -> str:
    return encode_verify_key_base64(get_verify_key(key))


def test_what_we_publish_can_be_read_and_is_signed() -> None:
    keys = ServerKeys(NAME, 1000, {"ed25519:1": get_verify_key(KEY)}, {"ed25519:0": (get_verify_key(OLD), 5)})
    answer = publish(keys, KEY)
    assert read(answer, NAME) == keys
    verify_signed_json(answer, NAME, get_verify_key(KEY))
    assert answer | {"signatures": None} == told() | {"signatures": None}


def test_current_keys_count_only_if_they_have_signed() -> None:
    both = {"ed25519:1": {"key": public(KEY)}, "ed25519:2": {"key": public(OTHER)}}
    assert read(told(KEY, verify_keys=both), NAME).current.keys() == {"ed25519:1"}
    assert read(told(OTHER, verify_keys=both), NAME).current.keys() == {"ed25519:2"}
    assert read(told(KEY, OTHER, verify_keys=both), NAME).current.keys() == both.keys()


def test_false_signature_of_one_key_is_none_of_it() -> None:
    both = {"ed25519:1": {"key": public(KEY)}, "ed25519:2": {"key": public(OTHER)}}
    answer = told(KEY, generate_signing_key("2"), verify_keys=both)
    assert read(answer, NAME).current.keys() == {"ed25519:1"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        told() | {"server_name": "b.example"},
        told() | {"valid_until_ts": 1001},
        told(OTHER),
        told(verify_keys={}),
        told(valid_until_ts=-1),
        told(valid_until_ts="1000"),
        told(valid_until_ts=True),
        {name: value for name, value in told().items() if name != "signatures"},
    ],
)
def test_what_cannot_be_believed_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(SignatureError):
        read(answer, NAME)


def test_old_keys_need_an_end_and_are_none_of_the_current_ones() -> None:
    old = {
        "ed25519:0": {"key": public(OLD), "expired_ts": 5},
        "ed25519:1": {"key": public(KEY), "expired_ts": 5},
        "ed25519:3": {"key": public(OLD)},
        "ed25519:4": {"key": "x", "expired_ts": 5},
        "rsa:1": {"key": public(OLD), "expired_ts": 5},
        "ed25519:5": 5,
    }
    assert read(told(old_verify_keys=old), NAME).old == {"ed25519:0": (get_verify_key(OLD), 5)}


def test_very_many_keys_are_not_all_read() -> None:
    old = {f"ed25519:o{number}": {"key": public(OLD), "expired_ts": 5} for number in range(1000)}
    assert len(read(told(old_verify_keys=old), NAME).old) == MOST_KEYS


@given(any_values)
def test_nonsense_is_refused_and_nothing_else_happens(value: Any) -> None:
    for name in ("server_name", "valid_until_ts", "verify_keys", "signatures"):
        with pytest.raises(SignatureError):
            read(told() | {name: value}, NAME)
    read(told(old_verify_keys={"ed25519:0": {"key": public(OLD), "expired_ts": 5}}), NAME)
