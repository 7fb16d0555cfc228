"""What has to do with the addresses of people, put together: address books, linked addresses, invites to them."""

from __future__ import annotations

from msgspec import Struct
from twisted.python.threadpool import ThreadPool

from synapse_like.app.foundation import Foundation
from synapse_like.app.rooms import RoomParts
from synapse_like.app.speaking import Speaking
from synapse_like.background import Repeating, every
from synapse_like.federation.identity_client import IdentityClient
from synapse_like.handlers.contacts import FORGET_SECONDS, Contacts
from synapse_like.handlers.third_party_ids import CLOSED_SECONDS, ThirdPartyIds
from synapse_like.handlers.third_party_invites import ThirdPartyInvites

#: Threads that read and write vCards.
VCARD_THREADS = 1


class Addresses(Struct, frozen=True):
    """Whose they are.

    :ivar threads: that read and write vCards.
    :ivar tasks: what is to be done every so often.
    """

    books: Contacts
    linked: ThirdPartyIds
    invites: ThirdPartyInvites
    threads: ThreadPool
    tasks: list[Repeating]


def make_addresses(on: Foundation, speaking: Speaking, rooms: RoomParts, identity_client: IdentityClient) -> Addresses:
    """Put it together."""
    config, database, clock, limit = on.config, on.database, on.clock, on.limits.check
    threads = ThreadPool(0, VCARD_THREADS, "vcards")
    looks_up = config.contacts.look_up and bool(config.identity_servers.trusted)
    books = Contacts(database, clock, on.reactor, threads, identity_client, limit, looks_up=looks_up)
    linked = ThirdPartyIds(database, identity_client, limit)
    invites = ThirdPartyInvites(
        database,
        clock,
        rooms.creation,
        rooms.membership,
        linked,
        identity_client,
        speaking.client,
        limit,
        accept_untrusted=config.identity_servers.accept_untrusted_invites,
    )
    tasks = [
        every(clock, "forget-addresses", FORGET_SECONDS, books.forget_old),
        every(clock, "unlink-closed", CLOSED_SECONDS, linked.unlink_closed),
        every(clock, "forget-address-invites", 3600, invites.forget_old),
    ]
    return Addresses(books, linked, invites, threads, tasks)
