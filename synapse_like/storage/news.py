"""News that other processes are told, by way of the log of commits (`shared/commit_log.py`).

News is a frozen record. One whose fields are plain is marked `@for_others`, and written and read field by field. One
that carries what the others have to read themselves says how: `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import Struct, convert, to_builtins

from synapse_like.storage.transactions import Transaction

News = TypeVar("News")

#: Whether somebody waits for what happens in a room, or to some users.
Wants = Callable[[str, Iterable[str]], bool]
#: Reads news of one kind, as far as somebody waits for it.
Read = Callable[[Transaction, Sequence[Any], Wants], Sequence[object]]


class _Kind(Struct, frozen=True):
    """How news of one kind is written (as JSON can say it), and read: several at once, in their order."""

    write: Callable[[Any], Any]
    read: Read


_kinds: dict[str, _Kind] = {}


def register(kind: type[News], write: Callable[[News], Any], read: Read) -> None:
    """Say how news of a kind is written, and read again from the log."""
    _kinds[kind.__name__] = _Kind(write, read)


def for_others(kind: type[News]) -> type[News]:
    """Mark a record of plain fields as news for other processes."""
    register(kind, to_builtins, lambda _, written, __: [convert(one, kind) for one in written])
    return kind


@for_others
class CommitInDoubt(Struct, frozen=True):
    """News: something may have been committed, or not, and nobody was told of it."""


def to_log(news: object) -> list[Any]:
    """News, as it stands in the log.

    :raises LookupError: it is not for others.
    """
    name = type(news).__name__
    return [name, _kinds[name].write(news)]


def from_log(txn: Transaction, written: Sequence[Sequence[Any]], wants: Wants = lambda *_: True) -> Iterator[object]:
    """News, as it stood in the log, in the same order.

    :param wants: whether somebody waits for what happens in a room, or to some users.
    """
    by_kind: dict[str, list[Any]] = {}
    for name, one in written:
        by_kind.setdefault(name, []).append(one)
    found = {name: iter(_kinds[name].read(txn, several, wants)) for name, several in by_kind.items()}
    return (next(found[name]) for name, _ in written)
