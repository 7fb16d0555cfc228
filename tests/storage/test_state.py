"""Snapshots of the state: right at every point, and small."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signedjson.key import generate_signing_key

from synapse_like.protocol.events import StateSlot
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.storage import events, rooms, state
from synapse_like.storage.connections import Connection
from synapse_like.storage.state import NOTHING, Snapshot
from synapse_like.storage.transactions import Transaction
from tests.support.building import Building

Changes = list[tuple[int, int | None]]


def add_snapshot(txn: Transaction, room_nid: int, parent: Snapshot, changes: dict[int, int | None]) -> Snapshot:
    """Place and fill a snapshot."""
    new = state.place_snapshot(txn, room_nid, after=parent)
    state.fill_snapshot(txn, new, changes)
    return new.snapshot


def write_history(txn: Transaction, room_nid: int, changes: Changes) -> tuple[list[int], list[dict[int, int]]]:
    """Make a snapshot per change; what each should hold, by simply doing it."""
    snapshot = NOTHING
    snapshots, models = [], []
    model: dict[int, int] = {}
    for slot, event_nid in changes:
        snapshot = add_snapshot(txn, room_nid, snapshot, {slot: event_nid})
        model = {key: value for key, value in {**model, slot: event_nid}.items() if value is not None}
        snapshots.append(snapshot.snapshot_id)
        models.append(model)
    return snapshots, models


def make_room(connection: Connection, name: str = "!room:here") -> int:
    return connection.transact(rooms.create, name, SPEC_2014, is_public=False).room_nid


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(1, 10**6)), min_size=1, max_size=300),
)
def test_every_snapshot_is_the_state_at_its_point(connection: Connection, changes: Changes) -> None:
    txn = connection.begin(writable=True)
    try:
        room_nid = rooms.create(txn, "!room:here", SPEC_2014, is_public=False).room_nid
        snapshots, models = write_history(txn, room_nid, changes)
        for snapshot, model in zip(snapshots, models, strict=True):
            assert state.at_snapshot(txn, snapshot) == model
            some = {slot: nid for slot, nid in model.items() if slot < 5}
            assert state.in_slots_at_snapshot(txn, snapshot, range(5)) == some
    finally:
        connection.roll_back(txn)


def test_ten_thousand_joins_take_a_few_rows_each(connection: Connection) -> None:
    """A copy of the state per change would be fifty million rows."""
    room_nid = make_room(connection)
    changes: Changes = [(slot, slot + 1) for slot in range(10_000)]
    snapshots, _ = connection.transact(write_history, room_nid, changes)

    def look(txn: Transaction) -> tuple[int, dict[int, int]]:
        (rows,) = txn.one("SELECT COUNT(*) FROM state_deltas") or (0,)
        return rows, state.at_snapshot(txn, snapshots[-1])

    rows, newest = connection.transact(look)
    assert len(newest) == 10_000
    assert rows <= 5 * 10_000


def test_no_chain_is_longer_than_fifteen_steps_for_each_power_of_sixteen() -> None:
    for height in (1, 15, 16, 255, 256, 4095, 4096, 65535, 10**6 - 1):
        steps, at = 0, height
        while at > 0:
            at -= state.reach(at)
            steps += 1
        powers = len(f"{height:x}")
        assert at == 0
        assert steps <= 15 * powers


def test_snapshots_can_fork(connection: Connection) -> None:
    room_nid = make_room(connection)

    def fork(txn: Transaction) -> tuple[dict[int, int], dict[int, int]]:
        base = add_snapshot(txn, room_nid, NOTHING, {1: 1})
        left = add_snapshot(txn, room_nid, base, {1: 2})
        right = add_snapshot(txn, room_nid, base, {2: 3})
        return state.at_snapshot(txn, left.snapshot_id), state.at_snapshot(txn, right.snapshot_id)

    assert connection.transact(fork) == ({1: 2}, {1: 1, 2: 3})


def test_deleting_a_room_leaves_no_state_behind(connection: Connection) -> None:
    room_nid, other = make_room(connection), make_room(connection, "!other:here")
    connection.transact(write_history, room_nid, [(n, n + 1) for n in range(40)])
    connection.transact(write_history, other, [(n, n + 1) for n in range(7)])
    connection.transact(state.delete_room, room_nid)
    counts = [
        connection.transact(lambda txn, table=table: txn.one(f"SELECT COUNT(*) FROM {table}"))
        for table in ("state_snapshots", "state_deltas")
    ]
    assert counts == [(7,), (7,)]


def test_whole_states_are_what_the_tables_say_however_much_of_them_is_in_memory(connection: Connection) -> None:
    site = Building(connection, "here", generate_signing_key("1"), SPEC_2014)
    alice, *others = [user_id for user_id, _ in site.add_users(f"user{number}" for number in range(40))]
    [room_id] = site.add_rooms(alice, 1)
    site.join(room_id, others)
    site.fork([room_id], alice, 5, with_state=True)

    def look(txn: Transaction) -> None:
        room = rooms.head(txn, room_id)
        assert room is not None
        without_topic = state.derive(txn, room.room_nid, room.snapshot, {("m.room.topic", ""): None})
        assert ("m.room.topic", "") not in state.ids_at(txn, without_topic.snapshot_id)
        snapshots = [row[0] for row in txn.all("SELECT snapshot_id FROM state_snapshots WHERE height >= 0")]
        for kept in ([], snapshots[::3], snapshots[-1:]):
            for snapshot in snapshots:
                txn.caches.clear()
                for other in kept:
                    state.ids_at(txn, other)
                assert state.ids_at(txn, snapshot) == as_the_tables_say(txn, snapshot)

    connection.transact(look)


def as_the_tables_say(txn: Transaction, snapshot_id: int) -> dict[StateSlot, str]:
    held = state.at_snapshot(txn, snapshot_id)
    slots = {row[0]: (row[1], row[2]) for row in txn.all("SELECT slot_id, type, state_key FROM state_slots")}
    event_ids = events.ids_of(txn, held.values())
    return {slots[slot]: event_ids[event_nid] for slot, event_nid in held.items()}


def test_of_a_fork_only_what_differs_is_read(connection: Connection) -> None:
    """In a room of thousands, each of twenty forks was read whole, for each event that came in one of them."""
    site = Building(connection, "here", generate_signing_key("1"), SPEC_2014)
    alice, *others = [user_id for user_id, _ in site.add_users(f"user{number}" for number in range(100))]
    [room_id] = site.add_rooms(alice, 1)
    site.join(room_id, others)
    connection.caches.clear()

    def fork(txn: Transaction) -> None:
        room = rooms.head(txn, room_id)
        assert room is not None
        whole = state.ids_at(txn, room.snapshot.snapshot_id)
        assert len(whole) > 100
        fork = state.derive(txn, room.room_nid, room.snapshot, {("m.room.topic", ""): None})
        before = txn.statements
        assert state.ids_at(txn, fork.snapshot_id) == whole
        assert txn.statements == before + 2
        # It is remembered within the transaction that has made it.
        assert state.ids_at(txn, fork.snapshot_id) is state.ids_at(txn, fork.snapshot_id)
        assert txn.statements == before + 2
        forks.append(fork.snapshot_id)
        raise ZeroDivisionError

    forks: list[int] = []
    with pytest.raises(ZeroDivisionError):
        connection.transact(fork)
    # What was rolled back has left its number to another one.
    assert connection.caches.of(state.STATES).get(forks[0]) is None
