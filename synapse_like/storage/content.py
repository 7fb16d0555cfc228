"""Which files there are: uploaded here, copied from other servers, and smaller pictures made of them (MEDIA-1).

The bytes lie in files named by their hash (`content_files.py`), each once, however many rows name it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct

from synapse_like.storage.transactions import Transaction
from synapse_like.storage.values import MOST_VALUES, batched, placeholders

_COLUMNS = "server, content_id, sha256, size, mimetype, filename, created_at"
_THUMBNAIL_COLUMNS = "source, width, height, method, sha256, size, mimetype"


class Content(Struct, frozen=True):
    """A file.

    :ivar server: whose it is; empty for ours.
    :ivar sha256: of its bytes, in hexadecimal.
    :ivar size: in bytes.
    :ivar mimetype: as the uploader gave it.
    :ivar filename: as the uploader gave it.
    """

    server: str
    content_id: str
    sha256: str
    size: int
    mimetype: str
    filename: str | None
    created_at: int


class Thumbnail(Struct, frozen=True):
    """A smaller picture of a file.

    :ivar source: the hash of the file.
    :ivar method: `scale` or `crop`.
    """

    source: str
    width: int
    height: int
    method: str
    sha256: str
    size: int
    mimetype: str


class Selection(Struct, frozen=True):
    """Files to be purged; what is None does not matter.

    :ivar server: whose; empty for ours, "*" for those of all other servers.
    :ivar user_id: who has uploaded them.
    :ivar created_before: in ms.
    :ivar unused_since: in ms; for copies.
    """

    server: str | None = None
    content_id: str | None = None
    user_id: str | None = None
    created_before: int | None = None
    unused_since: int | None = None


class Usage(Struct, frozen=True):
    """How much there is.

    :ivar bytes: on the disk; a file that several rows name counts once.
    """

    count: int
    bytes: int


def add(txn: Transaction, content: Content, *, user_id: str | None) -> Content:
    """Record a file; what is recorded now, which is another one if it was there already."""
    known = find(txn, content.server, content.content_id)
    if known is not None:
        return known
    txn.execute(
        f"INSERT INTO content ({_COLUMNS}, user_id, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(content.server, content.content_id, content.sha256, content.size, content.mimetype, content.filename),
            *(content.created_at, user_id, content.created_at),
        ),
    )
    return content


def find(txn: Transaction, server: str, content_id: str) -> Content | None:
    """A file, or None."""
    row = txn.one(f"SELECT {_COLUMNS} FROM content WHERE server = ? AND content_id = ?", (server, content_id))
    return Content(*row) if row is not None else None


def select(txn: Transaction, wanted: Selection) -> list[Content]:
    """The files that a selection means, oldest first."""
    conditions, values = ["TRUE"], list[object]()

    def also(condition: str, value: object) -> None:
        if value is not None:
            conditions.append(condition)
            values.append(value)

    if wanted.server == "*":
        conditions.append("server <> ''")
    else:
        also("server = ?", wanted.server)
    also("content_id = ?", wanted.content_id)
    also("user_id = ?", wanted.user_id)
    also("created_at < ?", wanted.created_before)
    also("last_used < ?", wanted.unused_since)
    rows = txn.all(f"SELECT {_COLUMNS} FROM content WHERE {' AND '.join(conditions)} ORDER BY created_at", values)
    return [Content(*row) for row in rows]


def used_by(txn: Transaction, user_id: str) -> int:
    """Bytes of all that a user has uploaded."""
    row = txn.one("SELECT COALESCE(SUM(size), 0) FROM content WHERE user_id = ?", (user_id,))
    assert row is not None, "a sum is always there"
    return int(row[0])


def note_uses(txn: Transaction, used: Sequence[tuple[str, str, int]]) -> None:
    """Note when copies were last used: server, content ID, and the time in ms."""
    for server, content_id, now_ms in used:
        txn.execute(
            "UPDATE content SET last_used = ? WHERE server = ? AND content_id = ? AND last_used < ?",
            (now_ms, server, content_id, now_ms),
        )


def longest_unused(txn: Transaction, limit: int) -> list[Content]:
    """Copies of other servers' files, the one first that was used longest ago."""
    rows = txn.all(
        f"SELECT {_COLUMNS} FROM content WHERE server <> '' ORDER BY last_used, content_id LIMIT ?", (limit,)
    )
    return [Content(*row) for row in rows]


# Thumbnails.


def thumbnails_of(txn: Transaction, source: str) -> list[Thumbnail]:
    """The smaller pictures of a file, oldest first."""
    rows = txn.all(
        f"SELECT {_THUMBNAIL_COLUMNS} FROM content_thumbnails WHERE source = ?"
        " ORDER BY created_at, width, height, method",
        (source,),
    )
    return [Thumbnail(*row) for row in rows]


def add_thumbnail(txn: Transaction, thumbnail: Thumbnail, *, now_ms: int) -> Thumbnail | None:
    """Record a smaller picture; what is recorded now, which is another one if it was there already.

    None if the file that it is of has gone meanwhile.
    """
    if txn.one("SELECT 1 FROM content WHERE sha256 = ? LIMIT 1", (thumbnail.source,)) is None:
        return None
    wanted = (thumbnail.width, thumbnail.height, thumbnail.method)
    for known in thumbnails_of(txn, thumbnail.source):
        if (known.width, known.height, known.method) == wanted:
            return known
    txn.execute(
        f"INSERT INTO content_thumbnails ({_THUMBNAIL_COLUMNS}, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (thumbnail.source, *wanted, thumbnail.sha256, thumbnail.size, thumbnail.mimetype, now_ms),
    )
    return thumbnail


def delete_thumbnail(txn: Transaction, thumbnail: Thumbnail) -> None:
    """Forget a smaller picture."""
    txn.execute(
        "DELETE FROM content_thumbnails WHERE source = ? AND width = ? AND height = ? AND method = ?",
        (thumbnail.source, thumbnail.width, thumbnail.height, thumbnail.method),
    )


# Hashes.


def hashes_of(txn: Transaction, content: Content) -> set[str]:
    """The hashes of all the files that may go with this one: its own, and those of its smaller pictures."""
    return {content.sha256} | {thumbnail.sha256 for thumbnail in thumbnails_of(txn, content.sha256)}


def delete(txn: Transaction, content: Content) -> None:
    """Forget a file, and its smaller pictures if nothing else names the same bytes."""
    txn.execute(
        "DELETE FROM content WHERE server = ? AND content_id = ? AND sha256 = ?",
        (content.server, content.content_id, content.sha256),
    )
    txn.execute(
        "DELETE FROM content_thumbnails WHERE source = ?"
        " AND NOT EXISTS (SELECT 1 FROM content WHERE content.sha256 = content_thumbnails.source)",
        (content.sha256,),
    )


def unnamed(txn: Transaction, hashes: Collection[str]) -> set[str]:
    """Those of some hashes that no row names."""
    named: set[str] = set()
    for part in batched(sorted(hashes), MOST_VALUES // 2):
        marks = placeholders(part)
        sql = (
            f"SELECT sha256 FROM content WHERE sha256 IN ({marks})"
            f" UNION SELECT sha256 FROM content_thumbnails WHERE sha256 IN ({marks})"
        )
        named |= {row[0] for row in txn.all(sql, [*part, *part])}
    return set(hashes) - named


def sizes_by_hash(txn: Transaction, start: str) -> dict[str, int]:
    """The hashes that rows name and that start with some letters, with the size of their files."""
    rows = txn.all(
        "SELECT sha256, size FROM content WHERE sha256 >= ? AND sha256 < ?"
        " UNION SELECT sha256, size FROM content_thumbnails WHERE sha256 >= ? AND sha256 < ?",
        # All letters of hashes come before this one.
        (start, start + "g", start, start + "g"),
    )
    return {row[0]: int(row[1]) for row in rows}


def naming(txn: Transaction, sha256: str) -> tuple[list[Content], list[Thumbnail]]:
    """The rows that name a hash."""
    contents = txn.all(f"SELECT {_COLUMNS} FROM content WHERE sha256 = ?", (sha256,))
    thumbnails = txn.all(f"SELECT {_THUMBNAIL_COLUMNS} FROM content_thumbnails WHERE sha256 = ?", (sha256,))
    return [Content(*row) for row in contents], [Thumbnail(*row) for row in thumbnails]


# How much there is.


def usage(txn: Transaction, *, copies: bool) -> Usage:
    """How many files our users have uploaded, or how many copies of others' there are."""
    where = "server <> ''" if copies else "server = ''"
    return _usage(txn, f"SELECT sha256, size FROM content WHERE {where}")


def thumbnail_usage(txn: Transaction, *, copies: bool) -> Usage:
    """How many smaller pictures there are: those of copies only, or all others."""
    is_ours = "EXISTS (SELECT 1 FROM content WHERE content.sha256 = content_thumbnails.source AND server = '')"
    where = f"NOT {is_ours}" if copies else is_ours
    return _usage(txn, f"SELECT sha256, size FROM content_thumbnails WHERE {where}")


def copied_bytes(txn: Transaction) -> int:
    """Bytes of copies of other servers' files with the smaller pictures of them."""
    return usage(txn, copies=True).bytes + thumbnail_usage(txn, copies=True).bytes


def users_with_most(txn: Transaction, limit: int) -> list[tuple[str, int, int]]:
    """Who has uploaded most: user ID, number of files, bytes."""
    rows = txn.all(
        "SELECT user_id, COUNT(*), SUM(size) FROM content WHERE user_id IS NOT NULL"
        " GROUP BY user_id ORDER BY SUM(size) DESC, user_id LIMIT ?",
        (limit,),
    )
    return [(row[0], int(row[1]), int(row[2])) for row in rows]


def _usage(txn: Transaction, rows: str) -> Usage:
    count = txn.one(f"SELECT COUNT(*) FROM ({rows}) AS named")
    total = txn.one(
        f"SELECT COALESCE(SUM(size), 0) FROM (SELECT DISTINCT sha256, size FROM ({rows}) AS named) AS files"
    )
    assert count is not None
    assert total is not None
    return Usage(int(count[0]), int(total[0]))
