"""What goes into the next transaction to a server: the oldest of what waits, in the tables and in memory."""

from __future__ import annotations

from synapse_like.federation.outbox import Announced, Outbox, Parcel
from synapse_like.federation.transactions import MOST_EDUS, MOST_PDUS
from synapse_like.storage import destinations
from synapse_like.storage.database import Database
from synapse_like.storage.destinations import Waiting
from synapse_like.storage.transactions import Transaction


async def pack(database: Database, outbox: Outbox) -> Parcel:
    """Take the oldest of what waits; the tables are asked only for what is not in memory."""
    assert outbox.row is not None
    after, known = outbox.row.sent_up_to, outbox.known()
    if known is None:
        found = await _look(database, outbox, after)
    elif len(known) == 1 and known[0].pdu is not None and not outbox.has_lasting:
        found = Waiting([(known[0].position, known[0].pdu)], [], known[0].position, True, True)
    elif known or outbox.has_lasting:
        # Also here: what comes while the tables are read is not among what was read.
        had_lasting, outbox.has_lasting = outbox.has_lasting, False
        found = await database.read(
            "waiting-for-server", _read_known, outbox.server, known, outbox.edus_sent_up_to, had_lasting
        )
    else:
        found = Waiting([], [], after, True, True)
    return _parcel_of(outbox, found)


async def _look(database: Database, outbox: Outbox, after: int) -> Waiting:
    """Ask the tables what waits; what is announced meanwhile may be later than the answer, and is kept."""
    doubts = outbox.doubts
    outbox.announced.clear()
    outbox.has_lasting = False
    outbox.is_looking = True
    try:
        found = await database.read(
            "waiting-for-server",
            destinations.waiting,
            outbox.server,
            after=after,
            most_pdus=min(outbox.most, MOST_PDUS),
            edus_after=outbox.edus_sent_up_to,
            most_edus=MOST_EDUS,
        )
    finally:
        outbox.is_looking = False
    outbox.is_complete = found.is_all and outbox.doubts == doubts
    if not outbox.is_complete:
        outbox.announced.clear()
    return found


def _read_known(txn: Transaction, server: str, known: list[Announced], edus_after: int, has_lasting: bool) -> Waiting:
    """Read events of which it is known that they wait, and the oldest lasting EDUs."""
    pdus = destinations.events_for(txn, [(item.position, item.event_nid) for item in known])
    edus, are_all = (
        destinations.waiting_edus(txn, server, after=edus_after, most=MOST_EDUS) if has_lasting else ([], True)
    )
    return Waiting(pdus, edus, known[-1].position if known else 0, False, are_all)


def _parcel_of(outbox: Outbox, found: Waiting) -> Parcel:
    """Make a parcel of what waits in the tables and in memory: events first."""
    room = min(MOST_EDUS, outbox.most - len(found.pdus))
    lasting = found.edus[:room]
    if not found.are_all_edus or len(lasting) < len(found.edus):
        outbox.has_lasting = True
    passing = dict(list(outbox.passing.items())[: room - len(lasting)])
    return Parcel(
        [pdu for _, pdu in found.pdus],
        [*(edu for _, edu in lasting), *passing.values()],
        passing,
        found.up_to,
        lasting[-1][0] if lasting else 0,
    )
