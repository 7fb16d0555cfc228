"""What strangers send, led through all of the protocol core that reads it.

Each function here takes something as it might come over the network and asks of it whatever a server would. The core
may refuse by a `MatrixError`, and `resolve` may ask for more events; anything else that comes out is a fault, and so is
an assertion that fails here. Used by the fuzzer, by the test that replays its corpus, and by hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from signedjson.key import decode_signing_key_base64, get_verify_key

from synapse_like.protocol import canonical_json, identifiers
from synapse_like.protocol.authorisation import (
    auth_events_for,
    auth_types_for,
    authorise,
    claimed_state,
    redaction_applies,
    required_power_level_for,
)
from synapse_like.protocol.contents import check_content, check_event_type, check_ruling_content, check_state_key
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.events import Event, EventDraft, Pdu, StateSlot
from synapse_like.protocol.hashes import check_content_hash, content_hash, reference_hash
from synapse_like.protocol.power_levels import PowerLevels, levels_said
from synapse_like.protocol.redaction import redact, redact_pdu
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules, rules_for
from synapse_like.protocol.signing import (
    key_vouches_for,
    sign_json,
    sign_pdu,
    signers_of,
    verify_json,
    verify_pdu,
)
from synapse_like.protocol.state_resolution import MissingEvents, StateIds, resolve
from synapse_like.protocol.third_party_invites import is_signed_by_any, keys_in, token_of
from synapse_like.protocol.visibility import may_see
from synapse_like.protocol.wire_formats import from_pdu, read_pdu, to_pdu

SERVER = "a.example"
KEY = decode_signing_key_base64("ed25519", "1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
VERIFY_KEY = get_verify_key(KEY)

T = TypeVar("T")


def ask(function: Callable[..., T], *args: object) -> T | None:
    """What a function of the core answers; None if it refuses."""
    try:
        return function(*args)
    except (MatrixError, MissingEvents):
        return None


def agrees(function: Callable[..., object], *args: object) -> bool:
    """Does a function of the core that only ever refuses let something pass?"""
    return ask(lambda: (function(*args),)) is not None


def read_input(data: bytes) -> None:
    """Read an input of the fuzzer: a letter that stands for a room version, and then JSON or anything else."""
    version, said = data[:1] or b"A", data[1:]
    rules = ALL_RULES[(version[0] - ord("A")) % len(ALL_RULES)]
    read_text(rules, said.decode(errors="replace"))
    value = ask(canonical_json.decode, said)
    read_value(rules, value)
    read_room(rules, value if isinstance(value, list) else [value])


# Single values.

_READERS_OF_TEXT: tuple[Callable[[str], object], ...] = (
    identifiers.parse_user_id,
    identifiers.canonical_user_id,
    identifiers.historical_user_id,
    identifiers.parse_alias,
    identifiers.canonical_state_key,
    identifiers.canonical_alias,
    *(partial(identifiers.parse_room_id, form=form) for form in (None, "chosen-by-creator", "create-event-hash")),
    identifiers.historical_room_id,
    *(partial(identifiers.parse_event_id, form=form) for form in (None, "chosen-by-origin", "hash", "url-safe-hash")),
    identifiers.parse_server_name,
    identifiers.domain_of,
    partial(identifiers.local_part_for_registration, server_name=SERVER),
    identifiers.alias_localpart,
    check_event_type,
    check_state_key,
    rules_for,
)


def read_text(rules: RoomRules, text: str) -> None:
    """Read a text as everything that has a name."""
    for reader in _READERS_OF_TEXT:
        ask(reader, text)
    for canonical in (identifiers.canonical_user_id, identifiers.canonical_alias, identifiers.parse_server_name):
        found = ask(canonical, text)
        assert found is None or canonical(found) == found
    for content in ({}, {"membership": text}, {"creator": text}, {"users": {text: 1}}, {text: text}):
        ask(partial(check_content, rules, text, content, state_key=text))
    ask(is_signed_by_any, {"signatures": {SERVER: {text: text}}}, [text])
    ask(verify_json, {"signatures": {SERVER: {"ed25519:1": text}}}, SERVER, VERIFY_KEY)


def read_value(rules: RoomRules, value: object) -> None:
    """Read any JSON as a content, as something signed, and as a part of a PDU."""
    for strict in (True, False):
        ask(partial(canonical_json.check, value, strict=strict))
        ask(partial(canonical_json.encode, value, strict=strict))
    if agrees(partial(canonical_json.check, strict=False), value):
        assert canonical_json.decode(canonical_json.encode_in_any_order(value)) == value
    for event_type in _TYPES:
        for check in (check_content, check_ruling_content):
            for state_key in (None, "", "@bob:b.example"):
                ask(partial(check, rules, event_type, value, state_key=state_key))
    if isinstance(value, dict):
        _read_object(rules, value)


_TYPES = (
    *("m.room.create", "m.room.member", "m.room.join_rules", "m.room.power_levels", "m.room.add_state_level"),
    *("m.room.send_event_level", "m.room.ops_levels", "m.room.aliases", "m.room.name", "m.room.topic"),
    *("m.room.history_visibility", "m.room.guest_access", "m.room.third_party_invite", "m.room.avatar"),
    *("m.room.canonical_alias", "m.room.encryption", "m.room.pinned_events", "m.room.server_acl", "m.room.tombstone"),
    *("m.room.message", "m.room.message.feedback", "m.room.redaction"),
    *("m.call.invite", "m.call.candidates", "m.call.answer", "m.call.hangup"),
)


def _read_object(rules: RoomRules, value: dict[str, Any]) -> None:
    ask(verify_json, value, SERVER, VERIFY_KEY)
    signed = ask(sign_json, value, SERVER, KEY)
    assert signed is None or agrees(verify_json, signed, SERVER, VERIFY_KEY)
    ask(is_signed_by_any, value, keys_in(value))
    ask(levels_said, rules, value)
    ask(check_content_hash, rules, value)


# Events.


def read_pdu_of_stranger(rules: RoomRules, pdu: object) -> Event | None:
    """Read a PDU, and ask of the event what can be asked of it alone."""
    event = ask(from_pdu, rules, pdu)
    if event is None:
        return None
    assert isinstance(pdu, dict)
    _comes_back(rules, event, pdu)
    _read_seals(rules, event, pdu)
    for content_check in (check_content, check_ruling_content):
        ask(partial(content_check, rules, event.type, event.content, state_key=event.state_key))
    token_of(event)
    return event


def _comes_back(rules: RoomRules, event: Event, pdu: Pdu) -> None:
    """Whatever way an event takes, it stays the same event."""
    written = to_pdu(rules, event)
    assert from_pdu(rules, written) == event
    stored = canonical_json.decode(canonical_json.encode_in_any_order(written))
    assert isinstance(stored, dict)
    assert read_pdu(rules, stored, event.event_id) == event
    stripped = redact_pdu(rules, pdu)
    assert redact_pdu(rules, stripped) == stripped
    assert read_pdu(rules, stripped, event.event_id) == redact(rules, event)
    for hash_of in (content_hash, reference_hash):
        assert hash_of(rules, pdu) == hash_of(rules, written) == hash_of(rules, stored)
    assert reference_hash(rules, stripped) == reference_hash(rules, pdu)


def _read_seals(rules: RoomRules, event: Event, pdu: Pdu) -> None:
    ask(signers_of, rules, event)
    key_vouches_for(rules, event, valid_until=0, now=0)
    check_content_hash(rules, pdu)
    ask(verify_pdu, rules, pdu, SERVER, VERIFY_KEY)
    verify_pdu(rules, sign_pdu(rules, pdu, SERVER, KEY), SERVER, VERIFY_KEY)


# Rooms.


def read_room(rules: RoomRules, pdus: Sequence[object]) -> None:
    """Read PDUs as what was said in a room, one after the other; then resolve what state they left at some points."""
    known: dict[str, Event] = {}
    accepted: dict[str, Event] = {}
    state: dict[StateSlot, Event] = {}
    states: list[StateIds] = []
    for pdu in pdus:
        event = read_pdu_of_stranger(rules, pdu)
        if event is None:
            continue
        known[event.event_id] = event
        _ask_about(rules, event, state)
        if _is_allowed(rules, event, known, accepted, state):
            accepted[event.event_id] = event
            if event.is_state:
                state[event.state_slot] = event
        states.append({slot: held.event_id for slot, held in state.items()})
    for some in (states, states[::2], states[-2:]):
        _agree_in_any_order(rules, some, accepted)


def _is_allowed(
    rules: RoomRules,
    event: Event,
    known: Mapping[str, Event],
    accepted: Mapping[str, Event],
    state: Mapping[StateSlot, Event],
) -> bool:
    """Is it allowed, as a server asks when it receives it: by the events that it names, if all of them are there?

    Else by the state, so that one changed event does not take all that follow it out of the room.
    """
    if any(event_id not in known for event_id in event.auth_events):
        return agrees(authorise, rules, event, state)
    create = accepted.get("$" + event.room_id[1:])
    cited = [known[event_id] for event_id in event.auth_events]
    claim = partial(claimed_state, create=create, rejected=known.keys() - accepted.keys())
    claimed = ask(claim, rules, event, cited)
    return claimed is not None and agrees(authorise, rules, event, claimed)


def _ask_about(rules: RoomRules, event: Event, state: Mapping[StateSlot, Event]) -> None:
    """Ask about an event whatever can be asked in some state of its room."""
    ask(authorise, rules, event, state)
    auth_types_for(rules, event)
    auth_events_for(rules, event, state)
    draft = EventDraft(event.room_id, event.type, event.sender, event.content, event.state_key, event.redacts)
    if agrees(partial(check_content, state_key=draft.state_key), rules, draft.type, draft.content):
        required_power_level_for(rules, draft, state)
    levels = PowerLevels.from_state(rules, state)
    levels.may_invite(event.sender)
    for held in state.values():
        redaction_applies(rules, event, held, levels)
    for user in (event.sender, event.state_key or ""):
        may_see(rules, event, state, user, joined_since=False)


def _agree_in_any_order(rules: RoomRules, states: list[StateIds], accepted: Mapping[str, Event]) -> None:
    resolved = ask(resolve, rules, states, accepted)
    assert ask(resolve, rules, states[::-1], dict(list(accepted.items())[::-1])) == resolved
