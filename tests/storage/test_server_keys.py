"""The keys of other servers, as they are kept (FED-9)."""

from __future__ import annotations

from synapse_like.storage import server_keys
from synapse_like.storage.connections import Connection
from synapse_like.storage.server_keys import MOST_KEYS, StoredKey

NAME = "a.example"


def key(name: str, *, valid_until: int = 1000, is_old: bool = False, relayed_by: str | None = None) -> StoredKey:
    return StoredKey(name, name.encode(), valid_until, is_old, relayed_by, 10)


def told(connection: Connection, *keys: StoredKey, now: int = 10, answer: str = "{}") -> list[StoredKey]:
    return connection.transact(server_keys.replace, NAME, keys, answer, valid_until=1000, now_ms=now)


def relayed(connection: Connection, *keys: StoredKey) -> list[StoredKey]:
    return connection.transact(server_keys.add_relayed, NAME, keys)


def known(connection: Connection, name: str = NAME) -> dict[str, StoredKey]:
    return {key.key_id: key for key in connection.transact(server_keys.of_server, name)}


def test_keys_come_back_as_they_were_told(connection: Connection) -> None:
    keys = [key("1"), key("0", valid_until=5, is_old=True)]
    given = told(connection, *keys)
    assert sorted(given, key=str) == sorted(keys, key=str)
    assert known(connection) == {"1": keys[0], "0": keys[1]}
    assert known(connection, "b.example") == {}


def test_key_that_is_told_no_more_stopped_then(connection: Connection) -> None:
    told(connection, key("1"), key("2", valid_until=20))
    told(connection, key("3"), now=500)
    assert {name: (of_name.valid_until, of_name.is_old) for name, of_name in known(connection).items()} == {
        "1": (500, True),
        "2": (20, True),
        "3": (1000, False),
    }


def test_key_may_be_told_anew(connection: Connection) -> None:
    told(connection, key("1"))
    told(connection, key("1", valid_until=2000))
    assert known(connection) == {"1": key("1", valid_until=2000)}


def test_relayed_keys_go_when_the_server_itself_speaks(connection: Connection) -> None:
    assert relayed(connection, key("1", relayed_by="b.example")) == [key("1", relayed_by="b.example")]
    told(connection, key("2"))
    assert known(connection) == {"2": key("2")}


def test_relayed_keys_take_no_place_of_those_of_the_server_itself(connection: Connection) -> None:
    told(connection, key("1"))
    relayed(connection, key("1", valid_until=9999, relayed_by="b.example"), key("2", relayed_by="b.example"))
    assert known(connection) == {"1": key("1"), "2": key("2", relayed_by="b.example")}
    # Those of another relay do.
    relayed(connection, key("2", relayed_by="c.example"))
    assert known(connection)["2"].relayed_by == "c.example"


def test_keys_of_one_server_are_bounded_and_the_longest_valid_stay(connection: Connection) -> None:
    for start in range(0, MOST_KEYS + 60, 20):
        told(connection, *(key(f"k{number}", valid_until=number, is_old=True) for number in range(start, start + 20)))
    relayed(connection, *(key(f"r{number}", valid_until=number, relayed_by="b.example") for number in range(100)))
    names = known(connection)
    assert len(names) == MOST_KEYS
    assert f"k{MOST_KEYS + 59}" in names
    assert "k0" not in names


def test_newest_answer_is_kept_to_be_passed_on(connection: Connection) -> None:
    assert connection.transact(server_keys.answer_of, NAME) is None
    told(connection, key("1"), answer='{"a":1}')
    told(connection, key("1"), answer='{"a":2}')
    relayed(connection, key("2", relayed_by="b.example"))
    assert connection.transact(server_keys.answer_of, NAME) == ('{"a":2}', 1000)
