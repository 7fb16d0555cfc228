"""What the content of a known kind of event must look like (EVT-1 to EVT-4).

The shapes are data, put together from the words in `shapes`. Types that we do not know pass untouched, and so do
keys that we do not know: events are meant to be extended.
"""

from collections.abc import Mapping
from types import MappingProxyType

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import canonical_alias
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.shapes import (
    Check,
    Key,
    integer,
    list_of,
    map_of,
    object_with,
    one_of,
    optional,
    server_name,
    string,
    string_or_null,
    string_or_object,
    text_for,
    user_id,
)

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
    """See that the content of an event is what its type demands.

    That it has a canonical JSON is not seen to here.

    :param rules: of the event's room.
    :param content: what came where the content should be.
    :param state_key: None for an event that is not state.
    :raises BadJson: naming the key and what it should hold.
    """
    _ANY_CONTENT("content", content)
    as_state = _STATE[rules.power_level_family].get(event_type)
    if as_state is not None:
        if state_key is None:
            raise BadJson(f"{event_type} is a state event and needs a state key.")
        _STATE_KEYS.get(event_type, string)("state_key", state_key)
        as_state("content", content)
    elif event_type == "m.room.redaction" and state_key is not None:
        raise BadJson("m.room.redaction is not a state event and has no state key.")
    elif event_type in _NOT_STATE:
        _NOT_STATE[event_type]("content", content)


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

_CALL = (Key("call_id", string), Key("version", integer))
_SESSION = object_with(Key("type", string), Key("sdp", string))
_CANDIDATE = object_with(Key("sdpMid", string), Key("sdpMLineIndex", integer), Key("candidate", string))

_NOT_STATE: Mapping[str, Check] = MappingProxyType(
    {
        "m.room.message": _message,
        "m.room.message.feedback": object_with(
            Key("type", one_of("delivered", "read")), Key("target_event_id", string)
        ),
        "m.room.redaction": object_with(optional("reason", string)),
        "m.call.invite": object_with(*_CALL, Key("offer", _SESSION), Key("lifetime", integer)),
        "m.call.candidates": object_with(*_CALL, Key("candidates", list_of(_CANDIDATE))),
        "m.call.answer": object_with(*_CALL, Key("answer", _SESSION)),
        "m.call.hangup": object_with(*_CALL),
    }
)

# State (EVT-2).

_LEVELS = map_of(integer)


def _levels_of_users(name: str, content: object) -> None:
    _LEVELS(name, content)
    assert isinstance(content, Mapping)
    for key in content.keys() - {"default"}:
        user_id(f"{name}.{key}", key)


_LEVEL = object_with(Key("level", integer))

_STATE_IN_ALL_FAMILIES: Mapping[str, Check] = MappingProxyType(
    {
        "m.room.create": object_with(Key("creator", user_id)),
        "m.room.member": object_with(
            Key("membership", one_of("invite", "join", "leave", "ban", "knock")),
            optional("displayname", string_or_null),
            optional("avatar_url", string_or_null),
            optional("reason", string_or_null),
        ),
        "m.room.join_rules": object_with(Key("join_rule", one_of("public", "knock", "invite", "private"))),
        "m.room.aliases": object_with(Key("aliases", list_of(text_for(canonical_alias)))),
        "m.room.name": object_with(Key("name", string)),
        "m.room.topic": object_with(Key("topic", string)),
    }
)

_STATE: Mapping[str, Mapping[str, Check]] = MappingProxyType(
    {
        "one-event-per-level": MappingProxyType(
            {
                **_STATE_IN_ALL_FAMILIES,
                "m.room.power_levels": _levels_of_users,
                "m.room.add_state_level": _LEVEL,
                "m.room.send_event_level": _LEVEL,
                "m.room.ops_levels": object_with(
                    optional("ban_level", integer),
                    optional("kick_level", integer),
                    optional("redact_level", integer),
                ),
            }
        )
    }
)

_STATE_KEYS: Mapping[str, Check] = MappingProxyType({"m.room.member": user_id, "m.room.aliases": server_name})
