"""What happens in rooms, put together."""

from __future__ import annotations

from msgspec import Struct

from synapse_like.app.foundation import Foundation
from synapse_like.app.speaking import Speaking
from synapse_like.background import Repeating, every
from synapse_like.handlers.departures import LOOK_SECONDS as DEPARTURE_SECONDS
from synapse_like.handlers.departures import Departures
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.event_checks import EventChecks
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.joins import Joins
from synapse_like.handlers.membership import Membership
from synapse_like.handlers.messages import Messages
from synapse_like.handlers.missing_events import MissingEvents
from synapse_like.handlers.policy import Policy
from synapse_like.handlers.profile import Profiles
from synapse_like.handlers.profile_changes import PAUSE_SECONDS, ProfileChanges
from synapse_like.handlers.remote_membership import RemoteMembership
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.rooms import Rooms
from synapse_like.storage import presence_lists


class RoomParts(Struct, frozen=True):
    """How events come into rooms, and who is in them.

    :ivar locks: one thing at a time in each room, of those that others tell.
    :ivar joins: into which rooms elsewhere somebody is just coming.
    :ivar tasks: what is to be done every so often.
    """

    policy: Policy | None
    checks: EventChecks
    locks: RoomLocks
    joins: Joins
    persistence: EventPersistence
    creation: EventCreation
    missing: MissingEvents
    directory: Directory
    membership: Membership
    messages: Messages
    rooms: Rooms
    profiles: Profiles
    retransmissions: Retransmissions
    tasks: list[Repeating]


def make_rooms(on: Foundation, speaking: Speaking, policy: Policy | None) -> RoomParts:
    """Put it together.

    :param policy: who is asked whether something may be done.
    """
    database, clock, name, client = on.database, on.clock, on.name, speaking.client
    checks = EventChecks(speaking.keyring, speaking.slices, policy)
    locks, joins = RoomLocks(), Joins(database, on.bus, clock)
    persistence = EventPersistence(name)
    creation = EventCreation(name, on.own_keys.signing, clock, persistence)
    directory = Directory(database, creation, client, name)
    remote_membership = RemoteMembership(database, client, checks, creation, locks, joins)
    membership = Membership(database, creation, directory, remote_membership, policy)
    profile_changes = ProfileChanges(database, on.bus, creation)
    version = on.config.rooms.default_version
    retransmissions = Retransmissions(database, clock)
    return RoomParts(
        policy,
        checks,
        locks,
        joins,
        persistence,
        creation,
        MissingEvents(database, client, checks, persistence),
        directory,
        membership,
        Messages(database, creation, membership, policy),
        Rooms(database, creation, directory, membership, name, usual_version=version, policy=policy),
        Profiles(database, client, profile_changes, name, may_observe=presence_lists.may_observe),
        retransmissions,
        [
            every(clock, "tell-rooms", PAUSE_SECONDS, profile_changes.go_on),
            every(clock, "departures", DEPARTURE_SECONDS, Departures(database, membership).go_on),
            every(clock, "forget-retransmissions", 3600, retransmissions.forget_old),
        ],
    )
