"""The wire format "id-pairs": the PDU of the 2014 specification (FED-5).

An event is named by two values, `pdu_id` and `origin`, and so are the events it refers to; its neutral ID is
`$pdu_id:origin`. To what the specification lists come `auth_pdus` (the events that allow this one), `hashes` and
`signatures`.

    neutral event       PDU
    event_id            pdu_id, origin
    room_id             context
    type                pdu_type
    sender              user_id
    origin_server_ts    ts
    prev_events         prev_pdus [[origin, pdu_id], …]
    auth_events         auth_pdus, likewise
    state_key           is_state and state_key
    replaces_state      prev_state_id, prev_state_origin
"""

from sys import intern

from synapse_like.protocol.contents import check_event_type, check_state_key
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import NOTHING, Event, Pdu, pack_seals, unpack_seals
from synapse_like.protocol.identifiers import domain_of, parse_event_id, parse_room_id
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import (
    Key,
    boolean,
    count,
    integer,
    list_of,
    map_of,
    object_with,
    optional,
    refuse,
    server_name,
    string,
    text_for,
    user_id,
)

MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 50


# Writing and reading.


def write(_rules: RoomRules, event: Event) -> Pdu:
    """The PDU of an event."""
    pdu_id, origin = _id_parts(event.event_id)
    pdu: Pdu = {
        **event.extra,
        "pdu_id": pdu_id,
        "origin": origin,
        "context": event.room_id,
        "pdu_type": event.type,
        "user_id": event.sender,
        "ts": event.origin_server_ts,
        "depth": event.depth,
        "prev_pdus": [_id_pair(event_id) for event_id in event.prev_events],
        "auth_pdus": [_id_pair(event_id) for event_id in event.auth_events],
        "content": event.content,
        "is_state": event.is_state,
        **unpack_seals(event.seals),
    }
    for name in ("state_key", "power_level", "required_power_level", "redacts"):
        value = getattr(event, name)
        if value is not None:
            pdu[name] = value
    if event.replaces_state is not None:
        pdu["prev_state_id"], pdu["prev_state_origin"] = _id_parts(event.replaces_state)
    if event.unsigned:
        pdu["unsigned"] = event.unsigned
    return pdu


def identify(_rules: RoomRules, pdu: Pdu) -> str:
    """The ID of the event that a checked PDU stands for."""
    return _event_id(pdu["origin"], pdu["pdu_id"])


def read(_rules: RoomRules, pdu: Pdu, event_id: str) -> Event:
    """The event that a checked PDU stands for."""
    replaces_state = None
    if "prev_state_id" in pdu:
        replaces_state = _event_id(pdu["prev_state_origin"], pdu["prev_state_id"])
    return Event(
        event_id=event_id,
        room_id=intern(pdu["context"]),
        type=intern(pdu["pdu_type"]),
        sender=intern(pdu["user_id"]),
        content=pdu["content"],
        origin_server_ts=pdu["ts"],
        depth=pdu["depth"],
        prev_events=tuple([_event_id(*pair) for pair in pdu["prev_pdus"]]),
        auth_events=tuple([intern(_event_id(*pair)) for pair in pdu["auth_pdus"]]),
        state_key=pdu.get("state_key"),
        redacts=pdu.get("redacts"),
        required_power_level=pdu.get("required_power_level"),
        power_level=pdu.get("power_level"),
        replaces_state=replaces_state,
        seals=pack_seals(pdu),
        unsigned=pdu.get("unsigned", NOTHING),
        extra={key: value for key, value in pdu.items() if key not in _KNOWN} or NOTHING,
    )


def _id_parts(event_id: str) -> tuple[str, str]:
    pdu_id, _, origin = event_id[1:].partition(":")
    return pdu_id, origin


def _id_pair(event_id: str) -> list[str]:
    pdu_id, origin = _id_parts(event_id)
    return [origin, pdu_id]


def _event_id(origin: str, pdu_id: str) -> str:
    return f"${pdu_id}:{origin}"


# Checking.


def check(_rules: RoomRules, pdu: Pdu) -> None:
    """See that a stranger's PDU has every field, and each of its kind.

    :raises BadJson: naming the field.
    """
    _PDU("pdu", pdu)
    _check_names(pdu)
    _check_state(pdu)
    if pdu["pdu_type"] == "m.room.redaction" and "redacts" not in pdu:
        raise BadJson("The PDU is a redaction, but has no 'redacts'.")


def _check_names(pdu: Pdu) -> None:
    _pair("pdu.pdu_id", [pdu["origin"], pdu["pdu_id"]])
    # Were the origin not the sender's server, anybody could speak for anybody (SEC-8).
    if domain_of(pdu["user_id"]) != pdu["origin"]:
        raise BadJson("The PDU's 'user_id' does not belong to its 'origin'.")


def _check_state(pdu: Pdu) -> None:
    present = [key.name for key in _ONLY_STATE if key.name in pdu]
    if not pdu["is_state"]:
        if present:
            raise BadJson(f"The PDU is not state, but has '{present[0]}'.")
        return
    if "state_key" not in pdu:
        raise BadJson("The PDU is state, but has no 'state_key'.")
    if ("prev_state_id" in pdu) != ("prev_state_origin" in pdu):
        raise BadJson("The PDU names the state it replaces by half.")
    if "prev_state_id" in pdu:
        _pair("pdu.prev_state_id", [pdu["prev_state_origin"], pdu["prev_state_id"]])


def _named_event_id(text: str) -> str:
    return parse_event_id(text, "chosen-by-origin")


def _named_room_id(text: str) -> str:
    return parse_room_id(text, "chosen-by-creator")


def _pair(name: str, value: object) -> None:
    match value:
        case [str(origin), str(pdu_id)] if ":" not in pdu_id:
            _named_event_id(_event_id(origin, pdu_id))
        case _:
            refuse(name, "named by an origin and an ID without ':'")


_REQUIRED = (
    Key("pdu_id", string),
    Key("origin", server_name),
    Key("context", text_for(_named_room_id)),
    Key("pdu_type", text_for(check_event_type)),
    Key("user_id", user_id),
    Key("ts", count),
    Key("depth", count),
    Key("prev_pdus", list_of(_pair, at_most=MAX_PREV_EVENTS)),
    Key("auth_pdus", list_of(_pair, at_most=MAX_AUTH_EVENTS)),
    Key("content", object_with()),
    Key("is_state", boolean),
    Key("hashes", map_of(string)),
    Key("signatures", map_of(map_of(string))),
)
_ONLY_STATE = (
    optional("state_key", text_for(check_state_key)),
    optional("power_level", integer),
    optional("required_power_level", integer),
    optional("prev_state_id", string),
    optional("prev_state_origin", string),
)
_OPTIONAL = (
    optional("redacts", text_for(_named_event_id)),
    optional("unsigned", object_with()),
)

_PDU = object_with(*_REQUIRED, *_ONLY_STATE, *_OPTIONAL)
_KNOWN = frozenset(key.name for key in (*_REQUIRED, *_ONLY_STATE, *_OPTIONAL))
