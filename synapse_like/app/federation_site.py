"""What other servers find here, put together."""

from __future__ import annotations

from synapse_like.app.addresses import Addresses
from synapse_like.app.content import ContentParts
from synapse_like.app.foundation import Foundation
from synapse_like.app.presence import LASTING_EDUS
from synapse_like.app.rooms import RoomParts
from synapse_like.app.speaking import Speaking
from synapse_like.app.streams import Streams
from synapse_like.handlers.disclosure import Disclosure
from synapse_like.handlers.incoming_transactions import (
    ANSWER_SECONDS,
    ANSWER_SECONDS_WITH_POLICY,
    IncomingTransactions,
)
from synapse_like.handlers.membership_requests import MembershipRequests
from synapse_like.handlers.server_keys import ServerKeys
from synapse_like.handlers.typing import EDU_TYPE as TYPING
from synapse_like.http.federation.content import FederatedContentEndpoints, mount_federated_content
from synapse_like.http.federation.keys import KeyEndpoints, mount_keys
from synapse_like.http.federation.rooms import FederatedRoomEndpoints
from synapse_like.http.federation.third_party_invites import ThirdPartyInviteEndpoints, mount_third_party_invites
from synapse_like.http.federation.v1 import mount_federation
from synapse_like.http.routing import Mount


def make_transactions(on: Foundation, speaking: Speaking, rooms: RoomParts, streams: Streams) -> IncomingTransactions:
    """What takes what they tell."""
    return IncomingTransactions(
        on.database,
        on.clock,
        speaking.client,
        rooms.checks,
        rooms.persistence,
        rooms.missing,
        rooms.locks,
        rooms.joins,
        edus={TYPING: streams.typing.receive} | (streams.people.edus if streams.people else {}),
        lasting_edus=LASTING_EDUS,
        limit=on.limits.check_all,
        answer_seconds=ANSWER_SECONDS if rooms.policy is None else ANSWER_SECONDS_WITH_POLICY,
    )


def federation_mounts(
    on: Foundation,
    speaking: Speaking,
    rooms: RoomParts,
    addresses: Addresses,
    content: ContentParts,
    transactions: IncomingTransactions,
) -> list[Mount[str]]:
    """All that is there for them."""
    return [
        mount_keys(KeyEndpoints(ServerKeys(on.own_keys, speaking.keyring, on.clock))),
        mount_federated_content(FederatedContentEndpoints(content.repository, on.name)),
        mount_third_party_invites(ThirdPartyInviteEndpoints(addresses.invites)),
        *mount_federation(
            FederatedRoomEndpoints(
                on.name,
                on.clock,
                transactions,
                MembershipRequests(on.database, rooms.checks, rooms.creation, rooms.policy),
                Disclosure(on.database, rooms.directory, rooms.profiles, on.name),
            )
        ),
    ]
