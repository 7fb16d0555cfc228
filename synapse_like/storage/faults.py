"""What may be wrong with what is kept, whatever kind of server keeps it (`verify`)."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from synapse_like.storage.transactions import Transaction


class Fault(Struct, frozen=True):
    """Something that is not as it must be.

    :ivar where: what it is about: an event, room, statement, stream, file.
    :ivar is_derived: whether it can be mended.
    """

    where: str
    sentence: str
    is_derived: bool = False


def check_streams(txn: Transaction, highest: Mapping[str, str]) -> list[Fault]:
    """Streams that would give out a position twice.

    :param highest: for each stream a query for where its highest positions stand.
    """
    return [
        Fault(f"stream {stream}", f"it stands at {told}, and {taken} is taken", is_derived=True)
        for stream, (told, taken) in _streams_behind(txn, highest).items()
    ]


def mend_streams(txn: Transaction, highest: Mapping[str, str]) -> None:
    """Have them go on behind what is taken."""
    for stream, (_, taken) in _streams_behind(txn, highest).items():
        txn.execute(
            "INSERT INTO stream_positions (stream, position) VALUES (?, ?)"
            " ON CONFLICT (stream) DO UPDATE SET position = excluded.position",
            (stream, taken),
        )


def _streams_behind(txn: Transaction, highest: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """What each stream says that is behind, and what is taken."""
    told: dict[str, int] = dict(txn.all("SELECT stream, position FROM stream_positions"))
    behind = {}
    for stream, query in highest.items():
        taken = max((row[0] for row in txn.all(query) if row[0] is not None), default=0)
        if taken > told.get(stream, 0):
            behind[stream] = (told.get(stream, 0), taken)
    return behind
