"""Events as other servers get them: as they are stored, neither decoded nor encoded again."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from synapse_like.storage import events
from synapse_like.storage.transactions import Transaction


def fragments(txn: Transaction, event_ids: Iterable[str]) -> list[orjson.Fragment]:
    """The PDUs of some events, for an answer in JSON."""
    return [orjson.Fragment(pdu) for pdu in events.pdus(txn, event_ids).values()]


def auth_chain(txn: Transaction, event_ids: Iterable[str]) -> list[str]:
    """The IDs of all events that some events rest on, of what these rest on, and so on.

    :param event_ids: in the chain themselves only if others of them rest on them.
    """
    chain: set[str] = set()
    looked_at: set[str] = set()
    waiting = set(event_ids)
    while waiting:
        looked_at |= waiting
        cited = {auth for named in events.auth_events(txn, sorted(waiting)).values() for auth in named}
        chain |= cited
        waiting = cited - looked_at
    return sorted(chain)
