"""Events that are known without a place in history: parts of auth chains, and of states that other servers tell.

They are judged by what they rest on, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from synapse_like.handlers.event_checks import CheckedEvent
from synapse_like.logs import get_logger
from synapse_like.protocol.authorisation import authorise, claimed_state
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event
from synapse_like.protocol.power_levels import CREATE
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.storage import events
from synapse_like.storage.database import Transaction
from synapse_like.storage.events import Known, Standing

_log = get_logger(__name__)


def check_claim(txn: Transaction, rules: RoomRules, event: Event, known: dict[str, Known]) -> None:
    """See that the events that an event rests on allow it.

    :param known: holds all the events that it rests on.
    :raises AuthError: they do not allow it.
    """
    cited = events.load(txn, [known[auth].event_nid for auth in event.auth_events])
    rejected = {auth for auth in event.auth_events if known[auth].standing is Standing.REJECTED}
    create = None
    if not rules.create_in_auth_events and event.type != CREATE[0]:
        found = events.find(txn, "$" + event.room_id[1:])
        create = found.event if found is not None else None
    state = claimed_state(rules, event, [stored.event for stored in cited], create=create, rejected=rejected)
    authorise(rules, event, state)


def store_outliers(txn: Transaction, room_nid: int, checked: Iterable[CheckedEvent]) -> dict[str, Known]:
    """Store events of auth chains or states, each judged by what it rests on.

    What rests on an event that is not here is left out.

    :return: by ID, those that are here then.
    """
    given = {item.event.event_id: item for item in checked}
    known = events.known(txn, given.keys() | {auth for item in given.values() for auth in item.event.auth_events})
    for event_id in _causes_first(given):
        item = given[event_id]
        event = item.event
        if event_id in known or any(auth not in known for auth in event.auth_events):
            continue
        standing = Standing.ACCEPTED
        try:
            if any(known[auth].room_nid != room_nid for auth in event.auth_events):
                raise AuthError("The event rests on events of another room.")
            check_claim(txn, item.rules, event, known)
        except AuthError as error:
            _log.warning("an event was rejected", event_id=event_id, reason=error.message)
            standing = Standing.REJECTED
        stored = events.insert(
            txn, room_nid, event, item.pdu, place=None, snapshot_before=None, snapshot_after=None, standing=standing
        )
        known[event_id] = Known(stored.event_nid, room_nid, None, None, standing)
    return known


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
