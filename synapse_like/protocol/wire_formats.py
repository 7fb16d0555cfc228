"""Events as servers send them to each other, and back.

A room's rules name its wire format. What goes out by `to_pdu` comes back by `from_pdu` as the same event, with
nothing lost: keys that we do not know are kept, too, because the hash covers them.

The format "id-pairs" is that of the 2014 specification (FED-5). An event is named by two values, `pdu_id` and
`origin`, and so are the events it refers to; its neutral ID is `$pdu_id:origin`. To what the specification lists
come `auth_pdus` (the events that allow this one), `hashes` and `signatures`.

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

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

from synapse_like.protocol import canonical_json
from synapse_like.protocol.contents import check_event_type, check_state_key
from synapse_like.protocol.errors import BadJson, TooLarge
from synapse_like.protocol.events import Event
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

Pdu = dict[str, Any]

MAX_PDU_BYTES = 65536
"""The largest PDU, in bytes of canonical JSON, signatures included."""

MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 50


def to_pdu(rules: RoomRules, event: Event) -> Pdu:
    """The wire form of an event. The dictionaries inside are the event's own: do not change them."""
    return _FORMATS[rules.pdu_format].write(event)


def from_pdu(rules: RoomRules, pdu: object) -> Event:
    """The event that a stranger's PDU stands for, after a check of every field.

    Neither hashes nor signatures nor the content's shape are looked into here.

    :param pdu: any JSON value.
    :raises BadJson: it is no PDU.
    :raises TooLarge: over 65536 bytes.
    """
    if not isinstance(pdu, dict):
        raise BadJson("A PDU must be a JSON object.")
    if rules.strict_canonical_json:
        # The PDU around it adds one level to the depth that a content may have.
        canonical_json.check(pdu, max_depth=canonical_json.MAX_DEPTH + 1)
    check_size(len(canonical_json.encode(pdu)))
    _FORMATS[rules.pdu_format].check(pdu)
    return read_pdu(rules, pdu)


def read_pdu(rules: RoomRules, pdu: Pdu) -> Event:
    """The event that a PDU stands for, if it was checked before: one from our own tables."""
    return _FORMATS[rules.pdu_format].read(pdu)


def type_of(rules: RoomRules, pdu: Pdu) -> str:
    """The type of the event that a checked PDU stands for."""
    event_type: str = pdu[_FORMATS[rules.pdu_format].type_key]
    return event_type


def check_size(size: int) -> None:
    """See that a PDU is not too large.

    :param size: its bytes of canonical JSON.
    :raises TooLarge: over 65536.
    """
    if size > MAX_PDU_BYTES:
        raise TooLarge(f"The event is too large: {size} bytes, where {MAX_PDU_BYTES} are allowed.")


# The format "id-pairs": writing and reading.


def _write(event: Event) -> Pdu:
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
        "hashes": event.hashes,
        "signatures": event.signatures,
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


def _read(pdu: Pdu) -> Event:
    replaces_state = None
    if "prev_state_id" in pdu:
        replaces_state = _event_id(pdu["prev_state_origin"], pdu["prev_state_id"])
    return Event(
        event_id=_event_id(pdu["origin"], pdu["pdu_id"]),
        room_id=pdu["context"],
        type=pdu["pdu_type"],
        sender=pdu["user_id"],
        content=pdu["content"],
        origin_server_ts=pdu["ts"],
        depth=pdu["depth"],
        prev_events=tuple([_event_id(*pair) for pair in pdu["prev_pdus"]]),
        auth_events=tuple([_event_id(*pair) for pair in pdu["auth_pdus"]]),
        state_key=pdu.get("state_key"),
        redacts=pdu.get("redacts"),
        required_power_level=pdu.get("required_power_level"),
        power_level=pdu.get("power_level"),
        replaces_state=replaces_state,
        hashes=pdu["hashes"],
        signatures=pdu["signatures"],
        unsigned=pdu.get("unsigned", {}),
        extra={key: value for key, value in pdu.items() if key not in _KNOWN},
    )


def _id_parts(event_id: str) -> tuple[str, str]:
    pdu_id, _, origin = event_id[1:].partition(":")
    return pdu_id, origin


def _id_pair(event_id: str) -> list[str]:
    pdu_id, origin = _id_parts(event_id)
    return [origin, pdu_id]


def _event_id(origin: str, pdu_id: str) -> str:
    return f"${pdu_id}:{origin}"


# The format "id-pairs": checking.


def _check(pdu: Pdu) -> None:
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


def _pair(name: str, value: object) -> None:
    match value:
        case [str(origin), str(pdu_id)] if ":" not in pdu_id:
            parse_event_id(_event_id(origin, pdu_id))
        case _:
            refuse(name, "named by an origin and an ID without ':'")


_REQUIRED = (
    Key("pdu_id", string),
    Key("origin", server_name),
    Key("context", text_for(parse_room_id)),
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
    optional("redacts", text_for(parse_event_id)),
    optional("unsigned", object_with()),
)

_PDU = object_with(*_REQUIRED, *_ONLY_STATE, *_OPTIONAL)
_KNOWN = frozenset(key.name for key in (*_REQUIRED, *_ONLY_STATE, *_OPTIONAL))


class _WireFormat(NamedTuple):
    write: Callable[[Event], Pdu]
    read: Callable[[Pdu], Event]
    check: Callable[[Pdu], None]
    type_key: str


_FORMATS = MappingProxyType({"id-pairs": _WireFormat(_write, _read, _check, "pdu_type")})
