"""Events that are known without a place in history: parts of auth chains, and of states that other servers tell.

They are judged by what they rest on, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from synapse_like.handlers.event_checks import CheckedEvent
from synapse_like.logs import get_logger
from synapse_like.protocol.authorisation import authorise, claimed_state
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event
from synapse_like.protocol.power_levels import CREATE
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import encode_pdu, to_pdu
from synapse_like.storage import events
from synapse_like.storage.events import Known, Standing
from synapse_like.storage.transactions import Transaction

_log = get_logger(__name__)


def check_claim(txn: Transaction, rules: RoomRules, event: Event, known: dict[str, Known]) -> None:
    """See that the events that an event rests on allow it.

    :param known: holds all of them.
    :raises AuthError: they do not.
    """
    cited = events.load(txn, [known[auth].event_nid for auth in event.auth_events])
    rejected = {auth for auth in event.auth_events if known[auth].standing is Standing.REJECTED}
    create = None
    if not rules.create_in_auth_events and event.type != CREATE[0]:
        found = events.find(txn, _id_of_creation(event))
        create = found.event if found is not None else None
    _check(rules, event, [stored.event for stored in cited], create, rejected)


def as_stored(txn: Transaction, item: CheckedEvent, known: Known) -> CheckedEvent:
    """An event that is here as an outlier, as it is here: it may have been redacted, or altered on the way to us; and
    where a server chooses the IDs of its events, it may have made two with the same."""
    [stored] = events.load(txn, [known.event_nid])
    return CheckedEvent(item.rules, stored.event, encode_pdu(to_pdu(item.rules, stored.event)), item.is_welcome)


def _check(
    rules: RoomRules, event: Event, cited: Sequence[Event], create: Event | None, rejected: Collection[str]
) -> None:
    if not event.prev_events and event.type != CREATE[0]:
        raise AuthError("Only the creation of a room comes after nothing.")
    authorise(rules, event, claimed_state(rules, event, cited, create=create, rejected=rejected))


def _id_of_creation(event: Event) -> str:
    """The ID of the event that made a room, where the room's ID is made of it."""
    return "$" + event.room_id[1:]


def store_outliers(txn: Transaction, room_nid: int, checked: Iterable[CheckedEvent]) -> dict[str, Standing]:
    """Store events of auth chains or states, each judged by what it rests on.

    What rests on an event that is not here is left out.

    :return: the standings of all events that they are, or rest on, and that are here then, by ID.
    """
    given = {item.event.event_id: item for item in checked}
    named = given.keys() | {auth for item in given.values() for auth in item.event.auth_events}
    if given:
        named |= {_id_of_creation(next(iter(given.values())).event)}
    known = events.known(txn, named)
    standings = {event_id: item.standing for event_id, item in known.items() if item.room_nid == room_nid}
    here = {event_id: stored.event for event_id, stored in events.by_ids(txn, standings).items()}
    new: list[tuple[Event, bytes, Standing]] = []
    for event_id in _causes_first(given):
        item = given[event_id]
        event = item.event
        if event_id in known or any(auth not in here for auth in event.auth_events):
            continue
        standing = Standing.ACCEPTED
        try:
            rejected = {auth for auth in event.auth_events if standings[auth] is Standing.REJECTED}
            _check(
                item.rules,
                event,
                [here[auth] for auth in event.auth_events],
                None if item.rules.create_in_auth_events else here.get(_id_of_creation(event)),
                rejected,
            )
        except AuthError as error:
            _log.warning("an event was rejected", event_id=event_id, reason=error.message)
            standing = Standing.REJECTED
        here[event_id], standings[event_id] = event, standing
        new.append((event, item.pdu, standing))
    events.insert_outliers(txn, room_nid, new)
    return standings


def _causes_first(given: dict[str, CheckedEvent]) -> list[str]:
    """Events in an order in which none comes before one that it rests on, as far as there is one.

    The creation of the room is the first, also where nobody needs to name it.
    """
    ordered: list[str] = []
    state: dict[str, bool] = {}
    for start in sorted(given, key=lambda event_id: (given[event_id].event.type != CREATE[0], event_id)):
        waiting = [start]
        while waiting:
            event_id = waiting[-1]
            if event_id in state:
                waiting.pop()
                if not state[event_id]:
                    state[event_id] = True
                    ordered.append(event_id)
                continue
            state[event_id] = False
            waiting += [auth for auth in given[event_id].event.auth_events if auth in given and auth not in state]
    return ordered
