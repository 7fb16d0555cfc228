"""How it stands with the servers that we send to, for an operator who asks (`federation status`)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from synapse_like.storage import destinations
from synapse_like.storage.destinations import MOST_COUNTED, Overview
from synapse_like.storage.transactions import Transaction

_HEADINGS = ("server", "events waiting", "other waiting", "failing since", "next try", "last error")
_NOTHING = "-"


def table(txn: Transaction, now_ms: int) -> list[str]:
    """The servers as lines of a table, those that fail or are behind first."""
    rows = sorted(destinations.overview(txn), key=_is_well)
    if not rows:
        return ["Nothing was ever to be sent to another server."]
    return aligned([_HEADINGS, *(_cells(row, now_ms) for row in rows)])


def _is_well(row: Overview) -> bool:
    return row.destination.failing_since is None and not row.waiting and not row.waiting_edus


def _cells(row: Overview, now_ms: int) -> tuple[str, ...]:
    destination = row.destination
    is_failing = destination.failing_since is not None
    return (
        destination.server,
        f"over {MOST_COUNTED}" if row.waiting > MOST_COUNTED else str(row.waiting),
        str(row.waiting_edus),
        moment(destination.failing_since),
        (moment(destination.retry_at) if (destination.retry_at or 0) > now_ms else "now") if is_failing else _NOTHING,
        " ".join((destination.last_error or _NOTHING).split()),
    )


def moment(at_ms: int | None) -> str:
    """A time, for the operator."""
    if at_ms is None:
        return _NOTHING
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns side by side; the last one is as wide as it likes."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
