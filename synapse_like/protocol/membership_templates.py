"""What an event must name that a server makes for a room it is not in (FED-7; `make_join` and its like).

Such a server knows nothing of the room. It asks one that is in it for a template: a PDU that lacks whatever only its
maker can give: ID, time, hash and signatures. Of a template nothing is believed but what it is asked for: the events
that the new one follows and rests on, and its depth.
"""

from msgspec.structs import replace

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.events import NOTHING, Event, EventDraft, Pdu
from synapse_like.protocol.hashes import ALGORITHM
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import from_pdu, to_pdu

_MAKERS_OWN = ("pdu_id", "event_id", "ts", "origin_server_ts", "hashes", "signatures", "unsigned")


def write_template(rules: RoomRules, event: Event) -> Pdu:
    """The template of an event; what its maker will give is left out."""
    pdu = to_pdu(rules, event)
    for name in _MAKERS_OWN:
        pdu.pop(name, None)
    return pdu


def read_template(rules: RoomRules, template: object, draft: EventDraft, origin: str) -> Event:
    """The event that a template would have us make, if it is for what we want to say.

    :param draft: what that is.
    :param origin: the name of this server.
    :raises BadJson: it is no template, or it is for something else.
    """
    if not isinstance(template, dict):
        raise BadJson("A template must be a JSON object.")
    kept = {name: value for name, value in template.items() if name not in _MAKERS_OWN}
    own: Pdu = {"hashes": {ALGORITHM: ""}, "signatures": {}}
    if rules.pdu_format == "id-pairs":
        own |= {"pdu_id": "template", "origin": origin, "ts": 0}
    else:
        own |= {"origin_server_ts": 0}
    if rules.pdu_format == "ids-with-hashes":
        own["event_id"] = f"$template:{origin}"
    event = from_pdu(rules, kept | own)
    asked_for = (draft.room_id, draft.type, draft.sender, draft.state_key, draft.content.get("membership"))
    offered = (event.room_id, event.type, event.sender, event.state_key, event.content.get("membership"))
    if asked_for != offered:
        raise BadJson("The template is for another event than the one that was asked for.")
    if not event.prev_events:
        raise BadJson("The template comes after nothing.")
    return replace(event, extra=NOTHING)


def hashes_told(event: Event) -> dict[str, str]:
    """The reference hashes that a template tells of the events it names, by their IDs."""
    named = zip((*event.prev_events, *event.auth_events), (*event.prev_hashes, *event.auth_hashes), strict=False)
    return {event_id: hashes.get(ALGORITHM, "") for event_id, hashes in named}
