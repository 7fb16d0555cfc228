"""How an event looks to a client of API v1 (EVS-8, EVS-10).

All of it but the age is the same for everybody who reads the event, so it is encoded once and kept with the event.
"""

from __future__ import annotations

from typing import Any

import orjson

from synapse_like.handlers.event_persistence import StoredEvent
from synapse_like.protocol.canonical_json import encode_in_any_order
from synapse_like.protocol.events import Event

DIALECT = "v1"
MEMBER = "m.room.member"


def event_v1(stored: StoredEvent, now_ms: int) -> orjson.Fragment:
    """An event as JSON.

    :param now_ms: the present, for its age.
    """
    if stored.renderings is None:
        stored.renderings = {}
    lasting = stored.renderings.get(DIALECT)
    if lasting is None:
        lasting = stored.renderings[DIALECT] = encode_in_any_order(
            _lasting(stored.event, stored.replaced, stored.redacted_because)
        )
    age = max(0, now_ms - stored.event.origin_server_ts)
    return orjson.Fragment(b'{"age":%d,%s' % (age, lasting[1:]))


def _lasting(event: Event, replaced: Event | None = None, redacted_because: Event | None = None) -> dict[str, Any]:
    """Everything but the age."""
    shape: dict[str, Any] = {
        "event_id": event.event_id,
        "type": event.type,
        "room_id": event.room_id,
        "user_id": event.sender,
        "content": event.content,
        "origin_server_ts": event.origin_server_ts,
        # The older spelling of the same.
        "ts": event.origin_server_ts,
    }
    if event.state_key is not None:
        _add_state(shape, event)
        if replaced is not None:
            shape["prev_state"] = replaced.event_id
            # A redacted event shows no more of what was than of what is (RED-2).
            if redacted_because is None:
                _add_what_was(shape, replaced)
    if event.redacts is not None:
        shape["redacts"] = event.redacts
    if redacted_because is not None:
        shape["redacted_because"] = _lasting(redacted_because)
    return shape


def _add_state(shape: dict[str, Any], event: Event) -> None:
    shape["state_key"] = event.state_key
    if event.required_power_level is not None:
        shape["required_power_level"] = event.required_power_level
    if event.type == MEMBER:
        shape["membership"] = event.content["membership"]


def _add_what_was(shape: dict[str, Any], replaced: Event) -> None:
    shape["prev_content"] = replaced.content
    if replaced.type == MEMBER:
        shape["content"] = {**shape["content"], "prev": replaced.content["membership"]}
