"""What users tell of themselves, as it is stored."""

from __future__ import annotations

import pytest

from synapse_like.protocol.profiles import PRIVATE, PUBLIC
from synapse_like.storage import accounts, profiles
from synapse_like.storage.connections import Connection
from synapse_like.storage.profiles import Profile, ProfileField
from synapse_like.storage.transactions import Transaction

ALICE, BOB = "@alice:here", "@bob:here"


@pytest.fixture(autouse=True)
def _people(connection: Connection) -> None:
    for user_id in (ALICE, BOB):
        assert connection.transact(accounts.create, user_id, password_hash=None, now_ms=1)


def tell(connection: Connection, user_id: str, field: str, value: object, visibility: str = PUBLIC) -> None:
    connection.transact(profiles.put, user_id, ProfileField(field, value, visibility))


def test_a_profile_is_that_of_its_user(connection: Connection) -> None:
    assert connection.transact(profiles.find, ALICE) == Profile()
    tell(connection, ALICE, "displayname", "Alice")
    tell(connection, BOB, "avatar_url", "http://b")
    tell(connection, BOB, "age", 36)
    assert connection.transact(profiles.find, ALICE) == Profile("Alice", None)
    assert connection.transact(profiles.find, BOB) == Profile(None, "http://b")
    assert connection.transact(profiles.find, "@nobody:here") == Profile()


@pytest.mark.parametrize("value", ["a\0b", "\U0001f9ff", 2**70, 1.5, None, False, {"a": ["ü", {}]}])
def test_any_json_comes_back_as_it_was(connection: Connection, value: object) -> None:
    tell(connection, ALICE, "org.example.ü", value)
    [told] = connection.transact(profiles.fields, ALICE)
    assert told == ProfileField("org.example.ü", value, PUBLIC)
    assert type(told.value) is type(value)


def test_a_field_is_replaced_with_its_visibility_and_deleted_alone(connection: Connection) -> None:
    tell(connection, ALICE, "phone", "1")
    tell(connection, ALICE, "age", 36)
    tell(connection, ALICE, "age", 37, PRIVATE)
    assert connection.transact(profiles.fields, ALICE) == [
        ProfileField("age", 37, PRIVATE),
        ProfileField("phone", "1", PUBLIC),
    ]
    connection.transact(profiles.delete, ALICE, "phone")
    assert connection.transact(profiles.fields, ALICE) == [ProfileField("age", 37, PRIVATE)]


def test_telling_goes_on_where_it_was_and_begins_anew_with_each_change(connection: Connection) -> None:
    def steps(txn: Transaction) -> None:
        assert profiles.untold(txn) is None
        profiles.begin_telling(txn, ALICE)
        profiles.told(txn, ALICE, 7)
        assert profiles.untold(txn, ALICE) == (ALICE, 7)
        assert profiles.untold(txn, BOB) is None
        profiles.begin_telling(txn, BOB)
        # Who is farthest behind comes first.
        assert profiles.untold(txn) == (BOB, 0)
        profiles.told(txn, BOB, None)
        assert profiles.untold(txn) == (ALICE, 7)
        profiles.begin_telling(txn, ALICE)
        assert profiles.untold(txn) == (ALICE, 0)

    connection.transact(steps)
