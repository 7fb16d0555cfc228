"""Tables of address books, and of what users do not want (BOOK-1, SEC-9)."""

from __future__ import annotations

from synapse_like.storage import accounts, contacts, unwanted
from synapse_like.storage.connections import Connection
from synapse_like.storage.contacts import StoredContact
from synapse_like.storage.transactions import Transaction

ALICE, BOB = "@alice:example.org", "@bob:example.org"
EMAIL = "email:bob@example.org"


def _people(txn: Transaction) -> None:
    for user_id in (ALICE, BOB):
        accounts.create(txn, user_id, password_hash=None, now_ms=0)


def _book(*contact_ids: str) -> list[StoredContact]:
    return [StoredContact(one, {"name": one}, frozenset([f"named:{one}", EMAIL])) for one in contact_ids]


def test_contacts_are_found_by_their_keys_and_are_their_users(connection: Connection) -> None:
    run = connection.transact
    run(_people)
    run(contacts.put, ALICE, _book("a", "b"))
    run(contacts.put, BOB, _book("a"))
    assert [one.contact_id for one in run(contacts.with_keys, ALICE, [EMAIL, "named:x"])] == ["a", "b"]
    assert [one.contact_id for one in run(contacts.with_keys, ALICE, ["named:b"])] == ["b"]
    run(contacts.put, ALICE, [StoredContact("b", {"name": "B"}, frozenset(["named:other"]))])
    assert run(contacts.with_keys, ALICE, ["named:b"]) == []
    assert run(contacts.find, ALICE, ["b"]) == [StoredContact("b", {"name": "B"})]
    assert run(contacts.size, ALICE)[0] == 2
    assert run(contacts.delete, ALICE, ["a", "x"]) == 1
    assert run(contacts.delete_all, ALICE) == 1
    assert run(contacts.size, ALICE) == (0, 0)
    assert run(contacts.size, BOB)[0] == 1


def test_owner_of_an_address_is_among_the_contacts_while_it_is_known(connection: Connection) -> None:
    run = connection.transact
    run(_people)
    run(contacts.put, ALICE, _book("a"))
    assert not run(contacts.has_user, ALICE, BOB)
    run(contacts.set_owners, {EMAIL: BOB, "email:nobody@example.org": None}, 1000)
    assert run(contacts.has_user, ALICE, BOB)
    assert not run(contacts.has_user, BOB, ALICE)
    assert run(contacts.owners, [EMAIL, "email:x@example.org"]) == {EMAIL: (BOB, 1000)}
    run(contacts.set_owners, {EMAIL: None}, 2000)
    assert not run(contacts.has_user, ALICE, BOB)
    assert run(contacts.forget_owners, 2000) == 1
    assert run(contacts.owners, [EMAIL]) == {EMAIL: (None, 2000)}


def test_closed_account_keeps_nothing_of_its_own(connection: Connection) -> None:
    run = connection.transact
    run(_people)
    run(contacts.put, ALICE, _book("a"))
    run(unwanted.ignore, ALICE, {BOB})
    run(unwanted.set_policy, ALICE, "nobody")
    assert run(unwanted.ignores, ALICE, BOB)
    run(accounts.deactivate, ALICE, now_ms=1)
    assert run(contacts.all_of, ALICE) == []
    assert run(contacts.with_keys, ALICE, [EMAIL]) == []
    assert run(unwanted.ignored_by, ALICE) == frozenset()
    assert run(unwanted.policy_of, ALICE) == unwanted.EVERYONE
