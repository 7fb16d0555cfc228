"""Whether what is stored holds together (`synapse_like verify`): what can be computed from something else is.

Events are looked at in the order of their numbers, rooms in that of theirs, each batch in a transaction of its own, so
that it may take long, beside a running server, and memory does not grow. What is derived can be derived anew
(`mend_room`); what somebody said cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from msgspec import Struct, field
from signedjson.types import VerifyKey

from synapse_like.handlers import room_state
from synapse_like.handlers.outliers import check_claim
from synapse_like.protocol.authorisation import auth_types_for, authorise
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import AuthError, MatrixError, SignatureError
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.hashes import check_content_hash
from synapse_like.protocol.identifiers import domain_of
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules, rules_for
from synapse_like.protocol.server_keys import verify_key
from synapse_like.protocol.signing import signers_of, verify_pdu
from synapse_like.protocol.state_resolution import MissingEvents
from synapse_like.protocol.wire_formats import read_pdu
from synapse_like.storage import events, membership, rooms, server_keys, state
from synapse_like.storage import verification as stored
from synapse_like.storage.events import GAP, Known, Standing
from synapse_like.storage.faults import Fault
from synapse_like.storage.state import MEMBER
from synapse_like.storage.transactions import Transaction
from synapse_like.storage.verification import EventRow, HeadRow

Keys = Mapping[str, VerifyKey]


class Checked(Struct):
    """What became of some events.

    :ivar up_to: the number of the last of them.
    :ivar unsigned: how many have a signature that cannot be checked, since the key is not known here.
    """

    up_to: int
    count: int = 0
    unsigned: int = 0
    faults: list[Fault] = field(default_factory=list)


class EventVerification:
    """Looks at events.

    :param own: our keys, by ID, those that sign no more included.
    """

    def __init__(self, server_name: str, own: Keys) -> None:
        self._own = (server_name, own)

    def check(self, txn: Transaction, after: int, limit: int) -> Checked:
        """Look at the first events behind a number."""
        rows = stored.events_after(txn, after, limit)
        checked = Checked(rows[-1].event_nid if rows else after, len(rows))
        keys: dict[str, Keys] = {self._own[0]: self._own[1]}
        heads: dict[int, frozenset[str]] = {}
        for row in rows:
            rules = rules_for(row.version)
            try:
                pdu = cast(Pdu, decode(row.pdu))
                event = read_pdu(rules, pdu)
            except (MatrixError, ValueError, KeyError, TypeError, AttributeError) as error:
                checked.faults.append(Fault(row.event_id, f"it cannot be read: {type(error).__name__}: {error}"))
                continue
            sentences = [*_what_is_wrong(row, rules, event, pdu)]
            try:
                if not _is_signed(txn, rules, event, pdu, keys):
                    checked.unsigned += 1
            except MatrixError as error:
                sentences.append(f"it is not well signed: {error.message}")
            sentences += _state_faults(txn, row, rules, event, pdu)
            if row.standing is Standing.ACCEPTED and row.snapshot_after is not None:
                followed = _newest(txn, row.room_nid, heads).intersection(event.prev_events)
                sentences += [f"it comes after {other}, which is said to be a newest event" for other in followed]
            checked.faults += [Fault(row.event_id, sentence) for sentence in sentences]
        return checked


def _what_is_wrong(row: EventRow, rules: RoomRules, event: Event, pdu: Pdu) -> Iterable[str]:
    if event.event_id != row.event_id:
        yield f"its ID should be {event.event_id}"
    if event.room_id != row.room_id:
        yield f"it is of the room {event.room_id} and stands in {row.room_id}"
    # What was redacted, or altered on its way to us, has only that left which was signed.
    if not check_content_hash(rules, pdu) and redact_pdu(rules, pdu) != pdu:
        yield "its content is not what was hashed"


def _is_signed(txn: Transaction, rules: RoomRules, event: Event, pdu: Pdu, keys: dict[str, Keys]) -> bool:
    """See that an event has the signatures that it must have; False if the keys of a signer are not known here.

    :raises MatrixError: it has not.
    """
    is_known = True
    for server in signers_of(rules, event):
        if server not in keys:
            keys[server] = {
                key.key_id: verify_key(key.key_id, key.verify_key) for key in server_keys.of_server(txn, server)
            }
        by_server = pdu.get("signatures", {}).get(server, {})
        usable = [keys[server][key_id] for key_id in by_server if key_id in keys[server]]
        if not by_server:
            raise SignatureError(f"There is no signature of {server}.")
        for key in usable:
            verify_pdu(rules, pdu, server, key)
        is_known = is_known and bool(usable)
    return is_known


def _state_faults(txn: Transaction, row: EventRow, rules: RoomRules, event: Event, pdu: Pdu) -> Iterable[str]:
    """What is wrong with the states before and after an event, and with what allows it."""
    if row.snapshot_after is None or row.snapshot_before is None:
        # What was fetched of the past stands between what came in time, and has no state here.
        is_of_the_past = row.place is not None and row.place % GAP and row.snapshot_before == row.snapshot_after
        if row.place is not None and not is_of_the_past:
            yield "it is shown, and the state at it is not known"
        return
    snapshots = {row.snapshot_before, row.snapshot_after} - {0}
    missing = [number for number in snapshots if stored.missing_snapshot(txn, number) is not None]
    if missing:
        yield f"the state at it cannot be put together: snapshot {missing[0]}"
        return
    if event.is_state and row.standing is not Standing.REJECTED:
        slot = state.slot_id(txn, event.state_slot)
        held = {} if slot is None else state.in_slots_at_snapshot(txn, row.snapshot_after, [slot])
        if slot is None or held.get(slot) != row.event_nid:
            yield "it is not part of the state after it"
    elif row.snapshot_after != row.snapshot_before:
        yield "it changes the state, and may not"
    if row.standing is Standing.REJECTED or (redact_pdu(rules, pdu) == pdu and not check_content_hash(rules, pdu)):
        # Rejected anyhow; or what it said is gone, by which it was judged.
        return
    known = events.known(txn, event.auth_events)
    absent = [event_id for event_id in event.auth_events if event_id not in known]
    if absent:
        yield f"{absent[0]}, on which it rests, is not here"
        return
    if not _are_whole(txn, known):
        return
    try:
        check_claim(txn, rules, event, known)
        numbers = [n for slot in auth_types_for(rules, event) if (n := state.slot_id(txn, slot)) is not None]
        seen = state.in_slots_at_snapshot(txn, row.snapshot_before, numbers) if row.snapshot_before else {}
        before = events.load(txn, list(seen.values()))
        if all(item.redacted_because is None for item in before):
            authorise(rules, event, {item.event.state_slot: item.event for item in before})
    except AuthError as error:
        yield f"it is not allowed: {error.message}"


def _are_whole(txn: Transaction, known: Mapping[str, Known]) -> bool:
    """Whether none of some events was redacted since: then they no longer say what they allowed."""
    return all(item.redacted_because is None for item in events.load(txn, [one.event_nid for one in known.values()]))


def _newest(txn: Transaction, room_nid: int, heads: dict[int, frozenset[str]]) -> frozenset[str]:
    if room_nid not in heads:
        head = stored.head_of(txn, room_nid)
        heads[room_nid] = frozenset(events.ids_of(txn, head.extremities).values() if head is not None else ())
    return heads[room_nid]


# Rooms.


def check_room(txn: Transaction, head: HeadRow, server_name: str) -> list[Fault]:
    """What is wrong with where a room stands: its newest events, its state, who is in it."""
    found = []
    newest = _extremities(txn, head)
    if newest is None:
        return [Fault(head.room_id, "its newest events are not here, or nothing they could be")]
    if stored.missing_snapshot(txn, head.snapshot_id) is not None:
        return [Fault(head.room_id, "its state cannot be put together", is_derived=True)]
    told = state.ids_at(txn, head.snapshot_id)
    should = _resolved(txn, head, newest)
    if should is not None and dict(told) != dict(should):
        found.append(Fault(head.room_id, "its state is not that of its newest events", is_derived=True))
    if stored.current_rows(txn, head.room_nid) != _current(txn, head.snapshot_id):
        found.append(Fault(head.room_id, "its current state is not that of its head", is_derived=True))
    elif stored.stays(txn, head.room_nid) != _servers(txn, head.room_nid, server_name):
        found.append(Fault(head.room_id, "the other servers in it are not those of its members", is_derived=True))
    return found


def mend_room(txn: Transaction, head: HeadRow, server_name: str) -> None:
    """Derive anew what `check_room` found wrong and can be derived."""
    newest = _extremities(txn, head)
    assert newest is not None, "only what is derived is mended"
    room = rooms.head(txn, head.room_id)
    assert room is not None, "the room is known"
    if stored.missing_snapshot(txn, head.snapshot_id) is not None:
        room.snapshot = state.snapshot(txn, newest[0])
    should = _resolved(txn, head, newest)
    if should is not None and dict(state.ids_at(txn, room.snapshot.snapshot_id)) != dict(should):
        rooms.advance(txn, room, room.extremities, room_state.keep(txn, room, should, [room.snapshot]))
    else:
        rooms.advance(txn, room, room.extremities, room.snapshot)
    stored.replace_current(txn, head.room_nid, _current(txn, room.snapshot.snapshot_id))
    rooms.forget_state(room)
    room.servers = room.is_inhabited = None
    there, told = _servers(txn, head.room_nid, server_name), stored.stays(txn, head.room_nid)
    position = events.current_position(txn)
    for server in sorted(there.keys() | told.keys()):
        if there.get(server, 0) != told.get(server, 0):
            stored.set_stay(
                txn, head.room_nid, server, there.get(server, 0), is_new=server not in told, position=position
            )


def _extremities(txn: Transaction, head: HeadRow) -> list[int] | None:
    """The snapshots after the newest events of a room; None if one of these cannot be that."""
    ids = events.ids_of(txn, head.extremities)
    known = events.known(txn, ids.values()).values()
    is_well = len(known) == len(head.extremities) > 0 and all(
        item.room_nid == head.room_nid and item.snapshot_after is not None and item.standing is Standing.ACCEPTED
        for item in known
    )
    return [item.snapshot_after for item in known if item.snapshot_after is not None] if is_well else None


def _resolved(txn: Transaction, head: HeadRow, snapshots: Sequence[int]) -> Mapping[tuple[str, str], str] | None:
    """The state of the newest events together; None if what decides is not here."""
    ends = [state.ids_at(txn, number) for number in sorted(set(snapshots))]
    if len(ends) == 1:
        return ends[0]
    rules = rooms.rules_of(txn, head.room_id)
    assert rules is not None, "the room is known"
    try:
        return room_state.resolve_ids(txn, rules, ends)
    except MissingEvents:
        return None


def _current(txn: Transaction, snapshot_id: int) -> dict[int, tuple[int, str | None]]:
    """What the current state of a room must be."""
    held = state.at_snapshot(txn, snapshot_id)
    slots = {number: item for item in _members(txn, held.values()) for number in [item[0]]}
    return {slot: (event_nid, slots[event_nid][1] if event_nid in slots else None) for slot, event_nid in held.items()}


def _members(txn: Transaction, event_nids: Collection[int]) -> Iterable[tuple[int, str]]:
    for item in events.load(txn, list(event_nids), remember=False):
        if item.event.type == MEMBER:
            yield item.event_nid, str(item.event.content["membership"])


def _servers(txn: Transaction, room_nid: int, server_name: str) -> dict[str, int]:
    """The other servers whose users are joined, by the current state, and how many."""

    joined = Counter(domain_of(user) for user in membership.users_in_room(txn, room_nid) if ":" in user)
    joined.pop(server_name, None)
    return dict(joined)
