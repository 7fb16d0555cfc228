"""What passes: news that is worth nothing in a minute, such as who is typing.

It leaves no trace in the tables, but stands in what PostgreSQL tells the other processes (`listener.py`). Who does not
hear it at the time never does.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from synapse_like.storage.engines.postgresql import CHANNEL, LONGEST_NOTICE
from synapse_like.storage.news import to_log
from synapse_like.storage.transactions import Transaction


def tell_passing(txn: Transaction, maker: str, news: Sequence[object]) -> None:
    """Tell the other processes, with the commit of a transaction, what leaves no trace.

    :param maker: the name of this process.
    """
    text = orjson.dumps([to_log(item) for item in news]).decode()
    # No character has more than four bytes.
    length = (LONGEST_NOTICE - 60) // 4 if not text.isascii() else LONGEST_NOTICE - 60
    parts = [text[start : start + length] for start in range(0, len(text), length)]
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        txn.one("SELECT pg_notify(?, ?)", (CHANNEL, f"{maker} {left} {part}"))
