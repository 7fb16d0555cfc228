"""The first answer to each idempotent request (API-4).

The answer is recorded in the transaction that does what was asked, so there is never the one without the other: not
after a crash, and not while a retransmit overtakes its original, since both go through the one writing thread; or
through those of two processes, of which one waits for the other's lane.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Concatenate, ParamSpec

import orjson
from msgspec import Struct

from synapse_like.protocol.errors import UnknownToken
from synapse_like.storage.engines.engine import Query
from synapse_like.storage.transactions import Transaction, asks_first

P = ParamSpec("P")
Outcome = dict[str, Any]

#: How long answers are kept at the least.
KEPT_MS = 24 * 60 * 60 * 1000


class Once(Struct, frozen=True):
    """Which request is to be done once.

    :ivar token_id: the access token that it came with.
    :ivar request: what it asks for and its transaction ID, unambiguously; None if it may be done more than once.
    :ivar now_ms: when it came.
    """

    token_id: int
    request: str | None
    now_ms: int


def _first(is_shared: bool, request: Once, *_: object) -> Query:
    """What asks whether a request was done, and whether its token is there."""
    # Whoever ends the token meanwhile waits for the end of this, or this for that.
    kept = " FOR KEY SHARE OF t" if is_shared else ""
    sql = (
        "SELECT r.result FROM access_tokens t LEFT JOIN retransmissions r"
        f" ON r.token_id = t.token_id AND r.request_hash = ? WHERE t.token_id = ?{kept}"
    )
    return sql, (_key(request), request.token_id)


def _key(request: Once) -> bytes:
    return blake2b((request.request or "").encode(), digest_size=16).digest()


@asks_first(_first)
def once(
    txn: Transaction,
    request: Once,
    function: Callable[Concatenate[Transaction, P], Outcome],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Outcome:
    """Run a storage function and record its outcome, or give the outcome of the first time.

    :raises UnknownToken: the access token was ended since the request came in.
    """
    key = _key(request)
    rows = txn.first(_first(txn.is_shared, request))
    if not rows:
        raise UnknownToken("This access token has been ended. Please log in again.")
    [row] = rows
    if row[0] is not None:
        first: Outcome = orjson.loads(row[0])
        return first
    done = txn.outcomes.get((request.token_id, key))
    if done is not None:
        return done[0]
    outcome = function(txn, *args, **kwargs)
    if request.request is not None:
        txn.outcomes[request.token_id, key] = outcome, request.now_ms
        txn.before_commit("outcomes", lambda: _record(txn))
    return outcome


def _record(txn: Transaction) -> None:
    """Write down what was done in a transaction, at its end."""
    for (token_id, key), (outcome, now_ms) in txn.outcomes.items():
        txn.execute_later(
            # The token may have been ended meanwhile, in the same transaction.
            "INSERT INTO retransmissions (token_id, request_hash, result, created_at)"
            " SELECT token_id, ?, ?, ? FROM access_tokens WHERE token_id = ?",
            (key, orjson.dumps(outcome).decode(), now_ms, token_id),
        )


def was_done(txn: Transaction, request: Once) -> bool:
    """Whether a request has been done, and its outcome recorded."""
    key = _key(request)
    if (request.token_id, key) in txn.outcomes:
        return True
    found = txn.one("SELECT 1 FROM retransmissions WHERE token_id = ? AND request_hash = ?", (request.token_id, key))
    return found is not None


def delete_old(txn: Transaction, *, now_ms: int) -> int:
    """Forget answers that are older than a day; the number of them."""
    return txn.execute("DELETE FROM retransmissions WHERE created_at < ?", (now_ms - KEPT_MS,)).rowcount
