"""Which files users have uploaded. The bytes lie in files, named by their hash (`handlers/content.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from synapse_like.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Content:
    """An uploaded file.

    :ivar sha256: of its bytes, in hexadecimal.
    :ivar size: in bytes.
    :ivar mimetype: as the uploader gave it.
    """

    content_id: str
    sha256: str
    size: int
    mimetype: str


def add(txn: Transaction, content: Content, *, user_id: str, now_ms: int) -> None:
    """Record an upload."""
    txn.execute(
        "INSERT INTO content (content_id, sha256, size, mimetype, user_id, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (content.content_id, content.sha256, content.size, content.mimetype, user_id, now_ms),
    )


def find(txn: Transaction, content_id: str) -> Content | None:
    """An uploaded file, or None."""
    row = txn.one("SELECT content_id, sha256, size, mimetype FROM content WHERE content_id = ?", (content_id,))
    return Content(*row) if row is not None else None
