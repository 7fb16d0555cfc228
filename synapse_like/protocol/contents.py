"""What the content of a known kind of event must look like (EVT-1 to EVT-4).

The shapes are data, put together from the words in `shapes`. Types that we do not know pass untouched, and so do
keys that we do not know: events are meant to be extended.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import canonical_alias
from synapse_like.protocol.join_rules import VOUCHER, join_rules_of
from synapse_like.protocol.power_levels import levels_said
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import (
    Check,
    Key,
    anything,
    boolean,
    historical_user_id,
    integer,
    integer_or_null,
    list_of,
    map_of,
    object_with,
    one_of,
    optional,
    server_name,
    string,
    string_or_integer,
    string_or_null,
    string_or_object,
    text_for,
    user_id,
)
from synapse_like.protocol.visibility import HISTORY_VISIBILITIES

MAX_NAME_BYTES = 255
"""The longest event type and the longest state key, in bytes of UTF-8."""


def check_event_type(event_type: str) -> None:
    """See that a text can be the type of an event.

    :raises BadJson: it is empty, longer than 255 bytes, or holds NUL or half a surrogate pair.
    """
    if not event_type:
        raise BadJson("An event must have a type.")
    _check_name("type of an event", event_type)


def check_state_key(state_key: str) -> None:
    """See that a text can be the state key of an event; it may well be empty.

    :raises BadJson: it is longer than 255 bytes, or holds NUL or half a surrogate pair.
    """
    _check_name("state key", state_key)


def check_content(rules: RoomRules, event_type: str, content: object, *, state_key: str | None) -> None:
    """See that the content of an event is what its type demands of our own users.

    That it has a canonical JSON is not seen to here.

    :param rules: of the event's room.
    :param content: what came where the content should be.
    :param state_key: None for an event that is not state.
    :raises BadJson: naming the key and what it should hold.
    """
    _ANY_CONTENT("content", content)
    family = _FAMILIES[rules.power_level_family]
    as_state = family.state.get(event_type)
    if as_state is not None:
        if state_key is None:
            raise BadJson(f"{event_type} is a state event and needs a state key.")
        family.state_keys.get(event_type, string)("state_key", state_key)
        as_state(rules)("content", content)
    elif event_type == "m.room.redaction" and state_key is not None:
        raise BadJson("m.room.redaction is not a state event and has no state key.")
    elif event_type in family.others:
        family.others[event_type](rules)("content", content)


def check_ruling_content(rules: RoomRules, event_type: str, content: object, *, state_key: str | None) -> None:
    """See that the content of an event has the shape in which the rules of its room read it.

    In rooms that we share with other servers this is less than we ask of our own users, and exactly what the room
    version says: whoever refuses more, or less, sees another room than the others (SEC-2, SEC-3).

    :raises BadJson: it has not.
    """
    _ANY_CONTENT("content", content)
    check = _FAMILIES[rules.power_level_family].ruling.get(event_type)
    if check is None:
        return
    if event_type == "m.room.member" and state_key is None:
        raise BadJson("m.room.member is a state event and needs a state key.")
    check(rules)("content", content)


def _check_name(kind: str, text: str) -> None:
    if "\0" in text:
        raise BadJson(f"The {kind} may not contain NUL.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadJson(f"The {kind} holds half a surrogate pair.", reason=str(error)) from error
    if size > MAX_NAME_BYTES:
        raise BadJson(f"The {kind} may not be longer than {MAX_NAME_BYTES} bytes.")


_ANY_CONTENT = object_with()

_Shape = Callable[[RoomRules], Check]
"""What a content should be may depend on the rules of the room."""


def _always(check: Check) -> _Shape:
    return lambda rules: check


# Messages (EVT-3).

_SIZE = optional("size", integer)
_MIMETYPE = optional("mimetype", string)
_DURATION = optional("duration", integer)
_EXTENT = (optional("w", integer), optional("h", integer))

_IMAGE_INFO = object_with(_SIZE, _MIMETYPE, *_EXTENT)
_AUDIO_INFO = object_with(_SIZE, _MIMETYPE, _DURATION)
_THUMBNAIL = (optional("thumbnail_url", string), optional("thumbnail_info", _IMAGE_INFO))
_VIDEO_INFO = object_with(_SIZE, _MIMETYPE, _DURATION, *_EXTENT, *_THUMBNAIL)

_TEXT = Key("body", string)
_URL = Key("url", string)
# Clients of the day put a description of the file here, as an object (EVS-10).
_CAPTION = optional("body", string_or_object)

_ANY_MESSAGE = object_with(Key("msgtype", string), optional("sender_ts", integer))
_MESSAGES = MappingProxyType(
    {
        "m.text": object_with(_TEXT),
        "m.emote": object_with(_TEXT),
        "m.image": object_with(_URL, optional("info", _IMAGE_INFO), *_THUMBNAIL, _CAPTION),
        "m.audio": object_with(_URL, optional("info", _AUDIO_INFO), _CAPTION),
        "m.video": object_with(_URL, optional("info", _VIDEO_INFO), _CAPTION),
        "m.location": object_with(Key("geo_uri", string), *_THUMBNAIL, _CAPTION),
    }
)


def _message(name: str, content: object) -> None:
    _ANY_MESSAGE(name, content)
    assert isinstance(content, Mapping)
    _MESSAGES.get(content["msgtype"], _ANY_MESSAGE)(name, content)


# Calls (EVT-4).

_SESSION = object_with(Key("type", string), Key("sdp", string))


def _calls(version: Check, candidate: Check) -> Mapping[str, _Shape]:
    """What calls look like.

    :param version: what says which version of the events it is.
    :param candidate: one of the places where a caller may be reached.
    """
    call = (Key("call_id", string), Key("version", version))
    return {
        "m.call.invite": _always(object_with(*call, Key("offer", _SESSION), Key("lifetime", integer))),
        "m.call.candidates": _always(object_with(*call, Key("candidates", list_of(candidate)))),
        "m.call.answer": _always(object_with(*call, Key("answer", _SESSION))),
        "m.call.hangup": _always(object_with(*call)),
    }


_CALLS_OF_2014 = _calls(
    integer, object_with(Key("sdpMid", string), Key("sdpMLineIndex", integer), Key("candidate", string))
)
# Section "Voice over IP" of the specification of today, whose version 0 is a number and every later one a text; its
# candidates have one place or the other, and the last one none.
_CALLS_OF_TODAY = _calls(
    string_or_integer,
    object_with(
        Key("candidate", string), optional("sdpMid", string_or_null), optional("sdpMLineIndex", integer_or_null)
    ),
)

_EVENTS_OF_2014: Mapping[str, _Shape] = MappingProxyType(
    {
        "m.room.message": _always(_message),
        "m.room.message.feedback": _always(
            object_with(Key("type", one_of("delivered", "read")), Key("target_event_id", string))
        ),
        "m.room.redaction": _always(object_with(optional("reason", string))),
        **_CALLS_OF_2014,
    }
)

# State that both families have (EVT-2).

_MEMBERSHIPS = ("invite", "join", "leave", "ban")


def _membership(rules: RoomRules) -> Key:
    return Key("membership", one_of(*_MEMBERSHIPS, *(("knock",) if rules.knock_allowed else ())))


def _member(rules: RoomRules) -> Check:
    return object_with(
        _membership(rules),
        optional("displayname", string_or_null),
        optional("avatar_url", string_or_null),
        optional("reason", string_or_null),
        *((optional(VOUCHER, historical_user_id),) if rules.restricted_joins else ()),
        *((optional("third_party_invite", object_with()),) if rules.third_party_invites else ()),
    )


def _join_rules(rules: RoomRules) -> Check:
    return object_with(Key("join_rule", one_of(*join_rules_of(rules))), *(_ALLOW if rules.restricted_joins else ()))


_ALLOW = (optional("allow", list_of(object_with(Key("type", string), optional("room_id", string)))),)

_STATE: Mapping[str, _Shape] = MappingProxyType(
    {
        "m.room.member": _member,
        "m.room.join_rules": _join_rules,
        "m.room.aliases": _always(object_with(Key("aliases", list_of(text_for(canonical_alias))))),
        "m.room.name": _always(object_with(Key("name", string))),
        "m.room.topic": _always(object_with(Key("topic", string))),
    }
)

# State of the family "one-event-per-level".

_LEVELS = map_of(integer)


def _levels_of_users(name: str, content: object) -> None:
    _LEVELS(name, content)
    assert isinstance(content, Mapping)
    for key in content.keys() - {"default"}:
        user_id(f"{name}.{key}", key)


_LEVEL = object_with(Key("level", integer))

_RULING_STATE_OF_2014: Mapping[str, _Shape] = MappingProxyType(
    {
        "m.room.create": _always(object_with(Key("creator", user_id))),
        "m.room.member": _member,
        "m.room.join_rules": _join_rules,
        "m.room.power_levels": _always(_levels_of_users),
        "m.room.add_state_level": _always(_LEVEL),
        "m.room.send_event_level": _always(_LEVEL),
        "m.room.ops_levels": _always(
            object_with(
                optional("ban_level", integer), optional("kick_level", integer), optional("redact_level", integer)
            )
        ),
    }
)

# The family "power-levels-event".


def _create(rules: RoomRules) -> Check:
    return object_with(
        *((Key("creator", historical_user_id),) if rules.create_names_creator else ()),
        *(_CREATORS if rules.creators_above_all else ()),
        optional("room_version", string),
        optional("type", string),
        optional("m.federate", boolean),
        optional("predecessor", object_with(Key("room_id", string), optional("event_id", string))),
    )


_CREATORS = (optional("additional_creators", list_of(historical_user_id)),)


def _power_levels(rules: RoomRules) -> Check:
    def check(name: str, content: object) -> None:
        assert isinstance(content, Mapping)
        levels_said(rules, content)

    return check


def _redaction(rules: RoomRules) -> Check:
    target = (Key("redacts", string),) if rules.redacts_in_content else ()
    return object_with(optional("reason", string), *target)


_STRINGS = list_of(string)
_ADDRESS_INVITE = object_with(
    Key("display_name", string),
    Key("key_validity_url", string),
    Key("public_key", string),
    optional("public_keys", list_of(object_with(Key("public_key", string)))),
)


def _address_invite(name: str, value: object) -> None:
    """An invite to an address, or, if there is nothing in it, the taking back of one."""
    if value != {}:
        _ADDRESS_INVITE(name, value)


_STATE_OF_TODAY: Mapping[str, _Shape] = MappingProxyType(
    {
        **_STATE,
        "m.room.create": _create,
        "m.room.power_levels": _power_levels,
        "m.room.history_visibility": _always(object_with(Key("history_visibility", one_of(*HISTORY_VISIBILITIES)))),
        "m.room.guest_access": _always(object_with(Key("guest_access", one_of("can_join", "forbidden")))),
        "m.room.third_party_invite": _always(_address_invite),
        "m.room.avatar": _always(object_with(optional("url", string), optional("info", _IMAGE_INFO))),
        "m.room.canonical_alias": _always(
            object_with(optional("alias", string_or_null), optional("alt_aliases", _STRINGS))
        ),
        "m.room.encryption": _always(object_with(Key("algorithm", string))),
        "m.room.pinned_events": _always(object_with(Key("pinned", _STRINGS))),
        "m.room.server_acl": _always(
            object_with(optional("allow", _STRINGS), optional("deny", _STRINGS), optional("allow_ip_literals", boolean))
        ),
        "m.room.tombstone": _always(object_with(Key("body", string), Key("replacement_room", string))),
    }
)

# The messages of today have grown many kinds and keys; what all of them share is enough.
_EVENTS_OF_TODAY: Mapping[str, _Shape] = MappingProxyType(
    {
        "m.room.message": _always(object_with(Key("msgtype", string), Key("body", string))),
        "m.room.redaction": _redaction,
        **_CALLS_OF_TODAY,
    }
)

_RULING_STATE_OF_TODAY: Mapping[str, _Shape] = MappingProxyType(
    {
        # "Authorization rules" 1.4 of room version 1, and 1.4 of room version 12.
        "m.room.create": lambda rules: object_with(
            *((Key("creator", anything),) if rules.create_names_creator else ()),
            *(_CREATORS if rules.creators_above_all else ()),
        ),
        # "Authorization rules" 5.1, 5.2 and 5.8 of room version 12.
        "m.room.member": lambda rules: object_with(
            _membership(rules), *((optional(VOUCHER, historical_user_id),) if rules.restricted_joins else ())
        ),
        # "Authorization rules" 10.1 of room version 1, and 10.1 to 10.3 of room version 12.
        "m.room.power_levels": _power_levels,
    }
)


class _Family(NamedTuple):
    """What the contents in a family of room versions look like.

    :ivar ruling: what the rules of the room read.
    """

    state: Mapping[str, _Shape]
    others: Mapping[str, _Shape]
    ruling: Mapping[str, _Shape]
    state_keys: Mapping[str, Check]


_FAMILIES = MappingProxyType(
    {
        "one-event-per-level": _Family(
            MappingProxyType({**_STATE, **_RULING_STATE_OF_2014}),
            _EVENTS_OF_2014,
            _RULING_STATE_OF_2014,
            MappingProxyType({"m.room.member": user_id, "m.room.aliases": server_name}),
        ),
        "power-levels-event": _Family(
            _STATE_OF_TODAY,
            _EVENTS_OF_TODAY,
            _RULING_STATE_OF_TODAY,
            MappingProxyType({"m.room.member": historical_user_id, "m.room.aliases": server_name}),
        ),
    }
)
