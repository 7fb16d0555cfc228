"""The wire formats "ids-with-hashes" and "ids": the PDUs of the Matrix room versions (their sections "Event format").

Almost every field is called as in the neutral event. What differs from version to version:

    "ids-with-hashes"   `event_id` is in the PDU; prev_events and auth_events are [[id, {"sha256": hash}], …]
    "ids"               the event ID is the PDU's reference hash; prev_events and auth_events are [id, …]

    redacts_in_content  a redaction names its target in `content`, else at the top
    room_id_form        where the create event's hash is the room ID, the create event has no `room_id`
"""

from functools import cache, partial
from sys import intern
from typing import Any

from synapse_like.protocol.contents import check_event_type, check_state_key
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import NOTHING, Event, Pdu, pack_seals, unpack_seals
from synapse_like.protocol.identifiers import (
    EventIdForm,
    RoomIdForm,
    historical_room_id,
    historical_user_id,
    parse_event_id,
    parse_room_id,
)
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import Check, Key, list_of, map_of, object_with, optional, refuse, string, text_for

MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
LARGEST_STORED = 2**63 - 1
"""The largest integer that any server can store; where canonical JSON is strict, it allows less."""


# Writing and reading.


def write(rules: RoomRules, event: Event) -> Pdu:
    """The PDU of an event."""
    pdu: Pdu = {
        **event.extra,
        "type": event.type,
        "sender": event.sender,
        "origin_server_ts": event.origin_server_ts,
        "depth": event.depth,
        "prev_events": list(event.prev_events),
        "auth_events": list(event.auth_events),
        "content": event.content,
        **unpack_seals(event.seals),
    }
    if rules.pdu_format == "ids-with-hashes":
        pdu["event_id"] = event.event_id
        pdu["prev_events"] = list(map(list, zip(event.prev_events, event.prev_hashes, strict=True)))
        pdu["auth_events"] = list(map(list, zip(event.auth_events, event.auth_hashes, strict=True)))
    if not _gives_room_its_id(rules, event.type):
        pdu["room_id"] = event.room_id
    if event.state_key is not None:
        pdu["state_key"] = event.state_key
    if event.redacts is not None and not rules.redacts_in_content:
        pdu["redacts"] = event.redacts
    if event.unsigned:
        pdu["unsigned"] = event.unsigned
    return pdu


def identify(_rules: RoomRules, pdu: Pdu) -> str:
    """The ID that a checked PDU tells, in the format that does."""
    event_id: str = pdu["event_id"]
    return event_id


def read(rules: RoomRules, pdu: Pdu, event_id: str) -> Event:
    """The event that a checked PDU stands for."""
    prev_events, auth_events = pdu["prev_events"], pdu["auth_events"]
    known = _KNOWN
    hashes: dict[str, Any] = {}
    if rules.pdu_format == "ids-with-hashes":
        hashes = {
            "prev_hashes": tuple([by_algorithm for _, by_algorithm in prev_events]),
            "auth_hashes": tuple([by_algorithm for _, by_algorithm in auth_events]),
        }
        prev_events, auth_events = ([named[0] for named in events] for events in (prev_events, auth_events))
        known |= {"event_id"}
    redacts = None
    if pdu["type"] == _REDACTION:
        redacts = _target(rules, pdu)
        # What is no event ID stays where it stood, as the hash covers it.
        known |= frozenset() if rules.redacts_in_content or redacts is None else {"redacts"}
    return Event(
        event_id=event_id,
        room_id=intern("!" + event_id[1:] if _gives_room_its_id(rules, pdu["type"]) else pdu["room_id"]),
        type=intern(pdu["type"]),
        sender=intern(pdu["sender"]),
        content=pdu["content"],
        origin_server_ts=pdu["origin_server_ts"],
        depth=pdu["depth"],
        prev_events=tuple(prev_events),
        auth_events=tuple(map(intern, auth_events)),
        state_key=pdu.get("state_key"),
        redacts=redacts,
        seals=pack_seals(pdu),
        unsigned=pdu.get("unsigned", NOTHING),
        extra={key: value for key, value in pdu.items() if key not in known} or NOTHING,
        **hashes,
    )


def _gives_room_its_id(rules: RoomRules, event_type: str) -> bool:
    return rules.room_id_form == _HASH and event_type == _CREATE


def _target(rules: RoomRules, pdu: Pdu) -> str | None:
    """What a redaction redacts; None if it does not say, since it was redacted itself or names no event."""
    target = (pdu["content"] if rules.redacts_in_content else pdu).get("redacts")
    try:
        return parse_event_id(target) if isinstance(target, str) else None
    except BadJson:
        return None


# Checking.


def check(rules: RoomRules, pdu: Pdu) -> None:
    """See that a stranger's PDU has every field, and each of its kind.

    :raises BadJson: naming the field.
    """
    _shape(rules.pdu_format, rules.event_id_form, rules.room_id_form)("pdu", pdu)
    if _gives_room_its_id(rules, pdu["type"]):
        if "room_id" in pdu:
            raise BadJson("The PDU makes a room whose ID follows from it, but has a 'room_id'.")
    elif "room_id" not in pdu:
        raise BadJson("'pdu.room_id' is missing.")
    if pdu["type"] == _REDACTION and "redacts" in pdu and not rules.redacts_in_content:
        string("pdu.redacts", pdu["redacts"])


@cache
def _shape(pdu_format: str, event_id_form: EventIdForm, room_id_form: RoomIdForm) -> Check:
    an_event_id = text_for(partial(parse_event_id, form=event_id_form))
    a_room_id = partial(parse_room_id, form=room_id_form) if room_id_form == _HASH else historical_room_id
    keys = [*_SAME_FOR_ALL, optional("room_id", text_for(a_room_id))]
    reference = an_event_id
    if pdu_format == "ids-with-hashes":
        keys.append(Key("event_id", an_event_id))
        reference = partial(_check_id_with_hash, an_event_id)
    keys.append(Key("prev_events", list_of(reference, at_most=MAX_PREV_EVENTS)))
    keys.append(Key("auth_events", list_of(reference, at_most=MAX_AUTH_EVENTS)))
    return object_with(*keys)


def _check_id_with_hash(an_event_id: Check, name: str, value: object) -> None:
    match value:
        case [event_id, hashes]:
            an_event_id(f"{name}[0]", event_id)
            _HASHES(f"{name}[1]", hashes)
        case _:
            refuse(name, "an event ID with its hashes")


def _stored_integer(at_least: int) -> Check:
    def check_integer(name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= LARGEST_STORED:
            refuse(name, f"an integer between {at_least} and {LARGEST_STORED}")

    return check_integer


_HASH: RoomIdForm = "create-event-hash"
_CREATE = "m.room.create"
_REDACTION = "m.room.redaction"

_HASHES = map_of(string)

_SAME_FOR_ALL = (
    Key("type", text_for(check_event_type)),
    Key("sender", text_for(historical_user_id)),
    Key("origin_server_ts", _stored_integer(-LARGEST_STORED)),
    Key("depth", _stored_integer(0)),
    Key("content", object_with()),
    Key("hashes", object_with(Key("sha256", string))),
    Key("signatures", map_of(map_of(string))),
    optional("state_key", text_for(check_state_key)),
    optional("unsigned", object_with()),
)

_KNOWN = frozenset({*(key.name for key in _SAME_FOR_ALL), "room_id", "prev_events", "auth_events"})
