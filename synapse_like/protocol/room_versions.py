"""Which rules hold in which room.

A room keeps for ever the version it was made with, and rooms of any version live side by side. A version is
a frozen table of rules; a new one is an older one with its differences (`dataclasses.replace`). Code asks
whether a rule holds (`rules.knock_allowed`), never which version it deals with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from synapse_like.protocol.errors import BadJson


class ContentKeys(NamedTuple):
    """Which keys of an event's content outlive a redaction.

    :ivar user_ids: do keys that are user IDs stay as well?
    """

    names: frozenset[str] = frozenset()
    user_ids: bool = False

    def keeps(self, key: str) -> bool:
        """Does this key stay?"""
        return key in self.names or (self.user_ids and key.startswith("@"))


class LevelDefaults(NamedTuple):
    """The power levels that hold where a room's state names none (PERM-1, PERM-3, PERM-4).

    :ivar creator: the creator's, as long as no event has given power to anybody.
    """

    user: int
    creator: int
    send_event: int
    add_state: int
    ban: int
    kick: int
    redact: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRules:
    """The rules of one room version.

    :ivar name: as it is stored with the room.
    :ivar pdu_format: how events look on the wire.
    :ivar room_id_names_server: does the ID of a room name the server that it was made on?
    :ivar strict_canonical_json: are floats and integers beyond +-(2^53 - 1) refused?
    :ivar power_level_family: which state events hold the power levels.
    :ivar level_defaults: what holds where they are silent.
    :ivar redaction_keeps: the keys of a PDU that outlive its redaction.
    :ivar redaction_content_keeps: by event type, the keys of the content that do; for other types none.
    :ivar redaction_by_own_server: may an event be redacted from the server it came from, whatever the level?
    :ivar knock_allowed: may people ask to be let in, where the join rule says so?
    :ivar own_user_state_keys: does a state key that starts with `@` belong to that user alone?
    :ivar aliases_by_server: may any member announce the aliases of their own server, whatever their level?
    """

    name: str
    pdu_format: Literal["id-pairs"]
    room_id_names_server: bool
    strict_canonical_json: bool
    power_level_family: Literal["one-event-per-level"]
    level_defaults: LevelDefaults
    redaction_keeps: frozenset[str]
    redaction_content_keeps: Mapping[str, ContentKeys]
    redaction_by_own_server: bool
    knock_allowed: bool
    own_user_state_keys: bool
    aliases_by_server: bool


SPEC_2014 = RoomRules(
    name="spec-2014",
    pdu_format="id-pairs",
    room_id_names_server=True,
    strict_canonical_json=True,
    power_level_family="one-event-per-level",
    level_defaults=LevelDefaults(user=0, creator=100, send_event=50, add_state=50, ban=50, kick=50, redact=50),
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
    redaction_content_keeps=MappingProxyType(
        {
            "m.room.member": ContentKeys(frozenset({"membership"})),
            "m.room.create": ContentKeys(frozenset({"creator"})),
            "m.room.join_rules": ContentKeys(frozenset({"join_rule"})),
            "m.room.power_levels": ContentKeys(frozenset({"default"}), user_ids=True),
            "m.room.add_state_level": ContentKeys(frozenset({"level"})),
            "m.room.send_event_level": ContentKeys(frozenset({"level"})),
            "m.room.ops_levels": ContentKeys(frozenset({"ban_level", "kick_level", "redact_level"})),
            "m.room.aliases": ContentKeys(frozenset({"aliases"})),
        }
    ),
    redaction_by_own_server=True,
    knock_allowed=True,
    own_user_state_keys=True,
    aliases_by_server=True,
)

DEFAULT_VERSION = SPEC_2014.name
"""The version of a new room whose maker asked for none."""

_VERSIONS = MappingProxyType({rules.name: rules for rules in (SPEC_2014,)})


def rules_for(name: str) -> RoomRules:
    """The rules of the version with this name.

    :raises BadJson: we do not know it.
    """
    rules = _VERSIONS.get(name)
    if rules is None:
        raise BadJson(f"This server does not know the room version {name[:64]!r}.")
    return rules
