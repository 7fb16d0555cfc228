"""Which rules hold in which room.

A room keeps for ever the version it was made with, and rooms of any version live side by side. A version is
a frozen table of rules; a new one is an older one with its differences (`replace`). Code asks
whether a rule holds (`rules.knock_allowed`), never which version it deals with.

`spec-2014` is what the specification of 2014 says, made safe where it is silent. "1" to "12" are the room versions
of the Matrix specification; beside each difference stands the section of that version's page that makes it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import EventIdForm, RoomIdForm


class ContentKeys(Struct, frozen=True):
    """Which keys of an event's content outlive a redaction.

    :ivar names: keys that stay with all they hold.
    :ivar user_ids: do keys that are user IDs stay as well?
    :ivar within: keys whose objects stay in part, and which part.
    :ivar everything: does all of it stay?
    """

    names: frozenset[str] = frozenset()
    user_ids: bool = False
    within: Mapping[str, "ContentKeys"] = field(default_factory=dict)
    everything: bool = False

    def strip(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What is left of a content, as a new dictionary."""
        kept = {key: value for key, value in content.items() if self._keeps(key)}
        for key, part in self.within.items():
            if isinstance(content.get(key), Mapping):
                kept[key] = part.strip(content[key])
        return kept

    def _keeps(self, key: str) -> bool:
        return self.everything or key in self.names or (self.user_ids and key.startswith("@"))


class LevelDefaults(NamedTuple):
    """The power levels that hold where a room's state names none.

    PERM-1, PERM-3 and PERM-4 for the five events of 2014; "m.room.power_levels" in today's specification.

    :ivar user: what everybody has (`users_default`).
    :ivar creator: what the creator has, as long as no event has given power to anybody.
    :ivar send_event: what it takes to send what is not state (`events_default`).
    :ivar add_state: what it takes to set state (`state_default`); in 2014, state that was not there before.
    :ivar invite: what it takes to invite; None where every member may.
    """

    user: int
    creator: int
    send_event: int
    add_state: int
    ban: int
    kick: int
    redact: int
    invite: int | None


class RoomRules(Struct, frozen=True, kw_only=True):
    """The rules of one room version.

    :ivar name: as it is stored with the room.

    How an event looks:

    :ivar pdu_format: "id-pairs" is that of 2014; "ids-with-hashes" names events by ID and reference hash and holds
        the event's own ID; "ids" names events by ID alone, and the event's own ID follows from its hash.
    :ivar event_id_form: who or what makes an event's ID.
    :ivar room_id_form: who or what makes a room's ID. Where it is the create event's hash, that event tells none.
    :ivar strict_canonical_json: are floats and integers beyond +-(2^53 - 1) refused?
    :ivar key_validity_enforced: must a signing key have been valid at the time that the event claims?

    What a redaction does:

    :ivar redaction_keeps: the keys of a PDU that outlive its redaction.
    :ivar redaction_content_keeps: by event type, the keys of the content that do; for other types none.
    :ivar redacts_in_content: does a redaction name its target in its content, not at the top of the PDU?
    :ivar redaction_by_own_server: may an event be redacted from the server it came from, whatever the level?
    :ivar redaction_checked: when is it asked who may redact what? Where it is "when-applied", every redaction may
        enter the room, but not every one acts.

    Who has how much power:

    :ivar power_level_family: which state events hold the power levels.
    :ivar level_defaults: what holds where they are silent.
    :ivar required_power_levels: does a state event say what it takes to replace it, what power its sender had and
        what it replaced?
    :ivar strict_integer_levels: are levels that are written as strings refused?
    :ivar notification_levels_checked: do the levels under `notifications` need power to be changed?
    :ivar creators_above_all: do creators stand above every level, and may the create event name several of them?

    Who may do what:

    :ivar create_may_omit_version: may the create event leave unsaid by which version the room lives?
    :ivar create_names_creator: is the creator the one whom the create event's content names, not its sender?
    :ivar creator_must_be_sender: must the one so named be its sender as well?
    :ivar create_in_auth_events: is the create event among the auth events of all others?
    :ivar unfederated_rooms: can a room be closed to other servers when it is created (`m.federate`)?
    :ivar knock_allowed: may people ask to be let in, where the join rule says so?
    :ivar restricted_joins: is there the join rule `restricted`?
    :ivar knock_restricted_joins: is there the join rule `knock_restricted`?
    :ivar third_party_invites: can people be invited by an address that no user ID is known for?
    :ivar own_user_state_keys: does a state key that starts with `@` belong to that user alone?
    :ivar aliases_by_server: who may announce the aliases of their own server, whatever their level: its members in
        the room, all its users, or nobody?

    :ivar history_visibility: can a room say who may see what was said in it (`m.room.history_visibility`)?
    :ivar state_resolution: how the states of several forks become one.
    """

    name: str
    pdu_format: Literal["id-pairs", "ids-with-hashes", "ids"]
    event_id_form: EventIdForm
    room_id_form: RoomIdForm
    strict_canonical_json: bool
    key_validity_enforced: bool
    redaction_keeps: frozenset[str]
    redaction_content_keeps: Mapping[str, ContentKeys]
    redacts_in_content: bool
    redaction_by_own_server: bool
    redaction_checked: Literal["when-authorised", "when-applied"]
    power_level_family: Literal["one-event-per-level", "power-levels-event"]
    level_defaults: LevelDefaults
    required_power_levels: bool
    strict_integer_levels: bool
    notification_levels_checked: bool
    creators_above_all: bool
    create_may_omit_version: bool
    create_names_creator: bool
    creator_must_be_sender: bool
    create_in_auth_events: bool
    unfederated_rooms: bool
    knock_allowed: bool
    restricted_joins: bool
    knock_restricted_joins: bool
    third_party_invites: bool
    own_user_state_keys: bool
    aliases_by_server: Literal["members", "users"] | None
    history_visibility: bool
    state_resolution: Literal["v1", "v2", "v2.1"]

    @property
    def type_key(self) -> str:
        """The key of a PDU that holds the type of the event."""
        return "pdu_type" if self.pdu_format == "id-pairs" else "type"

    @property
    def room_id_names_server(self) -> bool:
        """Does the ID of a room name the server that it was made on?"""
        return self.room_id_form == "chosen-by-creator"


def _keys(*names: str) -> ContentKeys:
    return ContentKeys(frozenset(names))


def _redactions(
    earlier: Mapping[str, ContentKeys], changes: Mapping[str, ContentKeys | None]
) -> Mapping[str, ContentKeys]:
    """A table of what redactions keep, made from an earlier one; None takes a type out of it."""
    table = {**earlier, **changes}
    return MappingProxyType({event_type: keys for event_type, keys in table.items() if keys is not None})


SPEC_2014 = RoomRules(
    name="spec-2014",
    pdu_format="id-pairs",
    event_id_form="chosen-by-origin",
    room_id_form="chosen-by-creator",
    strict_canonical_json=True,
    key_validity_enforced=True,
    redaction_keeps=frozenset(
        {
            # What the specification lists (section "Redactions") …
            *("pdu_id", "origin", "pdu_type", "context", "user_id", "content"),
            *("is_state", "state_key", "prev_state_id", "prev_state_origin"),
            # … and what the graph, authorisation and signatures need.
            *("ts", "depth", "prev_pdus", "auth_pdus", "redacts"),
            *("power_level", "required_power_level", "hashes", "signatures"),
        }
    ),
    redaction_content_keeps=_redactions(
        {},
        {
            "m.room.member": _keys("membership"),
            "m.room.create": _keys("creator"),
            "m.room.join_rules": _keys("join_rule"),
            "m.room.power_levels": ContentKeys(frozenset({"default"}), user_ids=True),
            "m.room.add_state_level": _keys("level"),
            "m.room.send_event_level": _keys("level"),
            "m.room.ops_levels": _keys("ban_level", "kick_level", "redact_level"),
            "m.room.aliases": _keys("aliases"),
        },
    ),
    redacts_in_content=False,
    redaction_by_own_server=True,
    redaction_checked="when-authorised",
    power_level_family="one-event-per-level",
    level_defaults=LevelDefaults(
        user=0, creator=100, send_event=50, add_state=50, ban=50, kick=50, redact=50, invite=None
    ),
    required_power_levels=True,
    strict_integer_levels=True,
    notification_levels_checked=False,
    creators_above_all=False,
    create_may_omit_version=True,
    create_names_creator=True,
    creator_must_be_sender=True,
    create_in_auth_events=True,
    unfederated_rooms=False,
    knock_allowed=True,
    restricted_joins=False,
    knock_restricted_joins=False,
    third_party_invites=False,
    own_user_state_keys=True,
    aliases_by_server="members",
    history_visibility=False,
    state_resolution="v2",
)

_LEVELS = ("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default")

# Room version 1: sections "Redactions", "Event IDs", "Event format", "Authorization rules", "State resolution" and
# "Canonical JSON".
V1 = RoomRules(
    name="1",
    pdu_format="ids-with-hashes",
    event_id_form="chosen-by-origin",
    room_id_form="chosen-by-creator",
    strict_canonical_json=False,
    key_validity_enforced=False,
    redaction_keeps=frozenset(
        {
            *("event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth"),
            *("prev_events", "prev_state", "auth_events", "origin", "origin_server_ts", "membership"),
        }
    ),
    redaction_content_keeps=_redactions(
        {},
        {
            "m.room.member": _keys("membership"),
            "m.room.create": _keys("creator"),
            "m.room.join_rules": _keys("join_rule"),
            "m.room.power_levels": _keys(*_LEVELS),
            "m.room.aliases": _keys("aliases"),
            "m.room.history_visibility": _keys("history_visibility"),
        },
    ),
    redacts_in_content=False,
    redaction_by_own_server=True,
    redaction_checked="when-authorised",
    power_level_family="power-levels-event",
    level_defaults=LevelDefaults(user=0, creator=100, send_event=0, add_state=50, ban=50, kick=50, redact=50, invite=0),
    required_power_levels=False,
    strict_integer_levels=False,
    notification_levels_checked=False,
    creators_above_all=False,
    create_may_omit_version=True,
    create_names_creator=True,
    creator_must_be_sender=False,
    create_in_auth_events=True,
    unfederated_rooms=True,
    knock_allowed=False,
    restricted_joins=False,
    knock_restricted_joins=False,
    third_party_invites=True,
    own_user_state_keys=True,
    aliases_by_server="users",
    history_visibility=True,
    state_resolution="v1",
)

V2 = replace(
    V1,
    name="2",
    create_may_omit_version=False,  # client-server API, "m.room.create": a room that tells no version has version 1
    state_resolution="v2",  # "State resolution"
)

V3 = replace(
    V2,
    name="3",
    pdu_format="ids",  # "Event format"
    event_id_form="hash",  # "Event IDs"
    redaction_checked="when-applied",  # "Handling redactions" and "Authorization rules"
)

V4 = replace(
    V3,
    name="4",
    event_id_form="url-safe-hash",  # "Event IDs"
)

V5 = replace(
    V4,
    name="5",
    key_validity_enforced=True,  # "Signing key validity period"
)

V6 = replace(
    V5,
    name="6",
    strict_canonical_json=True,  # "Canonical JSON"
    redaction_content_keeps=_redactions(V5.redaction_content_keeps, {"m.room.aliases": None}),  # "Redactions"
    aliases_by_server=None,  # "Authorization rules"
    notification_levels_checked=True,  # "Authorization rules", 9.4 and 9.5
)

V7 = replace(
    V6,
    name="7",
    knock_allowed=True,  # "Authorization rules", for `knock`
)

V8 = replace(
    V7,
    name="8",
    restricted_joins=True,  # "Authorization rules", 4.2 and 4.3.5
    redaction_content_keeps=_redactions(  # "Redactions"
        V7.redaction_content_keeps, {"m.room.join_rules": _keys("join_rule", "allow")}
    ),
)

V9 = replace(
    V8,
    name="9",
    redaction_content_keeps=_redactions(  # "Redactions"
        V8.redaction_content_keeps, {"m.room.member": _keys("membership", "join_authorised_via_users_server")}
    ),
)

V10 = replace(
    V9,
    name="10",
    strict_integer_levels=True,  # "Values in m.room.power_levels events must be integers"
    knock_restricted_joins=True,  # "Authorization rules", for `knock_restricted`
)

V11 = replace(
    V10,
    name="11",
    create_names_creator=False,  # "Event format" and "Authorization rules"
    redacts_in_content=True,  # "Event format"
    redaction_keeps=V10.redaction_keeps - {"origin", "membership", "prev_state"},  # "Redactions", as all below
    redaction_content_keeps=_redactions(
        V10.redaction_content_keeps,
        {
            "m.room.create": ContentKeys(everything=True),
            "m.room.member": ContentKeys(
                frozenset({"membership", "join_authorised_via_users_server"}),
                within=MappingProxyType({"third_party_invite": _keys("signed")}),
            ),
            "m.room.power_levels": _keys(*_LEVELS, "invite"),
            "m.room.redaction": _keys("redacts"),
        },
    ),
)

V12 = replace(
    V11,
    name="12",
    room_id_form="create-event-hash",  # "Event format" and "Authorization rules", 1.2 and 2
    creators_above_all=True,  # "Authorization rules", 1.4 and 10.4
    create_in_auth_events=False,  # "Authorization rules", 3.2
    state_resolution="v2.1",  # "State resolution"
)

DEFAULT_VERSION = SPEC_2014.name
"""The version of a new room whose maker asked for none."""

ALL_RULES = (SPEC_2014, V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
"""Every version that this server knows, oldest first."""

_VERSIONS = MappingProxyType({rules.name: rules for rules in ALL_RULES})


def rules_for(name: str) -> RoomRules:
    """The rules of the version with this name.

    :raises BadJson: we do not know it.
    """
    rules = _VERSIONS.get(name)
    if rules is None:
        raise BadJson(f"This server does not know the room version {name[:64]!r}.")
    return rules
