"""Address books (BOOK-1): each user's own, seen by nobody else.

What comes in is put together with what is there (`protocol/contacts.py`), in one transaction. Which Matrix users the
contacts are known to be is asked of the identity server in the background, hashed where it can, and remembered for half
a day for all users together. Each address that is asked about counts against the limit of look-ups of who has it in
their book: nobody shall find out by a huge address book who everybody is. What the limit leaves over is asked later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cachetools import TTLCache
from msgspec import Struct
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from synapse_like.background import run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.identity_client import IdentityClient
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.third_party_ids import LOOKUP
from synapse_like.handlers.vcards import read_vcards, write_vcards
from synapse_like.logs import get_logger
from synapse_like.protocol.contacts import Contact, absorb, match_keys, stored_contact
from synapse_like.protocol.errors import LimitExceeded, MatrixError, NotFound, TooLarge
from synapse_like.protocol.third_party_ids import ThirdPartyId
from synapse_like.storage import contacts
from synapse_like.storage.contacts import StoredContact
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.transactions import Transaction

Result = TypeVar("Result")

#: Contacts of one user, and bytes that they take in the tables.
MOST_CONTACTS, MOST_BYTES = 5000, 4 * 1024 * 1024
#: For how long it is remembered whose an address is, and how often what is older is deleted, in seconds.
REMEMBERED_SECONDS, FORGET_SECONDS = 12 * 3600, 3600
#: Addresses that are asked about in one request.
LOOKED_UP_AT_ONCE = 500
#: For how many seconds a book that has not changed is not looked through again, and of how many users that is known.
PAUSE_SECONDS, MOST_USERS = 60, 10_000

_log = get_logger(__name__)


class Mark(Struct, frozen=True):
    """That a contact is known to have a Matrix user ID.

    :ivar address: by which the identity server knows it; None if the contact itself says so.
    """

    user_id: str
    address: str | None = None


class ShownContact(Struct, frozen=True):
    """A contact as its user sees it."""

    contact_id: str
    contact: Contact
    marks: Sequence[Mark]


class Contacts:
    """Keeps them.

    :param threads: where vCards are read and written; one is enough.
    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    :param looks_up: whether identity servers are asked at all.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        reactor: Any,
        threads: ThreadPool,
        client: IdentityClient,
        limit: Callable[[str, str], None],
        *,
        looks_up: bool,
    ) -> None:
        self._database = database
        self._clock = clock
        self._reactor = reactor
        self._threads = threads
        self._client = client
        self._limit = limit
        self._looks_up = looks_up
        self._looking: set[str] = set()
        self._looked: TTLCache[str, None] = TTLCache(MOST_USERS, PAUSE_SECONDS, timer=clock.monotonic)

    # Reading.

    async def all(self, requester: Requester) -> list[ShownContact]:
        """All contacts of the requester, with what is known of them now; what is not is asked for."""
        shown = await self._database.read("contacts", self._all, requester.user_id)
        if requester.user_id not in self._looked:
            self._look_up_soon(requester.user_id)
        return shown

    async def one(self, requester: Requester, contact_id: str) -> ShownContact:
        """One of them.

        :raises NotFound: there is no such contact.
        """
        return await self._database.read("contact", self._one, requester.user_id, contact_id)

    def _all(self, txn: Transaction, user_id: str) -> list[ShownContact]:
        return _with_marks(txn, contacts.all_of(txn, user_id))

    def _one(self, txn: Transaction, user_id: str, contact_id: str) -> ShownContact:
        found = contacts.find(txn, user_id, [contact_id])
        if not found:
            raise _no_contact()
        return _with_marks(txn, found)[0]

    # Changing.

    async def add(self, requester: Requester, new: Sequence[Contact], request: Once, *, merge: bool) -> Outcome:
        """Add contacts to the requester's; what became of them.

        :param merge: put those of the same person together; if not, only the very same is dropped.
        :raises TooLarge: there would be too many, or too much.
        """
        ids = [secrets.token_urlsafe(9) for _ in new]
        outcome = await self._database.write("add-contacts", once, request, _add, requester.user_id, new, ids, merge)
        self._look_up_soon(requester.user_id)
        return outcome

    async def replace(self, requester: Requester, contact_id: str, contact: Contact, request: Once) -> None:
        """Have a contact say something else; it is not put together with others.

        :raises NotFound: there is no such contact.
        """
        await self._database.write("change-contact", once, request, _replace, requester.user_id, contact_id, contact)
        self._look_up_soon(requester.user_id)

    async def delete(self, requester: Requester, contact_id: str) -> None:
        """Take a contact out.

        :raises NotFound: there is no such contact.
        """
        if not await self._database.write("delete-contact", contacts.delete, requester.user_id, [contact_id]):
            raise _no_contact()

    async def delete_all(self, requester: Requester) -> int:
        """Take all of them out; how many there were."""
        return await self._database.write("delete-contacts", contacts.delete_all, requester.user_id)

    # vCards.

    async def read_vcards(self, data: bytes) -> tuple[list[Contact], int]:
        """What some vCards say, and how many cannot be read; raises what `vcards.read_vcards` does."""
        return await self._on_thread(read_vcards, data)

    async def write_vcards(self, shown: Sequence[ShownContact], version: str) -> bytes:
        """Contacts as vCards, with all the user IDs that they are known to have."""
        cards = [(one.contact_id, one.contact, [mark.user_id for mark in one.marks]) for one in shown]
        return await self._on_thread(write_vcards, cards, version)

    async def _on_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        result: Result = await deferToThreadPool(self._reactor, self._threads, function, *args)
        return result

    # Who they are.

    def _look_up_soon(self, user_id: str) -> None:
        """Ask whose the addresses of a user's contacts are, where that is not known."""
        if self._looks_up and user_id not in self._looking:
            self._looking.add(user_id)
            self._looked[user_id] = None
            run_in_background("look-up-contacts", self._look_up, user_id)

    async def _look_up(self, user_id: str) -> None:
        try:
            unknown = await self._database.read("unknown-contacts", self._unknown, user_id)
            allowed = self._within_limit(user_id, unknown)
            for start in range(0, len(allowed), LOOKED_UP_AT_ONCE):
                part = dict(allowed[start : start + LOOKED_UP_AT_ONCE])
                found = await self._client.lookup_many(self._client.usual, list(part.values()))
                said = {key: found.get(threepid) for key, threepid in part.items()}
                await self._database.write("whose-addresses", contacts.set_owners, said, self._clock.now_ms())
        except MatrixError as error:
            _log.info("contacts cannot be looked up now", reason=error.reason or error.message)
        finally:
            self._looking.discard(user_id)

    def _unknown(self, txn: Transaction, user_id: str) -> list[tuple[str, ThirdPartyId]]:
        """The addresses in a book of which nobody has said lately whose they are."""
        wanted: dict[str, ThirdPartyId] = {}
        for stored in contacts.all_of(txn, user_id):
            wanted |= stored_contact(stored.body).threepids
        oldest = self._clock.now_ms() - REMEMBERED_SECONDS * 1000
        fresh = {key for key, (_, asked_at) in contacts.owners(txn, wanted).items() if asked_at > oldest}
        return [(key, threepid) for key, threepid in wanted.items() if key not in fresh]

    def _within_limit(self, user_id: str, unknown: list[tuple[str, ThirdPartyId]]) -> list[tuple[str, ThirdPartyId]]:
        for number in range(len(unknown)):
            try:
                self._limit(LOOKUP, user_id)
            except LimitExceeded:
                _log.info("some contacts are looked up later", user_id=user_id, number=len(unknown) - number)
                return unknown[:number]
        return unknown

    async def forget_old(self) -> None:
        """Forget what was said of addresses too long ago."""
        oldest = self._clock.now_ms() - 2 * REMEMBERED_SECONDS * 1000
        await self._database.write("forget-addresses", contacts.forget_owners, oldest)


def _with_marks(txn: Transaction, found: Sequence[StoredContact]) -> list[ShownContact]:
    read = [(stored.contact_id, stored_contact(stored.body)) for stored in found]
    owners = contacts.owners(txn, {key for _, contact in read for key in contact.threepids})
    shown = []
    for contact_id, contact in read:
        marks = {user_id: Mark(user_id) for user_id in contact.user_ids}
        for key, threepid in contact.threepids.items():
            owner, _ = owners.get(key, (None, 0))
            if owner is not None:
                marks.setdefault(owner, Mark(owner, threepid.address))
        shown.append(ShownContact(contact_id, contact, list(marks.values())))
    return shown


def _add(txn: Transaction, user_id: str, new: Sequence[Contact], ids: Sequence[str], merge: bool) -> Outcome:
    keys = {key for contact in new for key in match_keys(contact, merge=merge)}
    present = {one.contact_id: stored_contact(one.body) for one in contacts.with_keys(txn, user_id, keys)}
    result = absorb(present, new, ids, merge=merge)
    contacts.delete(txn, user_id, sorted(result.gone))
    contacts.put(txn, user_id, [_stored(contact_id, contact) for contact_id, contact in result.changed.items()])
    _check_size(txn, user_id)
    return {
        "added": result.added,
        "duplicates": result.duplicates,
        "merged": [{"contact_id": contact_id, "reason": reason} for contact_id, reason in result.merges],
        "contact_ids": list(result.changed),
    }


def _replace(txn: Transaction, user_id: str, contact_id: str, contact: Contact) -> Outcome:
    if not contacts.find(txn, user_id, [contact_id]):
        raise _no_contact()
    contacts.put(txn, user_id, [_stored(contact_id, contact)])
    _check_size(txn, user_id)
    return {}


def _check_size(txn: Transaction, user_id: str) -> None:
    number, size = contacts.size(txn, user_id)
    if number > MOST_CONTACTS:
        raise TooLarge(f"An address book may have at most {MOST_CONTACTS} contacts.")
    if size > MOST_BYTES:
        raise TooLarge(f"An address book may have at most {MOST_BYTES} bytes.")


def _stored(contact_id: str, contact: Contact) -> StoredContact:
    return StoredContact(contact_id, contact.body(), contact.keys())


def _no_contact() -> NotFound:
    return NotFound("You have no such contact.")
