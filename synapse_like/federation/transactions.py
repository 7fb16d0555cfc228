"""Transactions: how PDUs and EDUs travel (FED-2, FED-5).

The ID of a transaction begins with the position of the stream of events up to which its receiver has everything once it
has taken it. So `/pull` can go on after a transaction that is remembered nowhere.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

import orjson

from synapse_like.protocol.canonical_json import decode, may_hold_long_integer
from synapse_like.protocol.errors import BadParam
from synapse_like.protocol.request_signing import encode_content

#: Of a transaction, at the most (FED-3).
MOST_PDUS = 50
MOST_EDUS = 100

_ID_BYTES = 9
_ID = re.compile(r"([0-9]{1,18})-[A-Za-z0-9_-]+")


def make_transaction_id(position: int) -> str:
    """An ID that was never used before.

    :param position: up to which the receiver has everything once it has taken the transaction.
    """
    return f"{position}-{secrets.token_urlsafe(_ID_BYTES)}"


def position_of(transaction_id: str) -> int:
    """The position in the ID of a transaction of ours.

    :raises BadParam: it is none.
    """
    match = _ID.fullmatch(transaction_id)
    if match is None:
        raise BadParam(f"{transaction_id[:100]!r} is not a transaction of this server.")
    return int(match[1])


def encode_edu(origin: str, destination: str, edu_type: str, content: dict[str, Any]) -> bytes:
    """The wire form of an EDU.

    :raises CanonicalJsonError: there is no JSON for its content.
    """
    return encode_content({"edu_type": edu_type, "origin": origin, "destination": destination, "content": content})


def transaction_body(
    transaction_id: str,
    *,
    origin: str,
    destination: str,
    now_ms: int,
    previous: str | None,
    pdus: Sequence[bytes],
    edus: Sequence[bytes],
) -> dict[str, Any]:
    """The body of a transaction; what it carries is not encoded again.

    :param previous: the ID of the last transaction that the receiver took.
    :param pdus: in canonical JSON, as are `edus`.
    """
    embed = _embedder([*pdus, *edus])
    return {
        "transaction_id": transaction_id,
        "ts": now_ms,
        "origin_server_ts": now_ms,
        "origin": origin,
        "destination": destination,
        "prev_ids": [previous] if previous is not None else [],
        "pdus": [embed(pdu) for pdu in pdus],
        "edus": [embed(edu) for edu in edus],
    }


def _embedder(parts: Sequence[bytes]) -> Any:
    """What puts encoded JSON into a body.

    An integer of more than 64 bits in any part changes how the receiver must write the whole for the signature, floats
    elsewhere included. So then all of it is encoded anew, as the receiver will.
    """
    return decode if any(map(may_hold_long_integer, parts)) else orjson.Fragment
