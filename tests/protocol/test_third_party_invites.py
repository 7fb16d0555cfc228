"""Invites of an address ("Authorization rules", 5.3.1 of room version 1): each step on both of its sides."""

from typing import Any

import pytest
from hypothesis import given
from nacl.signing import SigningKey as RawKey
from signedjson.key import decode_signing_key_base64
from signedjson.types import SigningKey
from unpaddedbase64 import encode_base64

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import V1, V11, RoomRules
from synapse_like.protocol.signing import sign_json
from synapse_like.protocol.third_party_invites import MAX_TRIES, is_signed_by_any, keys_in
from tests.protocol.room import ALICE, BOB, CAROL, VERSIONS, Room
from tests.protocol.strategies import any_values

TOKEN = "secret"
SERVER = "id.example"


def key_of(seed: int) -> SigningKey:
    return decode_signing_key_base64("ed25519", "0", encode_base64(bytes([seed]) * 32))


def public(key: SigningKey) -> str:
    return encode_base64(key.verify_key.encode())


KEY, OTHER_KEY = key_of(1), key_of(2)
SIGNED = sign_json({"mxid": BOB, "token": TOKEN}, SERVER, KEY)


def room_with_invited_address(rules: RoomRules = V11, **content: Any) -> Room:
    """Alice has invited an address."""
    room = Room(rules=rules)
    address = {"display_name": "b…@example.com", "key_validity_url": "https://id.example/", "public_key": public(KEY)}
    invite = room.unchecked("m.room.third_party_invite", {**address, **content}, TOKEN)
    room.state[invite.state_slot] = invite
    return room


def invite(room: Room, claim: Any, *, sender: str = ALICE, target: str = BOB) -> Event:
    return room.unchecked("m.room.member", {"membership": "invite", "third_party_invite": claim}, target, sender=sender)


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
def test_whoever_has_the_address_is_invited(rules: RoomRules) -> None:
    room = room_with_invited_address(rules)
    assert room.allows(invite(room, {"display_name": "Bob", "signed": SIGNED}))


@pytest.mark.parametrize("membership", ["none", "invite", "join", "leave"])
def test_invite_holds_whatever_has_become_of_its_sender_and_target(membership: str) -> None:
    room = room_with_invited_address()
    room.member(ALICE, membership)
    room.member(BOB, membership)
    assert room.allows(invite(room, {"signed": SIGNED}))


def test_banned_user_is_not_invited_by_address_either() -> None:
    room = room_with_invited_address()
    room.member(BOB, "ban", sender=ALICE)
    room.refuses(invite(room, {"signed": SIGNED}), "@bob:b.example is banned")


@pytest.mark.parametrize(
    "claim",
    [
        None,
        {},
        "x",
        {"signed": None},
        {"signed": []},
        {"signed": {}},
        {"signed": {"mxid": BOB}},
        {"signed": {"token": TOKEN}},
        {"signed": {"mxid": BOB, "token": 7}},
    ],
)
def test_invite_brings_what_was_signed(claim: Any) -> None:
    room = room_with_invited_address()
    room.refuses(invite(room, claim), "does not bring what an identity server has signed")


def test_identity_server_speaks_of_the_same_user() -> None:
    room = room_with_invited_address()
    room.refuses(invite(room, {"signed": SIGNED}, target=CAROL), "spoke of another user")


def test_address_must_have_been_invited() -> None:
    room = room_with_invited_address()
    del room.state["m.room.third_party_invite", TOKEN]
    room.refuses(invite(room, {"signed": SIGNED}), "Nobody invited this address")


def test_invite_is_in_the_name_of_the_same_member() -> None:
    room = room_with_invited_address()
    room.member(CAROL, "join")
    room.refuses(invite(room, {"signed": SIGNED}, sender=CAROL), "Somebody else invited this address")


@pytest.mark.parametrize(
    "signed",
    [
        {"mxid": BOB, "token": TOKEN},
        {**SIGNED, "signatures": {}},
        {**SIGNED, "signatures": []},
        {**SIGNED, "signatures": {SERVER: None}},
        {**SIGNED, "signatures": {SERVER: {"ed25519:0": "AAAA"}}},
        {**SIGNED, "signatures": {SERVER: {"ed25519:0": None}}},
        {**SIGNED, "signatures": {SERVER: {"rsa:0": SIGNED["signatures"][SERVER]["ed25519:0"]}}},
        {**SIGNED, "more": 1},
        {**SIGNED, "more": 0.5},
        {**SIGNED, "more": 2**70},
        {**SIGNED, "more": "\ud800"},
        sign_json({"mxid": BOB, "token": TOKEN}, SERVER, OTHER_KEY),
    ],
)
def test_it_must_be_signed_with_the_key_that_was_named(signed: dict[str, Any]) -> None:
    room = room_with_invited_address()
    room.refuses(invite(room, {"signed": signed}), "No identity server that was named")


def test_any_of_several_keys_and_signatures_will_do() -> None:
    keys = {"public_key": public(OTHER_KEY), "public_keys": [{"public_key": "x"}, None, {"public_key": public(KEY)}]}
    room = room_with_invited_address(**keys)
    signed = sign_json(SIGNED, "other.example", key_of(3))
    assert room.allows(invite(room, {"signed": signed}))


@pytest.mark.parametrize("public_key", ["", "x", "AAAA", "ü", None, 7, public(KEY)[:-1]])
def test_what_is_no_key_matches_nothing(public_key: Any) -> None:
    room = room_with_invited_address(V1, public_key=public_key, public_keys=None)
    room.refuses(invite(room, {"signed": SIGNED}), "No identity server that was named")


def test_keys_may_be_spelt_for_urls() -> None:
    seed = next(seed for seed in range(256) if set("+/") & set(public(key_of(seed))))
    spelt = public(key_of(seed)).replace("+", "-").replace("/", "_")
    assert is_signed_by_any(sign_json({"mxid": BOB}, SERVER, key_of(seed)), [spelt])


def test_work_is_bounded_and_does_not_depend_on_the_order_of_keys_in_json() -> None:
    raw = [encode_base64(RawKey(bytes([index, 7]) * 16).verify_key.encode()) for index in range(MAX_TRIES)]
    assert is_signed_by_any(SIGNED, [*raw[1:], public(KEY)])
    assert not is_signed_by_any(SIGNED, [*raw, public(KEY)])
    false = {f"{index:03}.example": {"ed25519:0": "AAAA"} for index in range(MAX_TRIES)}
    signatures = SIGNED["signatures"]
    for order in (false | signatures, signatures | false):
        assert not is_signed_by_any({**SIGNED, "signatures": order}, [public(KEY)])
    del false["000.example"]
    for order in (false | signatures, signatures | false):
        assert is_signed_by_any({**SIGNED, "signatures": order}, [public(KEY)])


@given(any_values, any_values, any_values)
def test_no_claim_and_no_keys_are_met_otherwise_than_by_a_verdict(signatures: Any, keys: Any, listed: Any) -> None:
    room = room_with_invited_address(public_key=keys, public_keys=listed)
    assert not room.allows(invite(room, {"signed": {**SIGNED, "signatures": signatures}}))
    assert not room.allows(invite(room, signatures))
    assert all(isinstance(key, str) for key in keys_in({"public_keys": [keys, {"public_key": listed}]}))
